"""Early stopping of a fine-tuning, based on the feature network's view of images drawn during training.

No judge and no label is used. Let μ be the mean features of the prior images, which show the noun as the original model
draws it. The progress of an image x towards a group of images G is

    towards(x, G) = cos(φ(x) − μ, mean of φ over G − μ)

The rule `similarity` is the mean of towards(x, references) over the images of an evaluation. The rule `without-class`
does the same with features without the class's direction, from μ to the mean of φ over images of the class. For a
network fooled by the feature, drawing the class also moves images towards the references; removing that direction
prevents this. Features of most networks are non-negative, so all images point in similar directions; without μ, cosines
would hardly differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from figureground.diffusion.checkpoint import Checkpoint
from figureground.diffusion.render import Renderer, Sampling, refuse_guide
from figureground.finetune.similarity import compute_image_direction, read_features
from figureground.finetune.training import FinetuneState
from figureground.recipe.sample import Sample, Spec, derive_seed
from figureground.vision.classifiers import Classifier

WORST = -1.0
"""The value of an evaluation whose images are all rejected; no similarity is lower."""


@dataclass
class Evaluations:
    """The values of the evaluations so far; higher is better."""

    patience: int
    """Number of consecutive evaluations without improvement after which training stops."""
    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, step: int, value: float) -> bool:
        """Add the value of an evaluation; return whether it is the best so far."""
        best = max(self.values, default=None)
        self.steps.append(step)
        self.values.append(value)
        return best is None or value > best

    @property
    def best_step(self) -> int | None:
        """Return the first step with the highest value, or None before any evaluation."""
        return self.steps[self._best_index] if self.values else None

    @property
    def should_stop(self) -> bool:
        """Whether training should stop."""
        return bool(self.values) and len(self.values) - 1 - self._best_index >= self.patience

    @property
    def _best_index(self) -> int:
        return max(range(len(self.values)), key=lambda i: self.values[i])


class Evaluator:
    """Evaluates images drawn by the model during training.

    Args:
        checkpoint: The model being trained.
        sampling: Sampling settings; an evaluation draws one batch.
        prompt: Prompt of the images.
        seed: Determines the noise, which is the same at every evaluation.
        classifier: The feature network.
        references: φ of the references, (n, d).
        prior: φ of the prior images, (n, d).
        class_images: φ of images of the class, (n, d), for the rule `without-class`; None for the rule `similarity`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        sampling: Sampling,
        prompt: str,
        seed: int,
        classifier: Classifier,
        references: Tensor,
        prior: Tensor,
        class_images: Tensor | None,
    ):
        self._checkpoint, self._sampling, self._classifier = checkpoint, sampling, classifier
        self._features = (references, prior, class_images)
        self._specs = [
            Spec(f"look-{i}", "look", 0, 0, "", "", prompt, derive_seed(seed, "look", str(i)))
            for i in range(sampling.batch_size)
        ]

    def evaluate(self, between_steps: Callable[[], None]) -> float:
        """Draw images and measure them, ignoring rejected ones (flat or not finite); `WORST` if all are rejected."""
        renderer = Renderer(self._checkpoint, self._sampling, refuse_guide, between_steps)
        images = [result.image for result in renderer.render(self._specs) if isinstance(result, Sample)]
        return measure_evaluation(read_features(self._classifier, images), *self._features) if images else WORST


def measure_evaluation(drawn: Tensor, references: Tensor, prior: Tensor, class_images: Tensor | None) -> float:
    """Return the value of an evaluation by the rule `similarity`, or `without-class` if `class_images` is given.

    See the module's docstring.

    Args:
        drawn: φ of the evaluation's images, (n, d); the others likewise.

    Returns:
        −1 to 1; the cosine of a zero vector counts as 0.

    Raises:
        FiguregroundError: The network sees no difference between images of the class and the prior images.
    """
    centre = prior.mean(0)
    changes, target = drawn - centre, references.mean(0) - centre
    if class_images is not None:
        direction = compute_image_direction(class_images, prior)
        changes = changes - (changes @ direction)[:, None] * direction
        target = target - (target @ direction) * direction
    return float(F.cosine_similarity(changes, target[None], dim=1).mean())


@dataclass(frozen=True)
class TrainingWithEvaluations:
    """A training and its evaluations, which are saved and restored together."""

    training: FinetuneState
    evaluations: Evaluations | None

    @property
    def curve_names(self) -> Sequence[str]:
        """Names of the values of a step."""
        return self.training.curve_names

    def step(self, number: int) -> Tensor:
        """Run a step; see `Training.step`."""
        return self.training.step(number)

    def learning_rates(self) -> Mapping[str, float]:
        """See `Training.learning_rates`."""
        return self.training.learning_rates()

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on."""
        evaluations = self.evaluations
        return {
            **self.training.state(),
            "looks": (evaluations.steps, evaluations.values) if evaluations is not None else None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load a state returned by `state`."""
        self.training.restore(state)
        if self.evaluations is not None and state.get("looks") is not None:
            self.evaluations.steps, self.evaluations.values = map(list, state["looks"])
