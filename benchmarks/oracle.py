"""Small classifiers of the foreground, background, prop and look of drawn images.

They are trained on images drawn by the pocket world, never on generated ones, so they can judge a model's images. A
trained classifier is cached and reused as long as its settings, its seed, the world and the augmentation are the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from figureground.finetune.base import choose_dtype
from figureground.pocket import captions, world

NOTHING, PLAIN = "nothing", "plain"

HEADS: dict[str, tuple[str, ...]] = {
    "foreground": (*world.FOREGROUNDS, NOTHING),
    "background": (*world.BACKGROUNDS, PLAIN),
    "prop": (*world.PROPS, NOTHING),
    "look": (*(f"{prop}:{look}" for prop in world.PROPS for look in range(world.LOOKS)), NOTHING),
}
"""Classes of each head of a classifier, in label order; a look belongs to a specific prop."""


class Drawn(NamedTuple):
    """Images and, for each of them, the label of every head."""

    images: np.ndarray
    """uint8 (n, 3, size, size)."""
    labels: np.ndarray
    """int64 (n, 4), in the order of `HEADS`."""


class Answers(NamedTuple):
    """A classifier's predictions for images."""

    labels: np.ndarray
    """int64 (n, 4), in the order of `HEADS`."""
    features: np.ndarray
    """float64 (n, Settings.features): output of the layer before the heads."""


@dataclass(frozen=True)
class Settings:
    """Architecture and training settings of a classifier: AdamW, one cycle."""

    widths: tuple[int, ...] = (24, 48, 96, 160)
    features: int = 128
    pool: int = 24_000
    epochs: int = 10
    batch: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 0.02
    pasted: float = 0.35
    """Share of images with a cut-out pasted at any position, including across the edge."""


def label_heads(foreground: str | None, background: str | None, prop: str | None) -> list[int]:
    """Return the label of every head; `prop` includes its look, as in `"flower:2"`."""
    names = (foreground or NOTHING, background or PLAIN, (prop or NOTHING).partition(":")[0], prop or NOTHING)
    return [classes.index(name) for classes, name in zip(HEADS.values(), names, strict=True)]


def to_pixels(image: Image.Image) -> np.ndarray:
    """Return pixels, uint8 (3, size, size), resized to the classifiers' input size."""
    if image.size != (world.SIZE, world.SIZE):
        image = image.resize((world.SIZE, world.SIZE), Image.Resampling.LANCZOS)
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def _add_look(prop: str | None, rng: np.random.Generator) -> str | None:
    return f"{prop}:{rng.integers(world.LOOKS)}" if prop else None


def draw(rng: np.random.Generator) -> tuple[np.ndarray, list[int]]:
    """Draw an image from the pocket model's training distribution, and return its labels."""
    foreground, background, prop, _ = captions.sample(rng)
    prop = _add_look(prop, rng)
    return to_pixels(world.render(foreground, background, prop, rng).image), label_heads(foreground, background, prop)


