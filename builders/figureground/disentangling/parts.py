"""Maps from the pooled features of a backbone to a foreground part and a background part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from figureground.core.errors import FiguregroundError


def choose_width(dimensions: int, share: float, backbone: str) -> int:
    """Return the number of foreground dimensions; the background has the others.

    Raises:
        FiguregroundError: A part would have no dimension.
    """
    width = round(share * dimensions)
    if not 0 < width < dimensions:
        raise FiguregroundError(
            f"backbone {backbone!r}: its {dimensions} pooled features are too few to be cut: at foreground_share "
            f"{share:.3g}, the foreground gets {width} and the background {dimensions - width}. Choose another "
            "foreground_share or a wider backbone."
        )
    return width


class Parting(nn.Module, ABC):
    """Maps features, float32 (n, d), to two parts."""

    def __init__(self, widths: tuple[int, int]):
        super().__init__()
        self.widths = widths
        """Dimensions of the foreground part and of the background part."""

    @abstractmethod
    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the foreground part, (n, f), and the background part, (n, b)."""

    @abstractmethod
    def sizes(self) -> dict[str, Any]:
        """Return the arguments that make such a map with other weights; JSON-serialisable."""


class Whole(Parting):
    """Both parts are all features."""

    def __init__(self, dimensions: int):
        super().__init__((dimensions, dimensions))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return features, features

    def sizes(self) -> dict[str, Any]:
        return {"dimensions": self.widths[0]}


class Cut(Parting):
    """The first dimensions are the foreground part, the others the background part."""

    def __init__(self, dimensions: int, foreground: int):
        super().__init__((foreground, dimensions - foreground))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return features[:, : self.widths[0]], features[:, self.widths[0] :]

    def sizes(self) -> dict[str, Any]:
        return {"dimensions": sum(self.widths), "foreground": self.widths[0]}


class Mapped(Parting):
    """A network with a hidden layer and a linear shortcut, whose output is cut. It begins as the identity.

    The features are standardised first, by `standardise`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dimensions: int, foreground: int, hidden: int):
        super().__init__((foreground, dimensions - foreground))
        self._hidden = hidden
        self.register_buffer("mean", torch.zeros(dimensions))
        self.register_buffer("std", torch.ones(dimensions))
        self.shortcut = nn.Linear(dimensions, dimensions)
        self.first, self.second = nn.Linear(dimensions, hidden), nn.Linear(hidden, dimensions)
        with torch.no_grad():
            self.shortcut.weight.copy_(torch.eye(dimensions))
            self.shortcut.bias.zero_()
            self.second.weight.zero_()
            self.second.bias.zero_()

    def standardise(self, features: Tensor) -> None:
        """Set mean and deviation to those of some features, (n, d); a constant feature keeps the deviation 1."""
        std = features.std(0, correction=0)
        self.mean.copy_(features.mean(0))
        self.std.copy_(torch.where(std > 1e-8, std, 1.0))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        x = (features - self.mean) / self.std
        mapped = self.shortcut(x) + self.second(torch.relu(self.first(x)))
        return mapped[:, : self.widths[0]], mapped[:, self.widths[0] :]

    def sizes(self) -> dict[str, Any]:
        return {"dimensions": sum(self.widths), "foreground": self.widths[0], "hidden": self._hidden}


class Erased(Parting):
    """Each part is an affine map of all features."""

    foreground_matrix: Tensor
    foreground_bias: Tensor
    background_matrix: Tensor
    background_bias: Tensor

    def __init__(self, dimensions: int):
        super().__init__((dimensions, dimensions))
        for part in ("foreground", "background"):
            self.register_buffer(f"{part}_matrix", torch.eye(dimensions, dtype=torch.float64))
            self.register_buffer(f"{part}_bias", torch.zeros(dimensions, dtype=torch.float64))

    def set(self, part: str, matrix: Tensor, bias: Tensor) -> None:
        """Set the map x ↦ x @ matrix.T + bias of a part, `foreground` or `background`."""
        getattr(self, f"{part}_matrix").copy_(matrix)
        getattr(self, f"{part}_bias").copy_(bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        x = features.to(self.foreground_matrix)
        first = x @ self.foreground_matrix.T + self.foreground_bias
        second = x @ self.background_matrix.T + self.background_bias
        return first.to(features), second.to(features)

    def sizes(self) -> dict[str, Any]:
        return {"dimensions": self.widths[0]}


KINDS: dict[str, type[Parting]] = {kind.__name__.lower(): kind for kind in (Whole, Cut, Mapped, Erased)}
"""Maps by the name in a saved model."""
