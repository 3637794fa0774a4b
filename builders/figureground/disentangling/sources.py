"""Where a training takes features from: a table of frozen ones, or a backbone that is trained on images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from figureground.disentangling.trunk import Trunk
from figureground.learn.augmentation import crop_and_mirror
from figureground.learn.inference import as_array, prepare_images
from figureground.learn.training_data import Album
from figureground.recipe.sample import derive_seed


class Source(Protocol):
    """Gives the features of training images."""

    @property
    def trained_network(self) -> nn.Module | None:
        """The network that is trained to give them; None for frozen features."""

    def features(self, rows: np.ndarray, draw: str) -> Tensor:
        """Return float32 (n, d).

        Args:
            rows: int (n,): images of the album.
            draw: Name of this draw; with the seed it determines all augmentation.
        """


@dataclass(eq=False)
class FrozenSource:
    """Features that were extracted before."""

    table: Tensor
    """float32 (n, d), on the device."""
    trained_network: nn.Module | None = None

    def features(self, rows: np.ndarray, draw: str) -> Tensor:
        """Return rows of the table."""
        return self.table[torch.from_numpy(rows).to(self.table.device)]


@dataclass(eq=False)
class ImageSource:
    """Features by a backbone, of images that are augmented anew at each use."""

    trunk: Trunk
    album: Album
    seed: int
    augment: bool
    device: torch.device
    workers: int

    @property
    def trained_network(self) -> nn.Module | None:
        return self.trunk

    def features(self, rows: np.ndarray, draw: str) -> Tensor:
        """Decode the images and run the backbone; gradients flow unless they are switched off."""
        backbone = self.trunk.backbone

        def prepare(image: Image.Image, position: int) -> np.ndarray:
            if not self.augment:
                return as_array(image, position)
            rng = np.random.default_rng(derive_seed(self.seed, "augment", draw, str(position)))
            return as_array(crop_and_mirror(image, backbone.size, rng), position)

        batches: Iterable[list[np.ndarray]] = self.album.batches([rows], prepare, self.workers)
        (images,) = batches
        if self.augment:
            pixels = backbone.normalise(torch.from_numpy(np.stack(images)), self.device)
        else:
            pixels = prepare_images(backbone, images, self.device)
        features: Tensor = self.trunk(pixels)
        return features
