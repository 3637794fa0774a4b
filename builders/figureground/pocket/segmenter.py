"""Training of the bundled segmenter: a small CLIPSeg that finds the object named by a phrase in the drawn world.

CLIPSeg (Lüddecke and Ecker 2022, arXiv 2112.10003) decodes a mask from the features of a vision transformer,
conditioned on a text embedding. Its authors keep CLIP's text tower; this keeps the pocket checkpoint's. No CLIP of the
drawn world exists whose vision tower could be kept too. So vision tower and decoder are trained together on the masks
of the drawings, and the vision tower also learns to classify the content of each patch.

On new images, the mean IoU of the foreground is 0.78 on drawings and 0.77 on pocketbirds, of the scene 0.97, and of the
prop 0.66. The noun of an absent foreground finds more than 0.5 % of pixels in 0.9 % and 0.2 % of images
(`benchmarks/segment.py`).

Run it with `python -m figureground.pocket.segmenter --work DIR --out DIR`. It can be stopped at any time: the same
command resumes from its last checkpoint in `--work`, which also contains the curves.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPSegConfig, CLIPSegForImageSegmentation, CLIPTextModel, CLIPTokenizer

from figureground.models.bundled import WEIGHTS
from figureground.models.opening import open_network, open_part
from figureground.pocket import robust, world
from figureground.pocket.fitting import Settings, fit, run_command
from figureground.pocket.world import Layout, Place

SETTINGS = Settings(steps=6_000, batch=24, learning_rate=1.5e-3, warmup=300, ema=0.995, weight_decay=1e-3)
EDGE = world.SIZE
"""Input size in pixels, in training and use."""
POOL = 10_000
ROUND_TRIP = 0.35
"""Share of drawings encoded and decoded by the pocket's autoencoder, to resemble generated images."""
RENEWED = 3
"""Number of drawings replaced by new ones after each step."""
FREE = 0.5
"""Share of drawings with object and prop at any position, in sizes outside the world's own layout."""
BLURRED, MIRRORED = 0.3, 0.5
"""Shares of blurred and mirrored images in a batch."""

NOUNS: tuple[str, ...] = (*world.FOREGROUNDS, *world.PROPS, *world.BACKGROUNDS)
"""Nouns that a phrase may name; the background is the area covered by neither object nor prop."""
THINGS = len(world.FOREGROUNDS) + len(world.PROPS)
"""Number of `NOUNS` that are objects or props; they come first."""
QUERIES = 3
"""Number of phrases per image in training."""
THING_WEIGHT = 4.0
"""Weight of objects and props in patch classification: most patches show only the scene, which is easily learned."""
PATCH = 4
"""Edge of the vision tower's patches in pixels; small, because each token decodes its own outline."""
NOTHING = 0.005
"""Share of pixels up to which a mask counts as empty."""


class Pool(NamedTuple):
    """n drawings for training."""

    images: np.ndarray
    """uint8 (n, 3, SIZE, SIZE)."""
    masks: np.ndarray
    """uint8 (n, 3, SIZE, SIZE), 0 to 255: share of a pixel that shows the foreground, the prop, the background."""
    nouns: np.ndarray
    """int64 (n, 3): positions in `NOUNS` of the same three, -1 if absent."""


def phrases(noun: str) -> list[str]:
    """Return the phrases for a noun: `mug`, `a mug`, `the mug`, `a photo of a mug` and so on."""
    articles = ["a", "an"] if noun[0] in "aeiou" else ["a"]
    named = [f"{article} {noun}" for article in articles]
    return [noun, f"the {noun}", *named, *(f"a {kind} of {name}" for kind in ("photo", "picture") for name in named)]


