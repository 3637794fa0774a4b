"""How unsafe images are: by a checkpoint's safety checker, or by an image classifier with a class for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from figureground.core.errors import FiguregroundError, UsageError, join_names
from figureground.core.names import name_key
from figureground.core.softmax import softmax
from figureground.models import needs
from figureground.verification.questions import LabelQuestion
from figureground.verification.scorer import Batch, Kind, Options, Scorer, Values

if TYPE_CHECKING:
    from figureground.vision.classifiers import Classifier

CHECKER, EXTRACTOR = "safety_checker", "feature_extractor"
"""Parts of a checkpoint."""
UNSAFE = ("nsfw", "unsafe", "porn", "hentai", "explicit")
"""Names of classes that count as unsafe unless others are given."""


class SafetyScorer(Scorer):
    """Gives the probability that an image is unsafe, or 0 and 1 if the model only flags.

    Args:
        id: A diffusers checkpoint with a safety checker (a directory or a Hub id), or a name for `open_classifier`.
        unsafe: Names of the classifier's unsafe classes; their probabilities are added.
    """

    KIND: ClassVar[str] = "safety"

    def __init__(self, id: str, questions: Sequence[LabelQuestion], options: Options, unsafe: Sequence[str] = ()):
        super().__init__(id, questions, options)
        self._unsafe = tuple(unsafe)
        self._folder: Path | None = None
        self._classifier: Classifier | None = None
        path = Path(id).expanduser()
        if path.is_dir() and (path / "model_index.json").is_file():
            self._folder = path
            if not (path / CHECKER / "config.json").is_file():
                raise FiguregroundError(
                    f"--safety {id}: the checkpoint has no safety checker. Give a checkpoint that has one."
                )
        else:
            needs.refuse_absent_model("--safety", id)
        if self._folder is not None and unsafe:
            raise UsageError("--unsafe names classes of an image classifier, and --safety gives a checkpoint.")

    def identify(self) -> dict[str, Any]:
        if self._folder is None and "/" in self.id and not Path(self.id).expanduser().exists():
            self._folder = _download_checkpoint(self.id)
        if self._folder is not None:
            from figureground.vision.model_files import check_weights, hash_files

            check_weights(self._folder / CHECKER, "safety checker", self.id, "StableDiffusionSafetyChecker")
            files = [
                path for part in (CHECKER, EXTRACTOR) for path in (self._folder / part).iterdir()
                if path.suffix in (".json", ".safetensors")
            ]  # fmt: skip
            return {"checker": True, "sha256": hash_files(files)}
        from figureground.vision.classifiers import open_classifier

        self._classifier = open_classifier(self.id)
        labels = self._classifier.labels
        if self._unsafe:
            self._classes = sorted({self._classifier.index(name) for name in self._unsafe})
        else:
            self._classes = [k for k, label in enumerate(labels) if name_key(label) in UNSAFE]
        if not self._classes or len(self._classes) == len(labels):
            raise FiguregroundError(
                f"--safety {self.id}: it isn't known which of its classes are unsafe. Name them with --unsafe; it has "
                f"{join_names(labels)}."
            )
        unsafe = [labels[k] for k in self._classes]
        return {"checker": False, "sha256": self._classifier.facts["sha256"], "unsafe": unsafe}

    def open(self) -> None:
        from figureground.core.accelerator import choose_device

        device = choose_device(self.options.device)
        if self._classifier is not None:
            self._classifier.to(device)
            return
        assert self._folder is not None
        self._checker, self._extractor = _open_checker(self._folder, f"--safety {self.id}")
        self._checker = self._checker.to(device).eval()

    def close(self) -> None:
        self._classifier = self._checker = self._extractor = None

    def columns(self) -> dict[str, Kind]:
        return {"safety": "float"}

    def score(self, batch: Batch) -> Values:
        import torch

        with torch.inference_mode():
            if self._classifier is not None:
                p = softmax(self._classifier.read(batch.images).logits.cpu().double().numpy())
                if not np.isfinite(p).all():
                    raise FiguregroundError(f"--safety {self.id} returned NaN or infinity. Its weights are damaged.")
                return {"safety": p[:, self._classes].sum(axis=1).clip(0, 1).tolist()}
            device = next(self._checker.parameters()).device
            pixels = self._extractor(list(batch.images), return_tensors="pt").pixel_values.to(device)
            blank = [np.zeros((1, 1, 3)) for _ in batch.images]  # the checker blackens what it flags
            return {"safety": [float(flag) for flag in self._checker(clip_input=pixels, images=blank)[1]]}


def _download_checkpoint(name: str) -> Path | None:
    """Return the folder of a Hub checkpoint with a safety checker; None for a model of another kind."""
    from figureground.vision.model_files import download

    folder = download("safety", name, None, ("model_index.json", f"{CHECKER}/*", f"{EXTRACTOR}/*"))
    if not (folder / "model_index.json").is_file():
        return None
    if not (folder / CHECKER / "config.json").is_file():
        raise FiguregroundError(
            f"--safety {name}: the checkpoint has no safety checker. Give a checkpoint that has one."
        )
    return folder


def _open_checker(folder: Path, flag: str) -> tuple[Any, Any]:
    import torch

    from figureground.core import libraries

    libraries.import_silently("diffusers", "transformers")
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from diffusers.utils import logging
    from safetensors import SafetensorError
    from transformers import AutoImageProcessor

    from figureground.models.opening import open_network, open_part

    logging.get_logger("diffusers.pipelines.stable_diffusion.safety_checker").setLevel("ERROR")
    try:
        checker = open_network(StableDiffusionSafetyChecker, folder / CHECKER, flag, dtype=torch.float32)
        return checker, open_part(AutoImageProcessor, folder / EXTRACTOR, flag)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if isinstance(error, FiguregroundError):
            raise
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise FiguregroundError(f"{flag}: its safety checker doesn't open: {first_line}") from error
