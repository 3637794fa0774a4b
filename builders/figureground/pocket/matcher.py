"""Training of the bundled matcher: a small CLIP of the drawn world, which tells what an image shows by prompts alone.

CLIP (Radford et al. 2021, arXiv 2103.00020) is trained to match images and captions. So much data as that needs does
not exist here, therefore four things are added. A caption counts as a match of every image of the batch for which it
holds. Prompts of all foregrounds, backgrounds and props, in changing words, are candidates for each image, as in
zero-shot use; one prompt of each group says that there is none. Images without a foreground (or background) shall
spread their probability evenly over the prompts that name one, as in outlier exposure (Hendrycks et al. 2019, arXiv
1812.04606), so that a lost object isn't taken for any. The vision tower also learns to classify the content of each
patch, and begins with the weights of the bundled segmenter's, whose patches are smaller.

Only drawings and captions are used; they pass through the pocket's autoencoder in part, but never through its
diffusion model. So the matcher can judge generated images.

The bundled weights come from `python -m figureground.pocket.matcher --work out/matcher` with its defaults: seed 0,
2,600 steps, 166,400 images, 42 minutes on one thread of a busy machine. `benchmarks/trust_scorers.py` measures them.

Run it with `python -m figureground.pocket.matcher --work DIR --out DIR`. It can be stopped at any time: the same
command resumes from its last checkpoint in `--work`, which also contains the curves.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, CLIPSegForImageSegmentation, CLIPTokenizer

from figureground.models.bundled import SEGMENTER, WEIGHTS
from figureground.models.opening import open_network, open_part
from figureground.pocket import robust, world
from figureground.pocket.examples import NOUNS, PATCH, Batch, Drawer, Pool, batches
from figureground.pocket.fitting import FitSettings, fit, run_command
from figureground.pocket.questions import GROUPS, Texts, list_prompts

SETTINGS = FitSettings(steps=2_600, batch=64, learning_rate=1.2e-3, warmup=150, ema=0.995, weight_decay=0.01)
POOL = 5_000
"""Number of drawings at first."""
HELD_OUT = 500
"""Number of other drawings that are judged at each save."""
WEIGHTS_OF_GROUPS = (1.0, 0.5, 0.3)
"""Weights of the questions in the loss: the foreground is the hardest to recognise that verification needs."""


def build(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Return an untrained matcher of images of SIZE pixels, with 0.7 M parameters."""
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
        "image_size": world.SIZE, "patch_size": PATCH,
    }  # fmt: skip
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


def initialize_from_segmenter(segmenter: CLIPSegForImageSegmentation, model: CLIPModel) -> None:
    """Copy the weights of a segmenter's vision tower, resampled to the matcher's patches."""
    state = dict(segmenter.clip.vision_model.state_dict())
    target = model.vision_model.state_dict()
    scale = model.config.vision_config.patch_size / segmenter.config.vision_config.patch_size
    patch_weight, position = "embeddings.patch_embedding.weight", "embeddings.position_embedding.weight"
    state[patch_weight] = (
        F.interpolate(state[patch_weight], target[patch_weight].shape[2:], mode="bilinear") / scale**2
    )  # sums over more pixels
    edge = round((len(state[position]) - 1) ** 0.5)
    grid = F.interpolate(
        state[position][1:].T.view(1, -1, edge, edge), scale_factor=1 / scale, mode="bilinear", antialias=True
    )
    state[position] = torch.cat([state[position][:1], grid[0].flatten(1).T])
    state.pop("embeddings.position_ids", None)
    model.vision_model.load_state_dict(state, strict=False)


class MatcherWithHead(nn.Module):
    """A matcher, with an auxiliary head that classifies the content of each patch."""

    def __init__(self, matcher: CLIPModel):
        super().__init__()
        self.matcher = matcher
        self.namer = nn.Linear(matcher.config.vision_config.hidden_size, NOUNS + 1)


