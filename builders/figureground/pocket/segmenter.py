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
from figureground.pocket.fitting import FitSettings, fit, run_command
from figureground.pocket.world import Layout, Place

SETTINGS = FitSettings(steps=6_000, batch=24, learning_rate=1.5e-3, warmup=300, ema=0.995, weight_decay=1e-3)
EDGE = world.SIZE
"""Input size in pixels, in training and use."""
POOL = 10_000
ROUND_TRIP_SHARE = 0.35
"""Share of drawings encoded and decoded by the pocket's autoencoder, to resemble generated images."""
NUM_RENEWED = 3
"""Number of drawings replaced by new ones after each step."""
FREE_LAYOUT_SHARE = 0.5
"""Share of drawings with object and prop at any position, in sizes outside the world's own layout."""
BLURRED_SHARE, MIRRORED_SHARE = 0.3, 0.5
"""Shares of blurred and mirrored images in a batch."""

NOUNS: tuple[str, ...] = (*world.FOREGROUNDS, *world.PROPS, *world.BACKGROUNDS)
"""Nouns that a phrase may name; the background is the area covered by neither object nor prop."""
NUM_THINGS = len(world.FOREGROUNDS) + len(world.PROPS)
"""Number of `NOUNS` that are objects or props; they come first."""
NUM_QUERIES = 3
"""Number of phrases per image in training."""
THING_WEIGHT = 4.0
"""Weight of objects and props in patch classification: most patches show only the scene, which is easily learned."""
PATCH = 4
"""Edge of the vision tower's patches in pixels; small, because each token decodes its own outline."""
EMPTY_SHARE = 0.005
"""Share of pixels up to which a mask counts as empty."""


class Pool(NamedTuple):
    """n drawings for training."""

    images: np.ndarray
    """uint8 (n, 3, SIZE, SIZE)."""
    masks: np.ndarray
    """uint8 (n, 3, SIZE, SIZE), 0 to 255: share of a pixel that shows the foreground, the prop, the background."""
    nouns: np.ndarray
    """int64 (n, 3): positions in `NOUNS` of the same three, -1 if absent."""


def list_phrases(noun: str) -> list[str]:
    """Return the phrases for a noun: `mug`, `a mug`, `the mug`, `a photo of a mug` and so on."""
    articles = ["a", "an"] if noun[0] in "aeiou" else ["a"]
    with_article = [f"{article} {noun}" for article in articles]
    return [
        noun,
        f"the {noun}",
        *with_article,
        *(f"a {kind} of {noun_phrase}" for kind in ("photo", "picture") for noun_phrase in with_article),
    ]


