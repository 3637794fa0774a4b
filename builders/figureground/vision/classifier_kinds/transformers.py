"""Image classifiers that transformers opens: a directory, a Hub id, or the bundled one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from figureground.core.errors import FiguregroundError, join_names
from figureground.core.registry import Registry
from figureground.models.bundled import ROBUST
from figureground.models.classifier_files import POCKET, ClassifierKind
from figureground.models.need import Need
from figureground.models.needs import missing_model, refuse_absent_model
from figureground.models.opening import refuse_code
from figureground.models.weights import fingerprint_files
from figureground.vision.model_files import download, read_model_type

if TYPE_CHECKING:
    from figureground.vision.classifiers import Classifier

SETTINGS = ("config.json", "preprocessor_config.json")
"""Files of a directory that affect a classifier's output, besides its weights."""
MODEL_TYPES: Registry[Callable[[Path, str, Mapping[str, Any]], Classifier]] = Registry(
    "figureground.classifiers", "type of classifier",
    {"figureground-disentangled": "figureground.disentangling.model:open_as_classifier"},
    lambda _, entry: None if callable(entry) else "is no function",
)  # fmt: skip
"""Functions that open a directory whose `config.json` has that `model_type`, given its path, the classifier's name and
facts for provenance. All other directories are opened by transformers."""


class TransformersKind(ClassifierKind):
    """A directory or a Hub id."""

    KIND: ClassVar[str] = "transformers"

    def on_hub(self, rest: str) -> bool:
        return not Path(rest).expanduser().exists()

    def identify(self, rest: str, revision: str | None) -> str:
        path = Path(rest).expanduser()
        return fingerprint_files(path) if path.exists() else f"{rest}@{revision or 'main'}"

    def refuse_absent(self, field: str, rest: str) -> None:
        refuse_absent_model(field, rest)

    def needs(self, field: str, rest: str, revision: str | None) -> list[Need]:
        return missing_model(field, rest, revision)

    def open(self, rest: str, revision: str | None) -> Classifier:
        from figureground.vision.robust_weights import SUFFIXES

        path = Path(rest).expanduser()
        if path.is_dir():
            return _open_directory(path, path.resolve().name, {})
        if rest.startswith((".", "/", "~")) or rest.count("/") != 1 or path.suffix in SUFFIXES:
            raise FiguregroundError(
                f"classifier: file or directory {rest!r} doesn't exist. Give 'pocket', a transformers directory, a Hub "
                "id 'user/name', 'timm:NAME', 'onnx:FILE', or a .safetensors, .pt or .pth file of ResNet weights."
            )
        folder = download("classifier", rest, revision, ("*.json", "*.safetensors"))
        return _open_directory(folder, rest, {"revision": folder.name})


class PocketKind(ClassifierKind):
    """`pocket`, the bundled robust network for the drawn world."""

    KIND: ClassVar[str] = POCKET

    def identify(self, rest: str, revision: str | None) -> str:
        return fingerprint_files(ROBUST) if ROBUST.exists() else f"{POCKET}@main"

    def refuse_absent(self, field: str, rest: str) -> None:
        if rest:
            raise FiguregroundError(f"{field}: 'pocket:{rest}': 'pocket' takes no id. Give 'pocket' alone.")

    def open(self, rest: str, revision: str | None) -> Classifier:
        self.refuse_absent("classifier", rest)
        if not (ROBUST / "config.json").is_file():
            raise FiguregroundError(
                "classifier: the pocket's robust network is missing from this install. Reinstall figureground."
            )
        return _open_directory(ROBUST, POCKET, {"robust": True})


def _open_directory(folder: Path, name: str, facts: dict[str, Any]) -> Classifier:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForImageClassification

    from figureground.models.opening import open_network
    from figureground.vision.classifiers import Classifier
    from figureground.vision.model_files import check_weights, hash_files
    from figureground.vision.preprocessing import read_preprocessing

    if not (folder / "config.json").is_file():
        raise FiguregroundError(f"classifier {name!r} is not a transformers directory: it has no config.json.")
    if (model_type := read_model_type(folder)) in MODEL_TYPES:
        refuse_code(folder, f"classifier {name!r}")
        return MODEL_TYPES[model_type](folder, name, facts)
    check_weights(folder, "classifier", name, "AutoModelForImageClassification")
    try:
        network, info = open_network(
            AutoModelForImageClassification, folder, f"classifier {name!r}", dtype=torch.float32,
            output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        text = str(error)
        if "Unrecognized configuration class" in text or "for this kind of AutoModel" in text:
            raise FiguregroundError(
                f"classifier {name!r} is not an image classifier that transformers supports."
            ) from error
        first = (text.splitlines() or [type(error).__name__])[0]
        raise FiguregroundError(f"classifier {name!r} doesn't open: {first}") from error
    if info["missing_keys"]:
        raise FiguregroundError(
            f"classifier {name!r} is not a complete image classifier: its weights lack "
            f"{join_names(sorted(info['missing_keys']), 2)}."
        )
    config = network.config
    size = getattr(config, "image_size", None) or 224
    return Classifier(
        network,
        read_preprocessing(folder, name),
        [str(config.id2label[i]) for i in range(config.num_labels)],
        name,
        {
            "architecture": type(network).__name__,
            "robust": getattr(config, "robust", None),
            "sha256": hash_files([*folder.glob("*.safetensors"), *(folder / name for name in SETTINGS)]),
            **facts,
        },
        edge=int(size if isinstance(size, int) else max(size)),
    )
