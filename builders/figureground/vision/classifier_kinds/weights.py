"""Files with the weights of an ImageNet ResNet, such as a robust one; see `vision.robust_weights`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from figureground.core.errors import FiguregroundError, join_names
from figureground.core.hashing import content_hash
from figureground.core.lfs import refuse_pointer
from figureground.vision.classifier_kinds.transformers import TransformersKind

if TYPE_CHECKING:
    from figureground.vision.classifiers import Classifier


class WeightsKind(TransformersKind):
    """A file, of which names have no prefix."""

    KIND: ClassVar[str] = "weights"

    def open(self, rest: str, revision: str | None) -> Classifier:
        from figureground.vision import robust_weights
        from figureground.vision.classifiers import Classifier, make_labels
        from figureground.vision.preprocessing import imagenet_preprocessing

        path = Path(rest).expanduser()
        if path.suffix not in robust_weights.SUFFIXES:
            raise FiguregroundError(
                f"classifier: {path.name} is not a file of ResNet weights ({join_names(robust_weights.SUFFIXES)})."
            )
        refuse_pointer(path, path.name, "weights")
        network, classes, architecture, mean, std = robust_weights.read_weights(path)
        facts = {"architecture": architecture, "robust": None, "sha256": content_hash(path)}
        return Classifier(network, imagenet_preprocessing(mean, std), make_labels(classes), path.name, facts)
