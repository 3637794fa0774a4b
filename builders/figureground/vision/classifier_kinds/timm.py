"""Networks of timm: `timm:NAME`, or `timm:local-dir:PATH` for a directory that timm saved."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from figureground.core import libraries
from figureground.core.errors import FiguregroundError
from figureground.core.extras import explain_missing
from figureground.core.lfs import is_pointer
from figureground.models.classifier_files import ClassifierKind
from figureground.models.need import Need
from figureground.models.needs import LOCAL, TIMM, missing_packages, refuse_missing_package, timm_directory
from figureground.models.opening import make_timm, refuse_code
from figureground.models.weights import fingerprint_files

if TYPE_CHECKING:
    from figureground.vision.classifiers import Classifier


class TimmKind(ClassifierKind):
    """`timm:NAME`, or `timm:local-dir:PATH`."""

    KIND: ClassVar[str] = "timm"

    def identify(self, rest: str, revision: str | None) -> str:
        folder = timm_directory(f"{TIMM}{rest}")
        return f"{TIMM}{rest}@main" if folder is None or not folder.is_dir() else fingerprint_files(folder)

    def refuse_absent(self, field: str, rest: str) -> None:
        name = f"{TIMM}{rest}"
        folder = timm_directory(name)
        if folder is not None and not (folder / "config.json").is_file():
            raise FiguregroundError(
                f"{field}: {name!r}: there is no {str(folder / 'config.json')!r}. Give a directory that timm saved: "
                "timm.models.save_for_hf(model, 'DIR')."
            )
        refuse_missing_package(field, name, "timm")

    def needs(self, field: str, rest: str, revision: str | None) -> list[Need]:
        folder = timm_directory(f"{TIMM}{rest}")
        folder_needs = [] if folder is None or folder.is_dir() else [Need(field, f"no such directory: {str(folder)!r}")]
        return [*folder_needs, *missing_packages(field, ["timm"])]

    def open(self, rest: str, revision: str | None) -> Classifier:
        from figureground.vision.classifiers import Classifier, make_labels
        from figureground.vision.preprocessing import read_timm

        name = f"{TIMM}{rest}"
        if problem := libraries.hide_mismatched_torchvision():
            raise FiguregroundError(f"classifier {name!r} needs torchvision: {problem}")
        try:
            import timm.data
        except ImportError as error:
            raise explain_missing("timm", f"classifier {name!r}", error) from error
        model_name, folder = rest, timm_directory(name)
        if folder is not None:
            _check_timm(folder, name)
            model_name, name = f"{LOCAL}{folder}", f"{TIMM}{folder.resolve().name}"
        try:
            network = make_timm(model_name, pretrained=True)
        except Exception as error:  # timm raises errors from many sources
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise FiguregroundError(f"classifier {name!r} doesn't open: {first}") from error
        settings = timm.data.resolve_model_data_config(network)
        try:
            preprocessing = read_timm(settings)
        except FiguregroundError as error:
            raise FiguregroundError(f"classifier {name!r}: {error}") from None
        config = getattr(network, "pretrained_cfg", None) or {}
        labels = config.get("label_names") or make_labels(network.num_classes)
        hasher = hashlib.sha256()
        for key, tensor in sorted(network.state_dict().items()):
            hasher.update(f"{key}\0".encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        hasher.update(json.dumps(settings, sort_keys=True, default=str).encode())
        facts = {
            "architecture": config.get("architecture") or type(network).__name__,
            "robust": None,
            "sha256": hasher.hexdigest(),
        }
        return Classifier(network.float(), preprocessing, [str(label) for label in labels], name, facts)


def _check_timm(folder: Path, name: str) -> None:
    """Refuse a directory of timm's that names code, or whose weights aren't safetensors, which timm opens first."""
    refuse_code(folder, f"classifier {name!r}")
    weights = folder / "model.safetensors"
    if not weights.is_file() or is_pointer(weights):
        raise FiguregroundError(
            f"classifier {name!r}: its model.safetensors is {'a Git LFS pointer' if weights.is_file() else 'missing'}. "
            "Pickles are not opened. If you trust them, save the network again: "
            "timm.models.save_for_hf(model, 'DIR', safe_serialization=True)."
        )