def draw_pasted(rng: np.random.Generator) -> tuple[np.ndarray, list[int]]:
    """Draw a cut-out pasted anywhere on a scene, with at most a sixth of it outside; a prop stays in view."""
    foreground, background = str(rng.choice(world.FOREGROUNDS)), str(rng.choice(world.BACKGROUNDS))
    prop = _add_look(str(rng.choice(world.PROPS)), rng) if rng.random() < 0.3 else None
    while True:
        scene = world.render(None, background, prop, rng)
        edge = round(float(rng.uniform(0.34, 0.62)) * world.SIZE)
        left, top = rng.integers(-edge // 6, world.SIZE - edge + edge // 6 + 1, 2).tolist()
        cutout = world.cutout(foreground, rng, edge)
        visible_prop = scene.prop.copy()
        visible_prop.paste(0, (left, top), cutout.getchannel("A"))
        if not prop or np.asarray(visible_prop).sum() > 0.6 * np.asarray(scene.prop).sum():
            scene.image.paste(cutout, (left, top), cutout)
            return to_pixels(scene.image), label_heads(foreground, background, prop)


def draw_many(count: int, rng: np.random.Generator, pasted: float = 0.0) -> Drawn:
    """Draw `count` images, a share of them by `draw_pasted`."""
    pairs = [
        draw_pasted(rng) if rng.random() < pasted else draw(rng)
        for _ in tqdm(range(count), desc="drawing", unit="images", disable=None, leave=False)
    ]
    return Drawn(np.stack([image for image, _ in pairs]), np.array([labels for _, labels in pairs]))


def blur(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Apply a Gaussian blur to float images (n, 3, h, w); `sigma` in pixels."""
    reach = max(1, round(3 * sigma))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=x.device) / sigma) ** 2)
    weights = (weights / weights.sum()).repeat(3, 1, 1)
    x = F.pad(x, (reach,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(x, weights[:, :, None], groups=3), weights[..., None], groups=3)


def blur_images(images: np.ndarray, sigma: float) -> np.ndarray:
    """Apply `blur` to uint8 images (n, 3, h, w)."""
    return blur(torch.from_numpy(images).float(), sigma).round().clamp(0, 255).byte().numpy()


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).transpose(2, 0, 1)


def augment(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply standard augmentation to uint8 images (n, 3, h, w): flips, slight blur, noise, JPEG."""
    count = len(images)
    mirrored = rng.random(count) < 0.5
    x = np.where(mirrored[:, None, None, None], images[..., ::-1], images)
    soft = rng.random(count) < 0.4
    if soft.any():
        x[soft] = blur_images(x[soft], float(rng.uniform(0.3, 1.4)))
    noisy = rng.random(count) < 0.3
    noise = rng.normal(0, rng.uniform(1, 8), x[noisy].shape)
    x[noisy] = np.clip(np.rint(x[noisy] + noise), 0, 255)
    for i in np.flatnonzero(rng.random(count) < 0.3):
        x[i] = _jpeg(x[i], int(rng.integers(60, 96)))
    return x


class Classifier(nn.Module):
    """A small convolutional network with one head for each of `HEADS`."""

    def __init__(self, settings: Settings):
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for i, width in enumerate(settings.widths):
            # One convolution each: the first layer has few channels on many pixels, the last has few pixels.
            for stride in (2,) if i in (0, len(settings.widths) - 1) else (2, 1):
                layers += [
                    nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
                ]  # fmt: skip
                before = width
        self.body = nn.Sequential(*layers)
        self.mix = nn.Sequential(nn.Linear(2 * before, settings.features), nn.ReLU())
        self.heads = nn.ModuleDict(
            {name: nn.Linear(settings.features, len(classes)) for name, classes in HEADS.items()}
        )
        nn.utils.convert_conv2d_weight_memory_format(self, torch.channels_last)  # twice as fast on a CPU

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return features (n, Settings.features) of images in -1..1, (n, 3, size, size)."""
        x = self.body(x.contiguous(memory_format=torch.channels_last))
        return self.mix(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the logits of every head for images in -1..1."""
        features = self.features(x)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.inference_mode()
    def read(self, images: np.ndarray) -> Answers:
        """Return predictions for uint8 images (n, 3, size, size); they may be `NOTHING` and `PLAIN`."""
        device = next(self.parameters()).device
        labels, features = [], []
        for start in range(0, len(images), 128):
            batch_features = self.features(_to_input(images[start : start + 128], device))
            labels.append(torch.stack([head(batch_features).argmax(1) for head in self.heads.values()], 1).cpu())
            features.append(batch_features.double().cpu())
        return Answers(torch.cat(labels).numpy(), torch.cat(features).numpy())


def _to_input(images: np.ndarray, device: torch.device | str) -> torch.Tensor:
    return torch.from_numpy(images).to(device).float().div_(127.5).sub_(1)


def _iterate_batches(
    drawn: Drawn, settings: Settings, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield augmented images in a random order, in full batches; the rest is dropped in this epoch."""
    order = rng.permutation(len(drawn.images))
    for start in range(0, len(order) - settings.batch + 1, settings.batch):
        picked = order[start : start + settings.batch]
        yield augment(drawn.images[picked], rng), drawn.labels[picked]


def train(purpose: str, seed: int, device: str, settings: Settings) -> Classifier:
    """Draw images and train a classifier on them; `purpose` and `seed` determine drawings and weights."""
    rng = world.generator(f"fidelity {purpose}", seed)
    torch.manual_seed(int(rng.integers(2**31)))
    drawn = draw_many(settings.pool, rng, settings.pasted)
    model = Classifier(settings).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=settings.weight_decay)
    steps = settings.epochs * (settings.pool // settings.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings.learning_rate, total_steps=steps, pct_start=0.15
    )
    torch_device = torch.device(device)
    dtype = choose_dtype("auto", torch_device)
    with tqdm(total=steps, desc=purpose, unit="step", mininterval=2, disable=None) as bar:
        for _ in range(settings.epochs):
            for images, labels in _iterate_batches(drawn, settings, rng):
                with torch.autocast(torch_device.type, dtype, enabled=dtype != torch.float32):
                    logits = model(_to_input(images, device))
                targets = torch.from_numpy(labels).to(device).unbind(1)
                losses = [F.cross_entropy(logits[name].float(), y) for name, y in zip(HEADS, targets, strict=True)]
                optimizer.zero_grad(set_to_none=True)
                torch.stack(losses).sum().backward()
                optimizer.step()
                schedule.step()
                bar.update()
    return model.eval()


def _fingerprint(purpose: str, seed: int, settings: Settings) -> str:
    """Return a hash of everything that training depends on: settings, network, drawings and augmentation."""
    rng = world.generator("fidelity fingerprint", seed)
    drawn = draw_many(64, rng, settings.pasted)
    augmented = augment(drawn.images, rng)
    # Rounded, because the last bit of a blur varies with threads and machines.
    summary = [round(float(value), 1) for value in (augmented.mean(), augmented.std())]
    description = json.dumps([purpose, seed, dataclasses.asdict(settings), HEADS, str(Classifier(settings)), summary])
    return hashlib.sha256(description.encode() + drawn.images.tobytes() + drawn.labels.tobytes()).hexdigest()[:12]


def load_or_train(purpose: str, seed: int, cache: Path, device: str, settings: Settings | None = None) -> Classifier:
    """Return the classifier with this purpose and seed from `cache`, training it if necessary."""
    settings = settings or Settings()
    path = cache / f"{purpose.replace(' ', '-')}-{_fingerprint(purpose, seed, settings)}.pt"
    if path.exists():
        model = Classifier(settings).to(device)
        model.load_state_dict(torch.load(path, map_location=device, weights_only=True))
        return model.eval()
    model = train(purpose, seed, device, settings)
    cache.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)
    return model