def build(tokenizer: CLIPTokenizer) -> CLIPSegForImageSegmentation:
    """Build a segmenter of images of SIZE pixels, with 1.1 M parameters and the pocket checkpoint's frozen text tower.

    Its logits have the image's size.
    """
    encoder = open_network(CLIPTextModel, WEIGHTS / "text_encoder", "pocket", dtype=torch.float32)
    copied_settings = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act",
        "layer_norm_eps", "max_position_embeddings",
    )  # fmt: skip
    text = {
        **{name: getattr(encoder.config, name) for name in copied_settings}, "bos_token_id": tokenizer.bos_token_id,
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


class SegmenterWithHead(nn.Module):
    """A segmenter, with an auxiliary head that classifies the content of each patch."""

    def __init__(self, segmenter: CLIPSegForImageSegmentation):
        super().__init__()
        self.segmenter = segmenter
        self.namer = nn.Linear(segmenter.config.vision_config.hidden_size, len(NOUNS) + 1)


def encode_images(model: CLIPSegForImageSegmentation, pixels: Tensor, edge: int = EDGE) -> tuple[Tensor, ...]:
    """Return the vision tower's tokens after each layer, (n, 1 + (edge / PATCH)², d); the first is the class token.

    Args:
        pixels: (n, 3, SIZE, SIZE) in 0..1.
        edge: Size to which they are resized.
    """
    prepared = (_resize(pixels, edge) - robust.MEAN) / robust.STD
    layers: tuple[Tensor, ...] = model.clip.vision_model(prepared, output_hidden_states=True).hidden_states
    return layers[1:]


def decode_logits(model: CLIPSegForImageSegmentation, layers: Sequence[Tensor], ids: Tensor) -> Tensor:
    """Return logits of several phrases per image, with gradients in both towers (transformers' own: decoder only).

    Args:
        layers: Output of `encode_images` for n images.
        ids: Tokens, int64 (n, k, length), padded with the end token.

    Returns:
        float32 (n, k, edge, edge).
    """
    n, k, length = ids.shape
    activations = [layers[i].repeat_interleave(k, 0) for i in model.config.extract_layers]
    conditions = model.clip.get_text_features(ids.view(n * k, length)).pooler_output
    output: Tensor = model.decoder(activations, conditions).logits
    return output.float().view(n, k, *output.shape[-2:])


def _resize(images: Tensor, edge: int) -> Tensor:
    return F.interpolate(images, (edge, edge), mode="bilinear", antialias=True)


def draw(rng: np.random.Generator) -> tuple[world.Scene, list[str | None]]:
    """Draw a random image, and return the names of its foreground, prop and background."""
    foreground = str(rng.choice(world.FOREGROUNDS)) if rng.random() < 0.88 else None
    background = str(rng.choice(world.BACKGROUNDS)) if rng.random() < 0.92 else None
    prop = str(rng.choice(world.PROPS)) if rng.random() < 0.65 else None
    layout = _lay_out(rng) if rng.random() < FREE_LAYOUT_SHARE else None
    return world.render(foreground, background, prop, rng, layout=layout), [foreground, prop, background]


def _lay_out(rng: np.random.Generator) -> Layout:
    """Draw a layout with object and prop fully in view at any position, side by side or partly overlapping."""
    radius, prop_radius = float(rng.uniform(0.14, 0.3)), float(rng.uniform(0.12, 0.24))
    x, y = rng.uniform(radius, 1 - radius, 2)
    direction, distance = rng.uniform(0, 2 * np.pi), (radius + prop_radius) * rng.uniform(0.75, 1.5)
    prop_center = np.clip(
        (x + distance * np.cos(direction), y + distance * np.sin(direction)), prop_radius, 1 - prop_radius
    )
    places = Place((float(x), float(y)), radius), Place((float(prop_center[0]), float(prop_center[1])), prop_radius)
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
    decoded = np.empty_like(images)
    for start in range(0, len(images), 32):
        x = torch.from_numpy(images[start : start + 32]).float() / 127.5 - 1
        y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        decoded[start : start + 32] = ((y + 1) * 127.5).round().to(torch.uint8).numpy()
    return decoded


def choose_queries(nouns: np.ndarray, rng: np.random.Generator) -> list[int]:
    """Choose an image's query nouns, as positions in `NOUNS`: one present, one absent object or prop, and any one.

    Args:
        nouns: int64 (3,), a row of `Pool.nouns`.
    """
    present = [int(noun) for noun in nouns if noun >= 0]
    absent = int(rng.choice([noun for noun in range(NUM_THINGS) if noun not in present]))
    first = int(nouns[0]) if nouns[0] >= 0 else present[0] if present else int(rng.integers(NUM_THINGS))
    rest = present[1:] if present and rng.random() < 0.7 else []
    return [first, absent, int(rng.choice(rest)) if rest else int(rng.integers(len(NOUNS)))]


class Phrasebook:
    """The tokens of all phrases of all `NOUNS`; see `list_phrases`."""

    def __init__(self, tokenizer: CLIPTokenizer):
        texts = [list_phrases(noun) for noun in NOUNS]
        ids = tokenizer(
            [text for noun_phrases in texts for text in noun_phrases], padding=True, return_tensors="pt"
        ).input_ids
        self._ids_by_noun = ids.split([len(noun_phrases) for noun_phrases in texts])

    def pick(self, noun: int, rng: np.random.Generator) -> Tensor:
        """Return the tokens of a random phrase for a noun, int64 (length,)."""
        return self._ids_by_noun[noun][rng.integers(len(self._ids_by_noun[noun]))]


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


def batches(seed: int, step: int, settings: FitSettings, book: Phrasebook, size: int) -> Iterator[Batch]:
    """Yield randomly mirrored or blurred images with phrases, from a pool of `size` that is continually renewed."""
    rng = world.generator("train segmenter", seed + 1000 * step)
    pool = draw_many(size, rng)
    num_round_trips = round(ROUND_TRIP_SHARE * size)
    pool.images[:num_round_trips] = round_trip(pool.images[:num_round_trips])
    while True:
        rows = rng.choice(size, settings.batch, replace=False)
        x = torch.from_numpy(pool.images[rows]).float().div_(255)
        blurred = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        amounts = rng.random(len(x)) * (rng.random(len(x)) < BLURRED_SHARE)
        blur_amount = torch.from_numpy(amounts).float().view(-1, 1, 1, 1)
        masks_by_noun = torch.zeros(len(x), len(NOUNS) + 1, world.SIZE, world.SIZE)
        queries = torch.empty(len(x), NUM_QUERIES, dtype=torch.int64)
        for i, j in enumerate(rows):
            for noun, mask in zip(pool.nouns[j], pool.masks[j], strict=True):
                masks_by_noun[i, noun] = torch.from_numpy(mask).float().div_(255)  # -1, for none, is the last
            queries[i] = torch.tensor(choose_queries(pool.nouns[j], rng))
        mirrored = torch.from_numpy(rng.random(len(x)) < MIRRORED_SHARE).view(-1, 1, 1, 1)
        x, masks_by_noun = (
            torch.where(mirrored, tensor.flip(3), tensor)
            for tensor in (torch.lerp(x, blurred, blur_amount), masks_by_noun)
        )
        ids = torch.stack([torch.stack([book.pick(int(noun), rng) for noun in nouns]) for nouns in queries])
        masks = masks_by_noun.gather(1, queries[..., None, None].expand(-1, -1, *masks_by_noun.shape[2:]))
        yield Batch(x, ids, masks, F.avg_pool2d(masks_by_noun, PATCH))
        for j in rng.integers(num_round_trips, size, NUM_RENEWED if size > num_round_trips else 0):
            _draw_into(pool, int(j), rng)


def compute_losses(model: SegmenterWithHead, batch: Batch) -> dict[str, Tensor]:
    """Compute the losses: binary cross-entropy per pixel, Dice loss per mask (Milletari et al. 2016, arXiv 1606.04797),
    and cross-entropy of the nouns per patch."""
    layers = encode_images(model.segmenter, batch.pixels, world.SIZE)
    mask_logits = decode_logits(model.segmenter, layers, batch.ids)
    entropy = F.binary_cross_entropy_with_logits(mask_logits, batch.masks)
    probabilities, true = mask_logits.sigmoid().flatten(2), batch.masks.flatten(2)
    smooth = 16.0  # pixels, so that a few wrong ones in an empty mask have little weight
    dice = 1 - ((2 * (probabilities * true).sum(2) + smooth) / (probabilities.sum(2) + true.sum(2) + smooth)).mean()
    noun_logits = model.namer(layers[-1][:, 1:]).float().transpose(1, 2)
    weights = torch.ones(len(NOUNS) + 1, device=noun_logits.device)
    weights[:NUM_THINGS] = THING_WEIGHT
    naming = F.cross_entropy(noun_logits, batch.patches.flatten(2), weights)
    return {"loss": entropy + 0.5 * dice + 0.5 * naming, "entropy": entropy, "dice": dice, "naming": naming}


class SegmenterScores(NamedTuple):
    """Performance of a segmenter on images with a foreground."""

    iou: float
    """Intersection over union of the foreground's noun at probability 0.5, averaged over images."""
    false_alarms: float
    """Share of images in which an absent noun finds more than `EMPTY_SHARE` of the pixels."""


@torch.no_grad()
def measure(
    model: CLIPSegForImageSegmentation, pool: Pool, tokenizer: CLIPTokenizer, edge: int = EDGE
) -> SegmenterScores:
    """Evaluate `a photo of a …` for each image's foreground, and for an absent foreground."""
    device = next(model.parameters()).device
    rng = world.generator("measure segmenter")
    rows_with_object = np.flatnonzero(pool.nouns[:, 0] >= 0)
    pairs = []
    for j in rows_with_object:
        others = [noun for noun in range(len(world.FOREGROUNDS)) if noun != pool.nouns[j, 0]]
        pairs.append((int(pool.nouns[j, 0]), int(rng.choice(others))))
    texts = [f"a photo of a {NOUNS[noun]}" for pair in pairs for noun in pair]
    ids = tokenizer(texts, padding=True, return_tensors="pt").input_ids.view(len(pairs), 2, -1)
    ious, alarms = [], []
    for rows, query_ids in zip(torch.from_numpy(rows_with_object).split(64), ids.split(64), strict=True):
        x = torch.from_numpy(pool.images[rows]).float().div(255).to(device)
        mask_logits = decode_logits(model, encode_images(model, x, edge), query_ids.to(device))
        predicted = (_resize(mask_logits, world.SIZE) > 0).cpu().numpy()
        true = pool.masks[rows, 0] >= 128
        intersection, union = (predicted[:, 0] & true).sum((1, 2)), (predicted[:, 0] | true).sum((1, 2))
        ious.append(intersection / np.maximum(union, 1))
        alarms.append(predicted[:, 1].mean((1, 2)) > EMPTY_SHARE)
    return SegmenterScores(float(np.concatenate(ious).mean()), float(np.concatenate(alarms).mean()))


def refine(coarse: CLIPSegForImageSegmentation, fine: CLIPSegForImageSegmentation) -> None:
    """Initialise a segmenter with small patches from the weights of one with large patches.

    Weights that depend on the patch size are resampled: the filters that read and write pixels, and the positions.
    """
    state = dict(coarse.state_dict())
    embeddings = "clip.vision_model.embeddings."
    input_weight, output_weight = f"{embeddings}patch_embedding.weight", "decoder.transposed_convolution.weight"
    position, position_ids = f"{embeddings}position_embedding.weight", f"{embeddings}position_ids"
    scale = coarse.config.vision_config.patch_size / fine.config.vision_config.patch_size
    patch_size = fine.config.vision_config.patch_size
    state[input_weight] = _resize(state[input_weight], patch_size) * scale**2  # it sums over fewer pixels
    state[output_weight] = _resize(state[output_weight], patch_size)
    class_position, grid = state[position][:1], state[position][1:].T
    edge = world.SIZE // coarse.config.vision_config.patch_size
    grid = F.interpolate(grid.view(1, -1, edge, edge), scale_factor=scale, mode="bilinear")
    state[position] = torch.cat([class_position, grid[0].flatten(1).T])
    state.pop(position_ids, None)
    fine.load_state_dict(state, strict=False)


def train(
    work: Path,
    device: str,
    seed: int,
    settings: FitSettings = SETTINGS,
    pool: int = POOL,
    start: CLIPSegForImageSegmentation | None = None,
) -> CLIPSegForImageSegmentation:
    """Train to the end, resuming an earlier run if there is one, and return the averaged network.

    Args:
        start: A segmenter with patches of any size whose weights initialise the training.
    """
    torch.manual_seed(seed)
    tokenizer = open_part(AutoTokenizer, WEIGHTS / "tokenizer", "pocket")
    held_out, book = draw_many(256, world.generator("watch segmenter", seed)), Phrasebook(tokenizer)

    def objective(network: SegmenterWithHead, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        pixels = batch[0]
        # On a CPU, bf16 makes these narrow layers slower, not faster.
        with torch.autocast(pixels.device.type, enabled=pixels.device.type != "cpu"):
            return compute_losses(network, Batch(*batch))

    def evaluate(network: SegmenterWithHead) -> dict[str, float]:
        return measure(network.segmenter, held_out, tokenizer)._asdict()

    network = build(tokenizer)
    if start is not None:
        refine(start, network)
    fitted: SegmenterWithHead = fit(
        "segmenter", SegmenterWithHead(network), objective, lambda step: batches(seed, step, settings, book, pool),
        settings, work, device, evaluate,
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
