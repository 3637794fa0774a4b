"""Names of classifiers and backbones, and what they name, without opening any model.

A name is `KIND:REST`, the kind alone, or else the directory, file or Hub id of a network, without a prefix. Another
package adds a kind with an entry point in the group `figureground.classifier_kinds`: a subclass of `ClassifierKind`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from figureground.core.registry import Registry, check_subclass

if TYPE_CHECKING:
    from figureground.models.need import Need

POCKET = "pocket"
"""Name of the bundled robust network, and of the backbone that is trained from scratch."""


class ClassifierKind(ABC):
    """A kind of classifiers: what a name of this kind means. Its module needs no torch."""

    KIND: ClassVar[str]
    """The text before the colon in names."""
    GIVES_FEATURES: ClassVar[bool] = True
    """Whether it gives features and gradients besides logits."""
    NEEDS_CLASSES: ClassVar[bool] = False
    """Whether it is opened with a list of classes, as only `evaluate` does."""

    def on_hub(self, rest: str) -> bool:
        """Whether the part after the colon is a Hub id, of which a revision may be given."""
        return False

    @abstractmethod
    def identify(self, rest: str, revision: str | None) -> str:
        """Return an identity for recipes: `sha256:…` of a local network's content, else its id and revision.

        Raises:
            FiguregroundError: A file can't be used.
        """

    def refuse_absent(self, field: str, rest: str) -> None:
        """Refuse a network that is missing or unusable, before any work and without torch.

        Args:
            field: The setting or option, for errors.

        Raises:
            FiguregroundError: The check failed.
        """

    def needs(self, field: str, rest: str, revision: str | None) -> list[Need]:
        """Return what this machine lacks.

        Raises:
            UsageError: The network is here, but unusable.
        """
        return []

    @abstractmethod
    def open(self, rest: str, revision: str | None) -> Any:
        """Open the network on the CPU, as a `vision.classifiers.Classifier`.

        Raises:
            FiguregroundError: It is missing, unreachable, of another kind, or damaged.
        """


CLASSIFIERS: Registry[type[ClassifierKind]] = Registry(
    "figureground.classifier_kinds", "kind of classifier",
    {
        POCKET: "figureground.vision.classifier_kinds.transformers:PocketKind",
        "transformers": "figureground.vision.classifier_kinds.transformers:TransformersKind",
        "timm": "figureground.vision.classifier_kinds.timm:TimmKind",
        "onnx": "figureground.vision.classifier_kinds.onnx:OnnxKind",
        "weights": "figureground.vision.classifier_kinds.weights:WeightsKind",
        "clip": "figureground.vision.classifier_kinds.zero_shot:ZeroShotKind",
    },
    check_subclass(ClassifierKind, "KIND"),
)  # fmt: skip
"""Kinds of classifiers by name."""
UNPREFIXED = ("transformers", "weights")
"""Kinds whose names have no prefix: a directory or Hub id, and a file."""


def find_kind(name: str) -> tuple[ClassifierKind, str]:
    """Return the kind of a classifier's name, and the rest of the name."""
    kind, colon, rest = name.partition(":")
    if kind in CLASSIFIERS and kind not in UNPREFIXED and (colon or kind == POCKET):
        return CLASSIFIERS[kind](), rest
    return CLASSIFIERS["weights" if Path(name).expanduser().is_file() else "transformers"](), name


def fingerprint_classifier(name: str, revision: str | None) -> str:
    """Identify a classifier's content: `sha256:…` over files of `pocket` or a local one, else id and revision."""
    kind, rest = find_kind(name)
    return kind.identify(rest, revision)