def build(tokenizer: CLIPTokenizer) -> CLIPSegForImageSegmentation:
    """Build a segmenter of images of SIZE pixels, with 1.1 M parameters and the pocket checkpoint's frozen text tower.

    Its logits have the image's size.
    """
    encoder = open_network(CLIPTextModel, WEIGHTS / "text_encoder", "pocket", dtype=torch.float32)
    kept = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act",
            "layer_norm_eps", "max_position_embeddings")  # fmt: skip
    text = {
        **{name: getattr(encoder.config, name) for name in kept}, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
        "image_size": world.SIZE, "patch_size": PATCH,
    }  # fmt: skip
    model = CLIPSegForImageSegmentation(
        CLIPSegConfig(
            text_config=text, vision_config=vision, projection_dim=64, extract_layers=[1, 3], reduce_dim=64,
            decoder_intermediate_size=128, decoder_num_attention_heads=4,
        )
    )  # fmt: skip
    model.clip.text_model.load_state_dict({k.removeprefix("text_model."): v for k, v in encoder.state_dict().items()})
    model.clip.text_model.requires_grad_(False)
    return model


class Taught(nn.Module):
    """A segmenter, with an auxiliary head that classifies the content of each patch."""

    def __init__(self, segmenter: CLIPSegForImageSegmentation):
        super().__init__()
        self.segmenter = segmenter
        self.namer = nn.Linear(segmenter.config.vision_config.hidden_size, len(NOUNS) + 1)


def see(model: CLIPSegForImageSegmentation, pixels: Tensor, edge: int = EDGE) -> tuple[Tensor, ...]:
    """Return the vision tower's tokens after each layer, (n, 1 + (edge / PATCH)², d); the first is the class token.

    Args:
        pixels: (n, 3, SIZE, SIZE) in 0..1.
        edge: Size to which they are resized.
    """
    prepared = (_resize(pixels, edge) - robust.MEAN) / robust.STD
    layers: tuple[Tensor, ...] = model.clip.vision_model(prepared, output_hidden_states=True).hidden_states
    return layers[1:]


def logits(model: CLIPSegForImageSegmentation, seen: Sequence[Tensor], ids: Tensor) -> Tensor:
    """Return logits of several phrases per image, with gradients in both towers (transformers' own: decoder only).

    Args:
        seen: Output of `see` for n images.
        ids: Tokens, int64 (n, k, length), padded with the end token.

    Returns:
        float32 (n, k, edge, edge).
    """
    n, k, length = ids.shape
    activations = [seen[i].repeat_interleave(k, 0) for i in model.config.extract_layers]
    conditions = model.clip.get_text_features(ids.view(n * k, length)).pooler_output
    found: Tensor = model.decoder(activations, conditions).logits
    return found.float().view(n, k, *found.shape[-2:])


def _resize(images: Tensor, edge: int) -> Tensor:
    return F.interpolate(images, (edge, edge), mode="bilinear", antialias=True)


def draw(rng: np.random.Generator) -> tuple[world.Scene, list[str | None]]:
    """Draw a random image, and return the names of its foreground, prop and background."""
    foreground = str(rng.choice(world.FOREGROUNDS)) if rng.random() < 0.88 else None
    background = str(rng.choice(world.BACKGROUNDS)) if rng.random() < 0.92 else None
    prop = str(rng.choice(world.PROPS)) if rng.random() < 0.65 else None
    layout = _lay_out(rng) if rng.random() < FREE else None
    return world.render(foreground, background, prop, rng, layout=layout), [foreground, prop, background]


def _lay_out(rng: np.random.Generator) -> Layout:
    """Draw a layout with object and prop fully in view at any position, side by side or partly overlapping."""
    radius, small = float(rng.uniform(0.14, 0.3)), float(rng.uniform(0.12, 0.24))
    x, y = rng.uniform(radius, 1 - radius, 2)
    turn, gap = rng.uniform(0, 2 * np.pi), (radius + small) * rng.uniform(0.75, 1.5)
    beside = np.clip((x + gap * np.cos(turn), y + gap * np.sin(turn)), small, 1 - small)
    places = Place((float(x), float(y)), radius), Place((float(beside[0]), float(beside[1])), small)
    return Layout(*places, prop_in_front=bool(rng.random() < 0.3))


