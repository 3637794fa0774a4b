"""A backbone with separated features and a head for each label, saved and opened as a directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from figureground.core.errors import FiguregroundError
from figureground.core.files import FileError, read_object
from figureground.disentangling.learner import Heads
from figureground.disentangling.parts import KINDS, Parting
from figureground.disentangling.trunk import Trunk, open_trunk
from figureground.learn.inference import as_array, prepare_images
from figureground.vision.classifiers import Classifier
from figureground.vision.model_files import hash_files

MODEL_TYPE = "figureground-disentangled"
"""`model_type` in the directory's `config.json`, by which `evaluate --classifier` knows it."""
CONFIG, WEIGHTS, BACKBONE = "config.json", "separation.safetensors", "backbone"
FORMAT = 1
"""Version of the directory."""


class Disentangled(nn.Module):
    """A model with two parts of features and two heads.

    Args:
        trunk: The backbone.
        parting: Map from its features to the two parts.
        heads: Classifiers of the foreground and of the background.
        foregrounds: Names of the foreground labels, in the order of the logits.
        backgrounds: Names of the background labels.
        facts: What made it, for `config.json`; JSON-serialisable.
    """

    def __init__(
        self, trunk: Trunk, parting: Parting, heads: Heads, foregrounds: Sequence[str], backgrounds: Sequence[str],
        facts: Mapping[str, Any],
    ):  # fmt: skip
        super().__init__()
        self.trunk, self.parting, self.heads = trunk, parting, heads
        self.foregrounds, self.backgrounds = tuple(foregrounds), tuple(backgrounds)
        self.facts = dict(facts)
        self.eval()

    @torch.no_grad()
    def features(self, images: Sequence[Image.Image] | Tensor) -> tuple[Tensor, Tensor]:
        """Return the foreground features and the background features of images.

        Args:
            images: Images of any mode and size; or pixels, uint8 (n, 3, h, w), red, green, blue. They are resized and
                normalised as the backbone needs.

        Returns:
            float32 (n, f) and float32 (n, b), on the model's device. Erasures give both parts all dimensions.
        """
        device = next(self.parameters()).device
        if isinstance(images, Tensor):
            pixels = self.trunk.backbone.prepare(images, device)
        else:
            arrays = [as_array(image, 0) for image in images]
            pixels = prepare_images(self.trunk.backbone, arrays, device)
        foreground, background = self.parting(self.trunk(pixels))
        return foreground, background

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return foreground logits and background logits of the backbone's preprocessed input, (n, 3, h, w)."""
        foreground, background = self.parting(self.trunk(inputs))
        return self.heads.foreground(foreground), self.heads.background(background)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the model into a new directory, atomically: `config.json`, `separation.safetensors` and `backbone/`.

        Raises:
            FiguregroundError: The directory exists and holds something else.
        """
        from safetensors.torch import save_file

        folder = Path(folder)
        if folder.exists() and not _is_ours(folder) and (folder.is_file() or any(folder.iterdir())):
            raise FiguregroundError(f"{folder} holds something else and was left as it is. Give a new directory.")
        draft = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        self.trunk.save(draft / BACKBONE)
        kind = type(self.parting).__name__.lower()
        config = {
            "model_type": MODEL_TYPE, "format": FORMAT, "foregrounds": list(self.foregrounds),
            "backgrounds": list(self.backgrounds), "parting": {"kind": kind, **self.parting.sizes()}, **self.facts,
        }  # fmt: skip
        (draft / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        state = {
            f"{name}.{key}": value.detach().cpu().contiguous()
            for name, module in (("parting", self.parting), ("heads", self.heads))
            for key, value in module.state_dict().items()
        }
        save_file(state, draft / WEIGHTS)
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> Disentangled:
        """Open a model that `save_pretrained` wrote, on the CPU.

        Raises:
            FiguregroundError: The directory isn't one of them, or a file is missing or damaged.
        """
        return open_model(folder)


def open_model(folder: Path | str) -> Disentangled:
    """Open a model; see `Disentangled.from_pretrained`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        config = read_object(folder / CONFIG)
    except (OSError, FileError) as error:
        raise FiguregroundError(f"{folder} isn't a model of figureground disentangle: {error}") from None
    if config.get("model_type") != MODEL_TYPE:
        raise FiguregroundError(
            f"{folder} isn't a model of figureground disentangle: the model_type in its {CONFIG} is "
            f"{config.get('model_type')!r}. Give a directory METHOD-seed-N of a run."
        )
    trunk = open_trunk(folder / BACKBONE)
    try:
        sizes = dict(config["parting"])
        parting = KINDS[sizes.pop("kind")](**sizes)
        foregrounds, backgrounds = config["foregrounds"], config["backgrounds"]
        heads = Heads(parting.widths, (len(foregrounds), len(backgrounds)), 0)
        state = load_file(folder / WEIGHTS)
        for name, module in (("parting", parting), ("heads", heads)):
            module.load_state_dict({
                key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")
            })  # fmt: skip
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FiguregroundError(f"{folder} is damaged ({reason}). Run figureground disentangle again.") from error
    facts = {
        name: value for name, value in config.items()
        if name not in ("model_type", "format", "foregrounds", "backgrounds", "parting")
    }  # fmt: skip
    return Disentangled(trunk, parting, heads, foregrounds, backgrounds, facts)


def _is_ours(folder: Path) -> bool:
    try:
        return read_object(folder / CONFIG).get("model_type") == MODEL_TYPE
    except (OSError, FileError):
        return False


class Foreground(nn.Module):
    """The classifier of the foreground: its last layer reads the foreground features alone."""

    def __init__(self, model: Disentangled):
        super().__init__()
        self.trunk, self.parting, self.head = model.trunk, model.parting, model.heads.foreground

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits, float32 (n, foregrounds)."""
        logits: Tensor = self.head(self.parting(self.trunk(inputs))[0])
        return logits


def open_as_classifier(folder: Path, name: str, facts: Mapping[str, Any]) -> Classifier:
    """Open a saved model as a classifier of the foreground, whose features are the foreground part.

    `vision.classifiers.open_classifier` calls this for a directory with its `model_type`.
    """
    model = open_model(folder)
    backbone = model.trunk.backbone
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix in (".json", ".safetensors")]
    return Classifier(
        Foreground(model), backbone.preprocessing, model.foregrounds, name,
        {"architecture": "Disentangled", "robust": None, "sha256": hash_files(paths), **facts},
        edge=int(np.max(backbone.size)),
    )  # fmt: skip