def embed_images(model: CLIPModel, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return normalised embeddings (n, d) of pixels (n, 3, SIZE, SIZE) in 0..1, and their patches' tokens."""
    output = model.vision_model((pixels - robust.MEAN) / robust.STD)
    return F.normalize(model.visual_projection(output.pooler_output), dim=1), output.last_hidden_state[:, 1:]


def embed_texts(model: CLIPModel, ids: Tensor) -> Tensor:
    """Return normalised embeddings (n, d) of tokens (n, length)."""
    return F.normalize(model.text_projection(model.text_model(ids).pooler_output), dim=1)


def _compute_matching_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of a uniform distribution over the matches of each row, averaged over rows."""
    distribution = target / target.sum(1, keepdim=True).clamp_min(1)
    return -(distribution * F.log_softmax(logits, 1)).sum(1).mean()


def compute_losses(model: MatcherWithHead, batch: Batch) -> dict[str, Tensor]:
    """Compute the losses: matching of captions, questions by prompts, evenness where there is none, and patches.

    The target of the matching is uniform over all texts that hold for an image, and all images for which a text holds.
    """
    images, tokens = embed_images(model.matcher, batch.pixels)
    longest = max(batch.captions.shape[1], batch.candidates.shape[1])
    end = model.matcher.config.text_config.eos_token_id
    padded = [F.pad(ids, (0, longest - ids.shape[1]), value=end) for ids in (batch.candidates, batch.captions)]
    text_embeddings = embed_texts(model.matcher, torch.cat(padded))
    logits = images @ text_embeddings.T * model.matcher.logit_scale.clamp(max=4.6).exp()
    question_logits, caption_logits = logits.split([len(batch.candidates), len(batch.captions)], dim=1)
    target = batch.matches.float()
    matching = (_compute_matching_loss(caption_logits, target) + _compute_matching_loss(caption_logits.T, target.T)) / 2
    questions, evenness = [], []
    for score, true, weight in zip(
        question_logits.split([len(names) for names in GROUPS], dim=1), batch.labels.T, WEIGHTS_OF_GROUPS, strict=True
    ):
        questions.append(weight * F.cross_entropy(score, true, label_smoothing=0.02))
        none = (true == score.shape[1] - 1).float()
        even = -F.log_softmax(score[:, :-1], 1).mean(1)
        evenness.append(weight * (even * none).sum() / none.sum().clamp_min(1))
    question, even = torch.stack(questions).sum(), torch.stack(evenness).sum()
    naming = F.cross_entropy(model.namer(tokens).transpose(1, 2), batch.patches.flatten(2))
    total = 0.5 * matching + question + 0.1 * even + naming
    return {"loss": total, "matching": matching, "question": question, "even": even, "naming": naming}


# --- use and measurement ----------------------------------------------------------------------------


@torch.no_grad()
def embed_candidates(model: CLIPModel, texts: Texts, group: int) -> Tensor:
    """Return the embeddings (labels, d) of the labels of one of `GROUPS`: the mean over their prompts, normalised."""
    device = next(model.parameters()).device
    means = [embed_texts(model, texts.tokenize(list_prompts(group, name)).to(device)).mean(0) for name in GROUPS[group]]
    return F.normalize(torch.stack(means), dim=1)


def make_views(pixels: Tensor) -> list[Tensor]:
    """Return pixels (n, 3, SIZE, SIZE), mirrored, and moved by half a patch in four directions, two of them mirrored.

    What the vision tower sees depends on where the borders of its patches lie; the mean over views depends less on it.
    """
    shift = PATCH // 2
    padded = F.pad(pixels, (shift,) * 4, mode="replicate")
    crops = {
        (x, y): padded[..., y : y + world.SIZE, x : x + world.SIZE] for x in (0, 2 * shift) for y in (0, 2 * shift)
    }
    mirrored = [pixels, crops[0, 2 * shift], crops[2 * shift, 0]]
    return [pixels, crops[0, 0], crops[2 * shift, 2 * shift], *(view.flip(3) for view in mirrored)]


@torch.no_grad()
def compute_probabilities(model: CLIPModel, images: np.ndarray, texts: Tensor, *, average_views: bool = True) -> Tensor:
    """Return the probability (n, k) of each of k text embeddings for images.

    Args:
        images: uint8 (n, 3, SIZE, SIZE).
        texts: Normalised embeddings (k, d), for example those of `embed_candidates`.
        average_views: Whether to average the embeddings of six views of an image; see `make_views`.
    """
    batches = []
    for start in range(0, len(images), 64):
        x = torch.from_numpy(images[start : start + 64]).to(texts.device).float().div(255)
        views = make_views(x) if average_views else [x]
        embeddings = torch.stack([embed_images(model, view)[0] for view in views]).mean(0)
        batches.append((embeddings @ texts.T * model.logit_scale.exp()).softmax(1))
    return torch.cat(batches)


class Accuracies(NamedTuple):
    """Share of images for which the prompt of the right label is the most probable; also right where there is none."""

    foreground: float
    background: float
    prop: float


def measure(model: CLIPModel, pool: Pool, texts: Texts) -> Accuracies:
    """Answer the three questions for all images of a pool."""
    shares = []
    for group in range(len(GROUPS)):
        embeddings = embed_candidates(model, texts, group)
        probabilities = compute_probabilities(model, pool.images, embeddings, average_views=False)
        predicted = probabilities.argmax(1).cpu().numpy()
        shares.append(float((predicted == pool.labels[:, group]).mean()))
    return Accuracies(*shares)


def train(
    work: Path,
    device: str,
    seed: int,
    settings: FitSettings = SETTINGS,
    pool: int = POOL,
    start: CLIPSegForImageSegmentation | None = None,
) -> CLIPModel:
    """Train to the end, resuming an earlier run if there is one, and return the averaged network.

    Args:
        pool: Number of drawings at first.
        start: A segmenter from whose vision tower the training begins.
    """
    torch.manual_seed(seed)
    tokenizer = open_part(AutoTokenizer, WEIGHTS / "tokenizer", "pocket")
    texts = Texts(tokenizer)
    held_out = Drawer(world.generator("watch matcher", seed)).draw_many(HELD_OUT)

    def objective(network: MatcherWithHead, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        return compute_losses(network, Batch(*batch))

    def evaluate(network: MatcherWithHead) -> dict[str, float]:
        return measure(network.matcher, held_out, texts)._asdict()

    network = build(tokenizer)
    if start is not None:
        initialize_from_segmenter(start, network)
    fitted: MatcherWithHead = fit(
        "matcher", MatcherWithHead(network), objective, lambda step: batches(seed, step, texts, pool, settings.batch),
        settings, work, device, evaluate, bfloat16=device != "cpu",  # on a CPU, it makes these narrow layers slower
    )  # fmt: skip
    return fitted.matcher


def save(model: CLIPModel, out: Path) -> None:
    """Write a matcher in fp16, with its tokenizer, as a directory that transformers opens in float32."""
    robust.save(model, out, torch.float16)
    preprocessor = {**robust.PREPROCESSOR, "image_processor_type": "CLIPImageProcessor", "resample": 3}
    preprocessor |= {"do_center_crop": False, "do_convert_rgb": True}
    (out / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")
    open_part(AutoTokenizer, WEIGHTS / "tokenizer", "pocket").save_pretrained(out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m figureground.pocket.matcher", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("out/matcher"), help="checkpoint and curves (%(default)s)")
    parser.add_argument("--out", type=Path, default=None, help="where the finished one goes (default: WORK/matcher)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=SETTINGS.steps)
    parser.add_argument("--images", type=int, default=POOL, help="drawn at first (%(default)s)")
    parser.add_argument("--learning-rate", type=float, default=SETTINGS.learning_rate, help="at most (%(default)s)")
    args = parser.parse_args(arguments)
    out = args.out or args.work / "matcher"
    settings = replace(SETTINGS, steps=args.steps, learning_rate=args.learning_rate)
    start = open_network(CLIPSegForImageSegmentation, SEGMENTER, "segmenter", dtype=torch.float32)
    save(train(args.work, args.device, args.seed, settings, args.images, start=start), out)
    print(f"Wrote {out}")


if __name__ == "__main__":
    sys.exit(run_command(main))
