"""Probes: classifiers that measure how well a label can be predicted from features.

A probe is chosen and trained on some images and judged on others, none of which trained the features. All standardise
the features by their training images. Of the training images a fifth, kept together by object, chooses the probe's
setting; the linear and kNN probes are then fitted to all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from figureground.core.seeding import make_generator, seed_default_generators
from figureground.disentangling.logistic import fit_logistic
from figureground.recipe.sample import derive_seed

MAX_IMAGES = 20_000
"""Maximum number of training images of a probe; of more, a random part is used."""
HELD_OUT_EVERY = 5
"""One in this many objects is held out to choose a probe's setting."""
INVERSE_STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Candidate inverse strengths C of the linear probe's ℓ2 penalty."""
HIDDEN = 256
"""Hidden units of the MLP."""
STEPS, BATCH, EVERY, PATIENCE = 600, 512, 20, 6
"""Training of the MLP: maximum number of steps, maximum batch size, steps between two evaluations on the held-out
fifth, and number of evaluations without improvement after which it stops."""
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 1e-2
"""Learning rate and weight decay of AdamW for the MLP."""
NEIGHBOURS = (1, 5, 15, 45)
"""Candidate numbers of neighbours of the kNN probe."""
_CHUNK_SIZE = 2048
"""Rows of a distance matrix that are computed at once."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Features with a label, and the objects that the images show."""

    features: Tensor
    """float (n, d)."""
    label: Tensor
    """int64 (n,)."""
    objects: np.ndarray
    """int64 (n,): images with equal numbers show one object."""

    def __len__(self) -> int:
        return len(self.label)

    def select(self, rows: np.ndarray) -> Examples:
        """Return some of them; rows are positions, or bool (n,)."""
        positions = torch.from_numpy(np.flatnonzero(rows) if rows.dtype == bool else rows).to(self.label.device)
        return Examples(self.features[positions], self.label[positions], self.objects[positions.cpu().numpy()])


Predict = Callable[[Tensor], Tensor]
"""Maps features, (n, d), to the most likely label of each, int64 (n,)."""


def fit_probe(kind: str, train: Examples, classes: int, seed: int) -> Predict:
    """Train a probe.

    Args:
        kind: One of `PROBES`.
        train: At least two labels.
        classes: Number of labels.
        seed: Seed of all randomness.
    """
    rng = np.random.default_rng(derive_seed(seed, "probe", "rows"))
    if len(train) > MAX_IMAGES:
        train = train.select(np.sort(rng.choice(len(train), MAX_IMAGES, replace=False)))
    mean, std = train.features.double().mean(0), train.features.double().std(0, correction=0)
    std = torch.where(std > 1e-9, std, torch.inf)

    def standardise(features: Tensor) -> Tensor:
        return ((features.double() - mean) / std).float()

    scaled = Examples(standardise(train.features), train.label, train.objects)
    held_out = _draw_held_out(train, rng)
    predict = PROBES[kind](scaled.select(~held_out), scaled.select(held_out), scaled, classes, seed)
    return lambda features: predict(standardise(features))