def draw_many(count: int, rng: np.random.Generator) -> Pool:
    """Draw `count` images by `draw`."""
    pool = Pool(
        np.empty((count, 3, world.SIZE, world.SIZE), np.uint8),
        np.empty((count, 3, world.SIZE, world.SIZE), np.uint8),
        np.empty((count, 3), np.int64),
    )
    for i in range(count):
        _draw_into(pool, i, rng)
    return pool


def _draw_into(pool: Pool, i: int, rng: np.random.Generator) -> None:
    scene, names = draw(rng)
    pool.images[i] = np.asarray(scene.image).transpose(2, 0, 1)
    pool.masks[i] = [np.asarray(mask) for mask in (scene.foreground, scene.prop, scene.background)]
    pool.nouns[i] = [-1 if name is None else NOUNS.index(name) for name in names]


@torch.inference_mode()
def round_trip(images: np.ndarray) -> np.ndarray:
    """Encode and decode images, uint8 (n, 3, SIZE, SIZE), with the pocket's autoencoder."""
    from diffusers import AutoencoderKL

    vae = open_network(AutoencoderKL, WEIGHTS / "vae", "pocket", dtype=torch.float32).eval()
    back = np.empty_like(images)
    for start in range(0, len(images), 32):
        x = torch.from_numpy(images[start : start + 32]).float() / 127.5 - 1
        y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        back[start : start + 32] = ((y + 1) * 127.5).round().to(torch.uint8).numpy()
    return back


def ask(nouns: np.ndarray, rng: np.random.Generator) -> list[int]:
    """Choose an image's query nouns, as positions in `NOUNS`: one present, one absent object or prop, and any one.

    Args:
        nouns: int64 (3,), a row of `Pool.nouns`.
    """
    shown = [int(noun) for noun in nouns if noun >= 0]
    absent = int(rng.choice([noun for noun in range(THINGS) if noun not in shown]))
    first = int(nouns[0]) if nouns[0] >= 0 else shown[0] if shown else int(rng.integers(THINGS))
    rest = shown[1:] if shown and rng.random() < 0.7 else []
    return [first, absent, int(rng.choice(rest)) if rest else int(rng.integers(len(NOUNS)))]


class Phrasebook:
    """The tokens of all `phrases` of all `NOUNS`."""

    def __init__(self, tokenizer: CLIPTokenizer):
        texts = [phrases(noun) for noun in NOUNS]
        ids = tokenizer([text for several in texts for text in several], padding=True, return_tensors="pt").input_ids
        self._of = ids.split([len(several) for several in texts])

    def pick(self, noun: int, rng: np.random.Generator) -> Tensor:
        """Return the tokens of a random phrase for a noun, int64 (length,)."""
        return self._of[noun][rng.integers(len(self._of[noun]))]


class Batch(NamedTuple):
    """A training batch: n images with k = QUERIES phrases each."""

    pixels: Tensor
    """float32 (n, 3, SIZE, SIZE), in 0..1."""
    ids: Tensor
    """Tokens, int64 (n, k, length)."""
    masks: Tensor
    """float32 (n, k, SIZE, SIZE), in 0..1: share of a pixel that shows the named object."""
    patches: Tensor
    """float32 (n, len(NOUNS) + 1, SIZE / PATCH, SIZE / PATCH): share of a patch that shows each noun, or none."""


