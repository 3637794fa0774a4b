"""Names of segmenters, and what they name, without opening any model.

A name is `KIND:REST`, the kind alone, or else the directory or Hub id of a CLIPSeg. Another package adds a kind with an
entry point in the group `figureground.segmenters`: a subclass of `SegmenterKind`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from figureground.core.registry import Registry, check_subclass
from figureground.models.weights import fingerprint_files

if TYPE_CHECKING:
    from figureground.models.need import Need

POCKET = "pocket"
"""Name of the bundled segmenter."""
BOXES, MASKS = "grounding-dino:", "+sam:"
"""Prefix of a detector's name, and separator between it and the model that segments its detections."""


class SegmenterKind(ABC):
    """A kind of segmenters: what a name of this kind means. Its module needs no torch."""

    KIND: ClassVar[str]
    """The text before the colon in names."""
    READS_PHRASES: ClassVar[bool] = True
    """Whether it finds what a phrase names, rather than whatever stands out."""

    def models(self, rest: str) -> list[str]:
        """Return the models that a name's part after the colon names.

        Raises:
            FiguregroundError: The part is incomplete.
        """
        return [rest]

    def called(self, rest: str) -> str:
        """Return the whole name, fit for publication: without the folders in which models lie."""
        return f"{self.KIND}:{Path(rest).name}"

    def contents(self, rest: str) -> list[str]:
        """Return each model's identity: a hash of a local one's content, else its id.

        Raises:
            FiguregroundError: A model isn't named, or can't be used.
        """
        return [_identify_model(model) for model in self.models(rest)]

    def refuse_absent(self, field: str, rest: str) -> None:
        """Refuse models that are missing or unusable, before any work and without torch.

        Args:
            field: The setting or option, for errors.

        Raises:
            FiguregroundError: The check failed.
        """

    def needs(self, field: str, rest: str) -> list[Need]:
        """Return what this machine lacks."""
        return []

    @abstractmethod
    def open(self, rest: str, device: Any) -> Any:
        """Open the segmenter, a `vision.segmentation.Segmenter`, on a device such as `cuda:1`.

        Raises:
            FiguregroundError: A model is missing, unreachable, of another kind, or damaged.
        """


SEGMENTERS: Registry[type[SegmenterKind]] = Registry(
    "figureground.segmenters", "segmenter",
    {
        POCKET: "figureground.vision.segmenters.clipseg:PocketKind",
        "clipseg": "figureground.vision.segmenters.clipseg:ClipsegKind",
        "grounding-dino": "figureground.vision.segmenters.grounded_sam:GroundedSamKind",
        "onnx": "figureground.vision.segmenters.onnx:OnnxKind",
    },
    check_subclass(SegmenterKind, "KIND"),
)  # fmt: skip
"""Kinds of segmenters by name."""


def find_kind(name: str) -> tuple[SegmenterKind, str]:
    """Return the kind of a segmenter's name, and the rest of the name."""
    kind, colon, rest = name.partition(":")
    if kind in SEGMENTERS and (colon or kind == POCKET):
        return SEGMENTERS[kind](), rest
    return SEGMENTERS["clipseg"](), name


def format_public_name(name: str) -> str:
    """Return a segmenter's name fit for publication: directories are reduced to their own name."""
    kind, rest = find_kind(name)
    return kind.called(rest)


def identify_models(name: str) -> list[str]:
    """Return each model's identity: `sha256:…` over the files of a directory or the bundled model, else the id."""
    kind, rest = find_kind(name)
    return kind.contents(rest)


def shorten_name(model: str) -> str:
    """Return a model's name; for a directory, its last part."""
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else model


def _identify_model(model: str) -> str:
    path = Path(model).expanduser()
    return fingerprint_files(path) if path.is_dir() else model