def _draw_held_out(train: Examples, rng: np.random.Generator) -> np.ndarray:
    """Return a random fifth of the objects of each label, bool (n,), at least one object of a label with several."""
    label = train.label.cpu().numpy()
    is_held_out: dict[int, bool] = {}
    for value in np.unique(label):
        objects = rng.permutation(np.unique(train.objects[label == value]))
        for i, number in enumerate(objects.tolist()):
            ends_block = i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
            is_held_out.setdefault(number, ends_block or (i == 0 and 1 < len(objects) < HELD_OUT_EVERY))
    held_out = np.array([is_held_out[number] for number in train.objects.tolist()])
    if not held_out.any() or held_out.all():  # a single object
        held_out = np.arange(len(train)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    return held_out


def _accuracy(predicted: Tensor, label: Tensor) -> float:
    return float((predicted == label).double().mean())


def _fit_linear(fitting: Examples, held_out: Examples, combined: Examples, classes: int, seed: int) -> Predict:
    """Logistic regression with an ℓ2 penalty; ties go to the strongest one."""
    scores = {
        strength: _accuracy(
            fit_logistic(fitting.features, fitting.label, classes, strength)(held_out.features).argmax(1),
            held_out.label,
        )
        for strength in INVERSE_STRENGTHS
    }
    best = max(INVERSE_STRENGTHS, key=scores.__getitem__)
    layer = fit_logistic(combined.features, combined.label, classes, best)
    return lambda features: layer(features).argmax(1)


def _fit_mlp(fitting: Examples, held_out: Examples, combined: Examples, classes: int, seed: int) -> Predict:
    """A network with one hidden layer, at the step with the lowest held-out cross-entropy."""
    d = fitting.features.shape[1]
    with torch.random.fork_rng():
        seed_default_generators(derive_seed(seed, "probe", "mlp"))
        network = nn.Sequential(nn.Linear(d, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes))
    network.to(fitting.features.device)
    solver = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    generator = make_generator(derive_seed(seed, "probe", "batches"))
    best_step, lowest_loss = 0, float("inf")
    best_state = {name: value.clone() for name, value in network.state_dict().items()}
    for step in range(STEPS):
        rows = torch.randperm(len(fitting), generator=generator)[:BATCH].to(fitting.label.device)
        solver.zero_grad()
        F.cross_entropy(network(fitting.features[rows]), fitting.label[rows]).backward()
        solver.step()
        if (step + 1) % EVERY == 0:
            with torch.inference_mode():
                loss = float(F.cross_entropy(network(held_out.features), held_out.label))
            if loss < lowest_loss:
                lowest_loss, best_state = loss, {name: value.clone() for name, value in network.state_dict().items()}
                best_step = step
            elif step - best_step >= PATIENCE * EVERY:
                break
    network.load_state_dict(best_state)

    @torch.inference_mode()
    def predict(features: Tensor) -> Tensor:
        labels: Tensor = network(features).argmax(1)
        return labels

    return predict


def _fit_knn(fitting: Examples, held_out: Examples, combined: Examples, classes: int, seed: int) -> Predict:
    """The most frequent label of the nearest images; of equally frequent ones, that of the nearest image."""
    candidates = [k for k in NEIGHBOURS if k <= len(fitting)]
    neighbour_labels = _find_neighbour_labels(held_out.features, fitting, max(candidates))
    scores = {k: _accuracy(_vote(neighbour_labels[:, :k], classes), held_out.label) for k in candidates}
    best = max(candidates, key=scores.__getitem__)
    return lambda features: _vote(_find_neighbour_labels(features, combined, best), classes)


def _find_neighbour_labels(features: Tensor, examples: Examples, k: int) -> Tensor:
    """Return the labels of the k nearest images by Euclidean distance, nearest first, int64 (n, k)."""
    parts = [
        examples.label[torch.cdist(rows, examples.features).topk(k, largest=False).indices]
        for rows in features.split(_CHUNK_SIZE)
    ]
    return torch.cat(parts)


def _vote(labels: Tensor, classes: int) -> Tensor:
    k = labels.shape[1]
    votes = F.one_hot(labels, classes).sum(1).float()
    votes.scatter_add_(1, labels[:, :1], torch.full((len(labels), 1), 1 / (k + 1)).to(votes))
    return votes.argmax(1)


PROBES: Mapping[str, Callable[[Examples, Examples, Examples, int, int], Predict]] = {
    "linear": _fit_linear, "mlp": _fit_mlp, "knn": _fit_knn,
}  # fmt: skip
"""Probes by name. Each takes the images to fit, those to choose with, all of both, the number of labels, and a seed."""
KINDS: Sequence[str] = tuple(PROBES)