def batches(seed: int, step: int, settings: Settings, book: Phrasebook, size: int) -> Iterator[Batch]:
    """Yield randomly mirrored or blurred images with phrases, from a pool of `size` that is continually renewed."""
    rng = world.generator("train segmenter", seed + 1000 * step)
    pool = draw_many(size, rng)
    kept = round(ROUND_TRIP * size)
    pool.images[:kept] = round_trip(pool.images[:kept])
    while True:
        picked = rng.choice(size, settings.batch, replace=False)
        x = torch.from_numpy(pool.images[picked]).float().div_(255)
        blurred = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        blur = torch.from_numpy(rng.random(len(x)) * (rng.random(len(x)) < BLURRED)).float().view(-1, 1, 1, 1)
        whole = torch.zeros(len(x), len(NOUNS) + 1, world.SIZE, world.SIZE)
        asked = torch.empty(len(x), QUERIES, dtype=torch.int64)
        for i, j in enumerate(picked):
            for noun, mask in zip(pool.nouns[j], pool.masks[j], strict=True):
                whole[i, noun] = torch.from_numpy(mask).float().div_(255)  # -1, for none, is the last
            asked[i] = torch.tensor(ask(pool.nouns[j], rng))
        mirrored = torch.from_numpy(rng.random(len(x)) < MIRRORED).view(-1, 1, 1, 1)
        x, whole = (torch.where(mirrored, each.flip(3), each) for each in (torch.lerp(x, blurred, blur), whole))
        ids = torch.stack([torch.stack([book.pick(int(noun), rng) for noun in several]) for several in asked])
        masks = whole.gather(1, asked[..., None, None].expand(-1, -1, *whole.shape[2:]))
        yield Batch(x, ids, masks, F.avg_pool2d(whole, PATCH))
        for j in rng.integers(kept, size, RENEWED if size > kept else 0):
            _draw_into(pool, int(j), rng)


def loss(model: Taught, batch: Batch) -> dict[str, Tensor]:
    """Compute the losses: binary cross-entropy per pixel, Dice loss per mask (Milletari et al. 2016, arXiv 1606.04797),
    and cross-entropy of the nouns per patch."""
    seen = see(model.segmenter, batch.pixels, world.SIZE)
    found = logits(model.segmenter, seen, batch.ids)
    entropy = F.binary_cross_entropy_with_logits(found, batch.masks)
    p, true = found.sigmoid().flatten(2), batch.masks.flatten(2)
    smooth = 16.0  # pixels, so that a few wrong ones in an empty mask have little weight
    dice = 1 - ((2 * (p * true).sum(2) + smooth) / (p.sum(2) + true.sum(2) + smooth)).mean()
    named = model.namer(seen[-1][:, 1:]).float().transpose(1, 2)
    weights = torch.ones(len(NOUNS) + 1, device=named.device)
    weights[:THINGS] = THING_WEIGHT
    naming = F.cross_entropy(named, batch.patches.flatten(2), weights)
    return {"loss": entropy + 0.5 * dice + 0.5 * naming, "entropy": entropy, "dice": dice, "naming": naming}


class Measured(NamedTuple):
    """Performance of a segmenter on images with a foreground."""

    iou: float
    """Intersection over union of the foreground's noun at probability 0.5, averaged over images."""
    false_alarms: float
    """Share of images in which an absent noun finds more than `NOTHING` of the pixels."""


@torch.no_grad()
def measure(model: CLIPSegForImageSegmentation, pool: Pool, tokenizer: CLIPTokenizer, edge: int = EDGE) -> Measured:
    """Evaluate `a photo of a …` for each image's foreground, and for an absent foreground."""
    device = next(model.parameters()).device
    rng = world.generator("measure segmenter")
    with_object = np.flatnonzero(pool.nouns[:, 0] >= 0)
    pairs = []
    for j in with_object:
        others = [noun for noun in range(len(world.FOREGROUNDS)) if noun != pool.nouns[j, 0]]
        pairs.append((int(pool.nouns[j, 0]), int(rng.choice(others))))
    texts = [f"a photo of a {NOUNS[noun]}" for pair in pairs for noun in pair]
    ids = tokenizer(texts, padding=True, return_tensors="pt").input_ids.view(len(pairs), 2, -1)
    ious, alarms = [], []
    for picked, asked in zip(torch.from_numpy(with_object).split(64), ids.split(64), strict=True):
        x = torch.from_numpy(pool.images[picked]).float().div(255).to(device)
        found = (_resize(logits(model, see(model, x, edge), asked.to(device)), world.SIZE) > 0).cpu().numpy()
        true = pool.masks[picked, 0] >= 128
        both, either = (found[:, 0] & true).sum((1, 2)), (found[:, 0] | true).sum((1, 2))
        ious.append(both / np.maximum(either, 1))
        alarms.append(found[:, 1].mean((1, 2)) > NOTHING)
    return Measured(float(np.concatenate(ious).mean()), float(np.concatenate(alarms).mean()))


def refine(coarse: CLIPSegForImageSegmentation, fine: CLIPSegForImageSegmentation) -> None:
    """Initialise a segmenter with small patches from the weights of one with large patches.

    Weights that depend on the patch size are resampled: the filters that read and write pixels, and the positions.
    """
    state = dict(coarse.state_dict())
    embeddings = "clip.vision_model.embeddings."
    reads, writes = f"{embeddings}patch_embedding.weight", "decoder.transposed_convolution.weight"
    position, places = f"{embeddings}position_embedding.weight", f"{embeddings}position_ids"
    scale = coarse.config.vision_config.patch_size / fine.config.vision_config.patch_size
    state[reads] = _resize(state[reads], fine.config.vision_config.patch_size) * scale**2  # it sums over fewer pixels
    state[writes] = _resize(state[writes], fine.config.vision_config.patch_size)
    own, grid = state[position][:1], state[position][1:].T
    edge = world.SIZE // coarse.config.vision_config.patch_size
    grid = F.interpolate(grid.view(1, -1, edge, edge), scale_factor=scale, mode="bilinear")
    state[position] = torch.cat([own, grid[0].flatten(1).T])
    state.pop(places, None)
    fine.load_state_dict(state, strict=False)


def train(
    work: Path,
    device: str,
    seed: int,
    settings: Settings = SETTINGS,
    pool: int = POOL,
    start: CLIPSegForImageSegmentation | None = None,
) -> CLIPSegForImageSegmentation:
    """Train to the end, resuming an earlier run if there is one, and return the averaged network.

    Args:
        start: A segmenter with patches of any size whose weights initialise the training.
    """
    torch.manual_seed(seed)
    tokenizer = open_part(AutoTokenizer, WEIGHTS / "tokenizer", "pocket")
    held, book = draw_many(256, world.generator("watch segmenter", seed)), Phrasebook(tokenizer)

    def objective(network: Taught, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        pixels = batch[0]
        # On a CPU, bf16 makes these narrow layers slower, not faster.
        with torch.autocast(pixels.device.type, enabled=pixels.device.type != "cpu"):
            return loss(network, Batch(*batch))

    def watch(network: Taught) -> dict[str, float]:
        return measure(network.segmenter, held, tokenizer)._asdict()

    network = build(tokenizer)
    if start is not None:
        refine(start, network)
    fitted: Taught = fit(
        "segmenter", Taught(network), objective, lambda step: batches(seed, step, settings, book, pool),
        settings, work, device, watch,
    )  # fmt: skip
    return fitted.segmenter


def save(model: nn.Module, out: Path) -> None:
    """Write a segmenter in fp16, with its tokenizer, as a directory that transformers opens in float32."""
    robust.save(model, out, torch.float16)
    preprocessor = {**robust.PREPROCESSOR, "size": {"height": EDGE, "width": EDGE}}
    (out / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")
    open_part(AutoTokenizer, WEIGHTS / "tokenizer", "pocket").save_pretrained(out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m figureground.pocket.segmenter", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("out/segmenter"), help="checkpoint and curves (%(default)s)")
    parser.add_argument("--out", type=Path, default=None, help="where the finished one goes (default: WORK/segmenter)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=SETTINGS.steps)
    parser.add_argument("--images", type=int, default=POOL, help="drawn at first (%(default)s)")
    parser.add_argument("--learning-rate", type=float, default=SETTINGS.learning_rate, help="at most (%(default)s)")
    parser.add_argument("--start", type=Path, help="a segmenter's directory, from whose weights the training begins")
    args = parser.parse_args(arguments)
    out = args.out or args.work / "segmenter"
    settings = replace(SETTINGS, steps=args.steps, learning_rate=args.learning_rate)
    start = args.start and open_network(CLIPSegForImageSegmentation, args.start, "start", dtype=torch.float32)
    save(train(args.work, args.device, args.seed, settings, args.images, start), out)
    print(f"Wrote {out}")


if __name__ == "__main__":
    sys.exit(run_command(main))
