"""Learns a token: a few pictures become embedding vectors of a new word, and nothing else of the model changes.

Textual inversion (Gal et al. 2022, arXiv 2208.01618). The loss may be taken inside masks, so that the object is learned
and not what is behind it. Vectors keep the length that the noun's have: after each step they are put back on that
sphere, so there is no weight decay. Left free on the pocket model, one grew to five times the length of its noun's,
which no ordinary embedding has; of two seeds one then drew a little better, the other a little worse.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from figureground.diffusion import inputs, objective
from figureground.diffusion.checkpoint import Checkpoint, choose_device, is_out_of_memory, open_checkpoint
from figureground.diffusion.curves import CSV, GRADIENT, PNG, Curves, NotFinite
from figureground.diffusion.denoiser import Denoiser, tokenize
from figureground.diffusion.dreambooth import SECONDS_BETWEEN_LOOKS, choose_dtype
from figureground.diffusion.latents import Posteriors, encode
from figureground.diffusion.references import References
from figureground.diffusion.state import STATE, read_state, save_state, saved_threads
from figureground.diffusion.training import in_turn
from figureground.errors import FiguregroundError, RecipeError, counted, listed, printable
from figureground.finetuning import Finetuning
from figureground.guide import mask_beside
from figureground.images import UnreadableImage, center_square, content_hash, list_images, list_odd, read_image
from figureground.inverting import PLACE, POCKET, Inversion, check_token, settings_for
from figureground.numerics import library_versions
from figureground.recipe import differences
from figureground.references import LEAST
from figureground.run import disk, signals
from figureground.run.progress import Progress
from figureground.sample import derive_seed
from figureground.shards.writer import lock, replace_bytes, replace_text
from figureground.weights import check_size, fingerprint, local_directory

__all__ = ["POCKET", "Inversion", "invert", "load_tokens", "settings_for"]

EMBEDDINGS = "learned_embeds.safetensors"
"""The vectors, under the name by which `load_textual_inversion` looks for them."""
INVERSION = "inversion.json"
"""Written last: a directory that has it holds a finished token."""
LOCK = ".invert.lock"
"""Held by the process that learns in a directory."""
FORMAT = 1
KEYS = {"sdxl": ("clip_l", "clip_g")}
"""What the vectors of each text encoder are called in a file; elsewhere it is the token."""
TOLD = "figureground"
"""The entry of a file's metadata that says token and checkpoint. A single one: the order of several isn't kept."""
SHAPE = 0.05
"""By what share the aspect ratio of a mask may differ from its picture's."""
OLD_END = 2
"""What older CLIP configs call the end of a text."""


def invert(
    pictures: Path | Sequence[Path],
    noun: str,
    token: str,
    out: Path,
    settings: Inversion = POCKET,
    *,
    masks: Sequence[Path] | None = None,
    device: str = "auto",
    show_progress: bool = True,
) -> Path:
    """Learns a token into a directory, or goes on with what a stopped run left there.

    A run that is killed goes on from its last saved state and ends with the same vectors, to the bit, as one that
    nothing stopped (same device, dtype and number of threads). A finished token is left as it is.

    Args:
        pictures: Three or more of what is learned: a folder, or files.
        noun: What they show, `mug`: the vectors begin as its embedding, the mean of those of its pieces.
        token: What stands for them in prompts, `<mug>`.
        out: Gets `learned_embeds.safetensors`, which diffusers' `load_textual_inversion` opens (of SDXL its tensors
            `clip_l` and `clip_g`, with `token=`), `inversion.json` (all that made it), `curves.csv`, `curves.png`, and
            while it isn't finished the state.
        masks: With `masked`, the mask of each picture, in their order (a folder's are in the order of their names);
            white is what is learned. None takes `x.mask.png` beside `x.jpg`.
        device: auto, cpu, cuda, cuda:1 or mps.

    Returns:
        `out`.

    Raises:
        FiguregroundError: Something given can't be used; `out` holds something else, or a token from other inputs;
            memory or disk is full; or the loss is no number.
    """
    asked = _Asked(pictures, noun, token, Path(out), settings, masks, show_progress)
    kept = _Kept(asked)
    try:
        _invert(asked, device, kept)
    except KeyboardInterrupt as error:
        if kept.said():
            error.add_note(kept.said())
        raise
    except NotFinite as error:
        raise FiguregroundError(" ".join(filter(None, [str(error), kept.said(), ADVICE_NOT_FINITE]))) from error
    except OSError as error:
        if trouble := disk.explain(error, asked.out):
            raise FiguregroundError(f"{trouble} {kept.said()}".strip()) from error
        raise
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise FiguregroundError(f"{_advise_memory(settings)} {kept.said()}".strip()) from error
        raise
    return asked.out


ADVICE_NOT_FINITE = (
    "Most likely the learning rate is too high for what is computed in: learn in another directory with a lower "
    "learning_rate, or with dtype float32."
)


def _advise_memory(settings: Inversion) -> str:
    ways = ["a smaller batch_size"] if settings.batch_size > 1 else []
    if not settings.gradient_checkpointing:
        ways.append("gradient_checkpointing")
    return f"The device's memory is full. Give {', or '.join([*ways, 'a smaller size'])}."


@dataclass(frozen=True)
class _Asked:
    """What `invert` was called with."""

    pictures: Path | Sequence[Path]
    noun: str
    token: str
    out: Path
    settings: Inversion
    masks: Sequence[Path] | None
    show_progress: bool


@dataclass
class _Kept:
    """What is on disk of an unfinished run."""

    asked: _Asked
    step: int = 0
    usable: Path | None = None
    """What was written of the vectors by then."""

    def said(self) -> str:
        """A sentence or two, or nothing."""
        if not self.step:
            return ""
        out, steps = self.asked.out, self.asked.settings.steps
        said = f"Step {self.step:,} of {steps:,} is saved in {out}, and the same command goes on from there."
        return f"{said} {self.usable} holds what was learned by then." if self.usable else said


# Pictures


class _Picture(NamedTuple):
    """One picture of what is learned."""

    name: str
    """Of its file; where several have one name, with a number."""
    sha256: str
    """Of its file."""
    image: Image.Image
    """RGB, the largest square around the centre, size × size."""
    mask: Image.Image | None
    """L, that square of the mask, in the mask's own pixels."""
    mask_sha256: str | None
    """Of the mask's file."""


def _read_pictures(asked: _Asked, size: int) -> tuple[list[_Picture], References]:
    """The pictures, in the order of their names, each once; and what was left out.

    Raises:
        FiguregroundError: There are fewer than three that can be read, or masks that are missing or of no use.
    """
    if isinstance(asked.pictures, str | Path):
        folder = Path(asked.pictures)
        if not folder.is_dir():
            raise FiguregroundError(f"pictures: there is no directory {folder}.")
        files, unreadable = list_images(folder), [(path.name, reason) for path, reason in list_odd(folder)]
        where = f"{folder} holds"
    else:
        files, unreadable = [Path(path) for path in asked.pictures], []
        where = f"of {counted(len(asked.pictures), 'file')} there {'is' if len(asked.pictures) == 1 else 'are'}"
    masks = _masks_of(files, asked)
    found: list[_Picture] = []
    seen: dict[str, str] = {}
    repeated: list[tuple[str, str]] = []
    for path, mask in sorted(zip(files, masks, strict=True), key=lambda pair: (pair[0].name, str(pair[0]))):
        try:
            picture = read_image(path)
        except UnreadableImage as error:
            unreadable.append((path.name, error.reason))
            continue
        pixels = hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()
        if pixels in seen:
            repeated.append((path.name, seen[pixels]))
            continue
        seen[pixels] = path.name
        square = None if mask is None else _read_mask(mask, picture.size)
        found.append(
            _Picture(
                path.name, content_hash(path), center_square(picture, size), square,
                None if mask is None else content_hash(mask),
            )
        )  # fmt: skip
    left_out = References((), tuple(unreadable), tuple(repeated))
    if len(found) < LEAST:
        have = counted(len(found), "picture") if found else "no picture"
        told = f"pictures: {where} {have} that can be used, and a token needs at least {LEAST} different ones."
        raise FiguregroundError(" ".join([told, *left_out.notes()]))
    found.sort(key=lambda picture: (picture.name, picture.sha256))
    return _name_apart(found), left_out


def _name_apart(pictures: Sequence[_Picture]) -> list[_Picture]:
    """With a number after a name that came before."""
    times: dict[str, int] = {}
    named = []
    for picture in pictures:
        times[picture.name] = n = times.get(picture.name, 0) + 1
        named.append(picture if n == 1 else picture._replace(name=f"{picture.name} ({n})"))
    return named


def _masks_of(files: Sequence[Path], asked: _Asked) -> Sequence[Path | None]:
    """The mask file of each picture, or None for all."""
    if not asked.settings.masked:
        if asked.masks is not None:
            raise RecipeError("masked", "masks were given, and it is off: the loss wouldn't heed them.")
        return [None] * len(files)
    if asked.masks is None:
        lacking = [path.name for path in files if mask_beside(path) is None]
        if lacking:
            raise FiguregroundError(
                f"masked: {len(lacking)} of {counted(len(files), 'picture')} have no mask, x.mask.png beside x.jpg: "
                f"{listed(map(printable, lacking), 4)}. Put masks there, or set masked to false."
            )
        return [mask_beside(path) for path in files]
    if len(asked.masks) != len(files):
        raise FiguregroundError(
            f"masks: there are {len(asked.masks)} of them and {counted(len(files), 'picture')}; each needs its own."
        )
    return [Path(path) for path in asked.masks]


def _read_mask(path: Path, size: tuple[int, int]) -> Image.Image:
    """A mask's largest square around the centre, L; its highest value is 255, since many masks hold 0 and 1."""
    where = f"the mask {printable(path.parent.name)}/{printable(path.name)}"
    try:
        picture = read_image(path, "RGBA")
    except UnreadableImage as error:
        raise FiguregroundError(f"{where} can't be read: {error.reason}.") from None
    if abs(picture.width * size[1] / (picture.height * size[0]) - 1) > SHAPE:
        raise FiguregroundError(
            f"{where} is {picture.width} by {picture.height} pixels and its picture, upright, {size[0]} by {size[1]}: "
            "they must have the same shape."
        )
    shown = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture).convert("RGB")
    square = center_square(shown, min(shown.size))
    values = np.asarray(square, np.float64).max(axis=2)
    if not values.any():
        raise FiguregroundError(
            f"{where} covers nothing of its picture's centre square, so nothing could be learned from it. Leave the "
            "picture out, or mend the mask."
        )
    return Image.fromarray(np.rint(values * (255 / np.asarray(shown).max())).astype(np.uint8))


def _to_grid(mask: Image.Image, edge: int, flip: bool) -> Tensor:
    """The share of each latent pixel that a mask covers, float32 (1 or 2 with the mirrored one, 1, edge, edge)."""
    small = mask.convert("F").resize((edge, edge), Image.Resampling.BOX)  # in 8 bits a small mask might vanish
    shares = torch.from_numpy(np.array(small, np.float32) / 255)[None, None]
    return torch.cat([shares, shares.flip(-1)]) if flip else shares


# The door: everything that can be refused is refused before anything is written


def _invert(asked: _Asked, device_name: str, kept: _Kept) -> None:
    settings, out = asked.settings, asked.out
    check_token(asked.token)
    if not asked.noun.strip() or asked.noun != " ".join(asked.noun.split()) or set(asked.noun) & set("{}<>"):
        raise RecipeError("noun", f"{asked.noun!r} is not a word or a few.")
    _refuse_strangers(out)
    finished = _read_facts(out)
    size = int(finished["inputs"]["size"]) if finished and settings.size is None else _choose_size(settings)
    pictures, left_out = _read_pictures(asked, size)
    identity = _identify(asked, size, pictures)
    if _is_finished(out, identity):
        return
    device = choose_device(device_name)
    dtype = choose_dtype(settings.dtype, device)
    made_with = {**identity, "device": device.type, "computed_in": str(dtype).removeprefix("torch.")}
    read_state(out / STATE, made_with, device)
    if device.type == "cpu" and (threads := saved_threads(out / STATE)):
        torch.set_num_threads(threads)  # sums are split up by threads, and round as they are split
    checkpoint = _open(settings, device, dtype)
    check_size(size, checkpoint.factor)
    _check_words(checkpoint, asked)
    with contextlib.ExitStack() as stack:
        if not stack.enter_context(lock(out / LOCK)):
            raise FiguregroundError(f"{out}: another process learns a token there.")
        stack.callback((out / LOCK).unlink, missing_ok=True)
        _refuse_strangers(out)  # another process may have been here while the checkpoint was opened
        if _is_finished(out, identity):
            return
        for path in [*out.glob(".*.part"), *out.glob(".*.tmp")]:  # what a killed run was writing
            path.unlink()
        for note in left_out.notes():
            tqdm.write(f"figureground: {note}", file=sys.stderr)
        with signals.at_checks():
            _Session(asked, pictures, identity, made_with, checkpoint, size, dtype, device, kept).run()


def _choose_size(settings: Inversion) -> int:
    """Edge in pixels: as set, or the checkpoint's own."""
    return inputs.choose_size(
        Finetuning(settings.checkpoint, settings.revision, size=settings.size, sfsl_weight=0.0), Path(), finished=False
    )


def _identify(asked: _Asked, size: int, pictures: Sequence[_Picture]) -> dict[str, Any]:
    """All that decides a token, as JSON: contents instead of places."""
    settings = dataclasses.replace(asked.settings, size=size)
    said = {name: value for name, value in settings.to_json().items() if name not in Inversion.EXECUTION}
    folder = local_directory(settings.checkpoint)
    if folder is not None and settings.checkpoint != POCKET.checkpoint:
        said["checkpoint"] = folder.resolve().name
    identity = {
        "noun": asked.noun, "token": asked.token, **said,
        "checkpoint_content": fingerprint(settings.checkpoint, settings.revision),
        "pictures": {
            p.name: {"sha256": p.sha256, **({"mask_sha256": p.mask_sha256} if p.mask_sha256 else {})} for p in pictures
        },
    }  # fmt: skip
    return json.loads(json.dumps(identity))


def _refuse_strangers(out: Path) -> None:
    """Raises FiguregroundError if a directory holds something else than a token, begun or finished."""
    if out.exists() and not out.is_dir():
        raise FiguregroundError(f"{out} is a file; give a directory.")
    names = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    names = [name for name in names if name != LOCK and not (name.startswith(".") and name.endswith((".part", ".tmp")))]
    ours = {EMBEDDINGS, INVERSION, STATE, CSV, PNG}
    strange = [name for name in names if name not in ours]
    if strange or (names and not {STATE, INVERSION} & set(names)):
        raise FiguregroundError(
            f"{out} holds something else ({listed(strange or names, 3)}) and was left as it is. Give a new directory."
        )


def _read_facts(out: Path) -> dict[str, Any] | None:
    """What a finished token's `inversion.json` says; None where there is none."""
    path = out / INVERSION
    if not path.is_file():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if not (isinstance(facts["sha256"], str) and isinstance(facts["inputs"]["size"], int)):
            raise TypeError("it doesn't say what it is")
    except (ValueError, KeyError, TypeError) as error:
        raise FiguregroundError(f"{path} is damaged ({error}). Remove {out} to learn the token anew.") from None
    return facts


def _is_finished(out: Path, identity: dict[str, Any]) -> bool:
    """Whether a finished token lies there; raises FiguregroundError where it is of other inputs, or damaged."""
    facts = _read_facts(out)
    if facts is None:
        return False
    if changed := differences(facts["inputs"], identity):
        raise FiguregroundError(
            f"{out} holds a token from other inputs:\n  " + "\n  ".join(changed[:12])
            + "\nGive another directory, or the same inputs again."
        )  # fmt: skip
    if not (out / EMBEDDINGS).is_file() or content_hash(out / EMBEDDINGS) != facts["sha256"]:
        raise FiguregroundError(f"{out / EMBEDDINGS} isn't what {INVERSION} says. Remove {out} to learn it anew.")
    return True


def _open(settings: Inversion, device: torch.device, dtype: torch.dtype) -> Checkpoint:
    # Nothing of it is trained, so it may be as small as what is computed in.
    checkpoint = open_checkpoint(settings.checkpoint, settings.revision, device=device, dtype=dtype, safety="off")
    objective.check_prediction(checkpoint.facts["prediction_type"])
    for network in checkpoint.text_to_image.components.values():
        if isinstance(network, nn.Module):
            network.requires_grad_(False)
    checkpoint.text_to_image.vae.to(torch.float32)
    return checkpoint


def _check_words(checkpoint: Checkpoint, asked: _Asked) -> None:
    more = asked.settings.vectors - 1
    for tokenizer in checkpoint.tokenizers:
        if not tokenizer.tokenize(asked.noun):
            raise RecipeError("noun", f"to the checkpoint's tokenizer {asked.noun!r} is nothing; give another word.")
        _check_free(tokenizer, _names(asked.token, asked.settings.vectors))
        for text in asked.settings.templates:
            # The token counts as one piece here, a word that every tokenizer has.
            count = len(tokenizer(text.replace(PLACE, "a")).input_ids) + more * text.count(PLACE)
            if count > int(tokenizer.model_max_length):
                raise RecipeError(
                    "vectors",
                    f"with {more + 1} of them {text!r} has {count} tokens, and the text encoder reads "
                    f"{tokenizer.model_max_length}.",
                )


# Tokens


def _names(token: str, vectors: int) -> list[str]:
    """What a tokenizer calls the vectors of a token: `<mug>`, `<mug>_1`, `<mug>_2`…, as diffusers does."""
    return [token, *(f"{token}_{i}" for i in range(1, vectors))]


def _check_free(tokenizer: Any, names: Sequence[str]) -> None:
    """Raises RecipeError for names that a tokenizer knows already."""
    known = tokenizer.get_vocab()
    for name in names:
        if name in known or f"{name}</w>" in known:
            raise RecipeError(
                "token", f"{name!r} is a word that the checkpoint's tokenizer knows; take another, such as '<my-mug>'."
            )


def _encoders(checkpoint: Checkpoint) -> list[Any]:
    """The text encoders, one a tokenizer."""
    both = (checkpoint.text_to_image.text_encoder, getattr(checkpoint.text_to_image, "text_encoder_2", None))
    return [encoder for encoder in both if encoder is not None]


def _add_rows(tokenizer: Any, encoder: Any, names: Sequence[str], rows: Tensor) -> list[int]:
    """Makes a tokenizer know names and a text encoder their embeddings, (names, width); returns their numbers."""
    tokenizer.add_tokens(list(names))
    ids = [int(i) for i in tokenizer.convert_tokens_to_ids(list(names))]
    table = encoder.get_input_embeddings()
    if max(ids) >= table.num_embeddings:
        with torch.random.fork_rng(devices=[]):  # new rows are random at first
            encoder.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
        table = encoder.get_input_embeddings()
    with torch.no_grad():
        table.weight[ids] = rows.to(table.weight.device, table.weight.dtype)
    for module in encoder.modules():
        # With the old number, a text ends where its highest token is: at the new ones, which are higher still.
        if getattr(module, "eos_token_id", None) == OLD_END:
            module.eos_token_id = tokenizer.eos_token_id
    return ids


@dataclass(frozen=True)
class _Learned:
    """A token on disk."""

    path: Path
    token: str
    rows: tuple[Tensor, ...]
    """(vectors, width) for each text encoder."""
    checkpoint: str
    """What it was learned with, in words."""


def load_tokens(checkpoint: Checkpoint, files: Sequence[Path]) -> None:
    """Makes an opened checkpoint know learned tokens: all its pipelines do, since they share what reads prompts.

    It does what diffusers' `load_textual_inversion` does, and also mends text encoders with an old end of text, which
    SDXL's second one is: there the pooled embedding would be read at the token instead of the end of the prompt.
    A token of several vectors is expanded where prompts are encoded. A file that was loaded before changes nothing, and
    if one of the files can't be used none is loaded. Load before anything is drawn: a renderer keeps encoded prompts.

    Args:
        files: `learned_embeds.safetensors` as `invert` writes them, or the directories that hold them.

    Raises:
        FiguregroundError: A file is missing, damaged or for another kind of checkpoint; or its token is a word that the
            tokenizer knows, or one that was loaded from another file.
    """
    encoders, tokenizers = _encoders(checkpoint), checkpoint.tokenizers
    wanted: dict[str, _Learned] = {}
    for path in files:
        learned = _read_learned(Path(path), checkpoint)
        other = wanted.setdefault(learned.token, learned)
        if not all(torch.equal(a, b) for a, b in zip(learned.rows, other.rows, strict=True)):
            raise FiguregroundError(f"{learned.token} is in {other.path} and, with other vectors, in {learned.path}.")
    new = [
        learned
        for learned in wanted.values()
        if not all(_knows(t, e, learned, rows) for t, e, rows in zip(tokenizers, encoders, learned.rows, strict=True))
    ]
    for learned in new:
        for tokenizer, encoder, rows in zip(tokenizers, encoders, learned.rows, strict=True):
            _add_rows(tokenizer, encoder, _names(learned.token, len(rows)), rows)


def _knows(tokenizer: Any, encoder: Any, learned: _Learned, rows: Tensor) -> bool:
    """Whether a token is loaded already; raises FiguregroundError where it is something else."""
    names, added = _names(learned.token, len(rows) + 1), tokenizer.added_tokens_encoder
    if learned.token not in added:
        try:
            _check_free(tokenizer, names)
        except RecipeError as error:
            raise FiguregroundError(f"{learned.path}: {error}") from None
        return False
    table = encoder.get_input_embeddings().weight
    as_many = [name in added for name in names] == [True] * len(rows) + [False]
    if not as_many or not torch.equal(table[[added[n] for n in names[:-1]]], rows.to(table.device, table.dtype)):
        raise FiguregroundError(
            f"{learned.path}: {learned.token} is known to the checkpoint already, with other vectors. Learn one of "
            "them under another name."
        )
    return True


def _read_learned(path: Path, checkpoint: Checkpoint) -> _Learned:
    path = path / EMBEDDINGS if path.is_dir() else path
    try:
        with safetensors.safe_open(path, "pt") as file:
            told = json.loads((file.metadata() or {}).get(TOLD, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise FiguregroundError(f"{path}: there is no such file; is the token learned to its end?") from None
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        said = (str(error).splitlines() or ["?"])[0]
        raise FiguregroundError(f"{path} doesn't open as learned embeddings ({said}).") from None
    made_for = told.get("checkpoint", "another checkpoint")
    keys = KEYS.get(checkpoint.family) or tuple(tensors)
    if set(tensors) != set(keys) or len(keys) != len(_encoders(checkpoint)):
        raise FiguregroundError(
            f"{path} holds {listed(sorted(tensors), 3)}, learned with {made_for}; {checkpoint.facts['checkpoint']} has "
            f"{counted(len(_encoders(checkpoint)), 'text encoder')} and needs vectors for each. Learn the token for it."
        )
    token = told.get("token") or (keys[0] if checkpoint.family not in KEYS else None)
    if token is None:
        raise FiguregroundError(f"{path} doesn't say what its token is. Learn it with figureground.")
    rows = tuple(torch.atleast_2d(tensors[key]).float() for key in keys)
    for each, encoder in zip(rows, _encoders(checkpoint), strict=True):
        width = encoder.get_input_embeddings().embedding_dim
        if each.ndim != 2 or each.shape[1] != width:
            raise FiguregroundError(
                f"{path}: {token} has vectors of {each.shape[-1]} numbers, learned with {made_for}, and "
                f"{checkpoint.facts['checkpoint']} needs {width}. Learn the token for this checkpoint."
            )
        if not torch.isfinite(each).all():
            raise FiguregroundError(f"{path}: the vectors of {token} hold NaN or infinity. Learn it again.")
    return _Learned(path, token, rows, made_for)


# Learning


class Inverting:
    """Everything that changes while a token is learned: its vectors, and their optimizer.

    Nothing random is remembered between steps: pictures, templates, noise and noise levels follow from the seed and the
    number of the step alone.

    Args:
        checkpoint: Nothing of it may require gradients. Its tokenizers and text encoders come to know the token.
        pictures: Encoded.
        masks: The share of each latent pixel that counts, (pictures, 1 or 2, 1, height, width); None is all.
        size: Edge in pixels.
        dtype: What is computed in: float32, or bfloat16 by autocast.
    """

    curve_names = ("total", "denoising", GRADIENT)

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: Inversion,
        noun: str,
        token: str,
        pictures: Posteriors,
        masks: Tensor | None,
        size: int,
        dtype: torch.dtype,
    ):
        self.settings = settings
        self._pictures, self._masks, self._dtype = pictures, masks, dtype
        pipeline = checkpoint.text_to_image
        self._device = pipeline.device
        self._alphas_bar = pipeline.scheduler.alphas_cumprod.to(self._device, torch.float32)
        self._prediction_type = checkpoint.facts["prediction_type"]
        self._denoiser = Denoiser(checkpoint, size)
        names = _names(token, settings.vectors)
        self.vectors: list[nn.Parameter] = []
        """(vectors, width) for each text encoder, float32."""
        self.noun: list[Tensor] = []
        """What each began as, (width,)."""
        self._lengths: list[Tensor] = []
        for tokenizer, encoder in zip(checkpoint.tokenizers, _encoders(checkpoint), strict=True):
            pieces = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(noun))
            own = encoder.get_input_embeddings().weight[pieces].detach().float()
            length = own.norm(dim=1).mean()
            start = own.mean(0) * (length / own.mean(0).norm())
            rows = start.expand(settings.vectors, -1).contiguous()
            first = _add_rows(tokenizer, encoder, names, rows)[0]
            vectors = nn.Parameter(rows.clone())
            encoder.get_input_embeddings().register_forward_hook(_put_in(vectors, first))
            self.vectors.append(vectors)
            self.noun.append(start)
            self._lengths.append(length)
        self._optimizer = torch.optim.Adam(self.vectors, lr=settings.learning_rate, fused=True)
        if settings.gradient_checkpointing:
            self._denoiser.unet.enable_gradient_checkpointing()
        # Each tokenizer has the same names, so one expands for all.
        texts = [
            pipeline.maybe_convert_prompt(text.replace(PLACE, token), checkpoint.tokenizers[0])
            for text in settings.templates
        ]
        ids, padding = tokenize(checkpoint.tokenizers, texts)
        self._ids, self._padding = [i.to(self._device) for i in ids], [m.to(self._device) for m in padding]

    def step(self, number: int) -> Tensor:
        """Does the step of that number, from 0; returns the values of `curve_names`, on the device."""
        self._denoiser.train()
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * (1 - number / self.settings.steps)
        total, denoising = self._losses(number)
        total.backward()
        gradient = torch.stack([v.grad.norm() for v in self.vectors if v.grad is not None]).norm()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for vectors, length in zip(self.vectors, self._lengths, strict=True):
                vectors.mul_(length / vectors.norm(dim=1, keepdim=True))
        return torch.stack([total.detach(), denoising.detach(), gradient])

    def _losses(self, step: int) -> tuple[Tensor, Tensor]:
        """The mean squared error, with min-SNR weights and without."""
        settings, device, n = self.settings, self._device, self.settings.batch_size
        generator = torch.Generator().manual_seed(derive_seed(settings.seed, "step", str(step)))
        shape = (n, *self._pictures.mean.shape[2:])
        mirrored = (torch.rand(n, generator=generator) < 0.5).to(device)
        spread = torch.randn(shape, generator=generator).to(device)
        noise = torch.randn(shape, generator=generator).to(device)
        time = torch.randint(len(self._alphas_bar), (n,), generator=generator).to(device)
        templates = torch.randint(len(settings.templates), (n,), generator=generator)
        turns = [in_turn(len(self._pictures), step * n + i, settings.seed, "pictures") for i in range(n)]
        rows = torch.tensor(turns, device=device)
        clean = self._pictures.sample(rows, mirrored, spread)
        alphas_bar = self._alphas_bar[time]
        noisy = objective.add_noise(clean, noise, alphas_bar)
        wanted = objective.target(clean, noise, alphas_bar, self._prediction_type)
        used, places = (each.to(device) for each in templates.unique(return_inverse=True))
        ids, padding = [i[used] for i in self._ids], [m[used] for m in self._padding]
        with torch.autocast(device.type, self._dtype, enabled=self._dtype != torch.float32):
            prediction = self._denoiser(noisy, time, ids, padding, places, None).float()
        error = (prediction - wanted).square().mean(1, keepdim=True)
        if self._masks is not None:
            masks = self._masks[rows, mirrored.long() if self._masks.shape[1] == 2 else torch.zeros_like(rows)]
            each = (error * masks).sum((1, 2, 3)) / masks.sum((1, 2, 3))
        else:
            each = error.mean((1, 2, 3))
        weights = objective.min_snr_weights(alphas_bar, settings.min_snr_gamma, self._prediction_type)
        return (weights * each).mean(), each.mean()

    def rows(self) -> list[Tensor]:
        """The vectors as they are now, (vectors, width) for each text encoder, float32 on the CPU."""
        return [vectors.detach().float().cpu().clone() for vectors in self.vectors]

    def state(self) -> dict[str, Any]:
        """All that the next step depends on; `restore` takes it."""
        return {"vectors": [v.detach() for v in self.vectors], "optimizer": self._optimizer.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for vectors, value in zip(self.vectors, state["vectors"], strict=True):
                vectors.copy_(value)
        self._optimizer.load_state_dict(state["optimizer"])


def _put_in(vectors: Tensor, first: int) -> Any:
    """A hook that puts trained rows in the place of a table's, so that no other row can change."""

    def put_in(table: nn.Module, given: tuple[Tensor], found: Tensor) -> Tensor:
        ids = given[0]
        ours = (ids >= first) & (ids < first + len(vectors))
        return torch.where(ours[..., None], vectors[(ids - first).clamp(0, len(vectors) - 1)].to(found.dtype), found)

    return put_in


@dataclass
class _Session:
    """The work on a token, from encoded pictures to `inversion.json`."""

    asked: _Asked
    pictures: list[_Picture]
    identity: dict[str, Any]
    made_with: dict[str, Any]
    checkpoint: Checkpoint
    size: int
    dtype: torch.dtype
    device: torch.device
    kept: _Kept
    inverting: Inverting = field(init=False)
    curves: Curves = field(init=False)

    def run(self) -> None:
        asked, settings = self.asked, self.asked.settings
        posteriors = encode(
            self.checkpoint.text_to_image.vae, [p.image for p in self.pictures], settings.flip, signals.check
        )
        grids = [
            _to_grid(p.mask, posteriors.mean.shape[-1], settings.flip) for p in self.pictures if p.mask is not None
        ]
        masks = torch.stack(grids).to(self.device) if grids else None
        self.inverting = Inverting(
            self.checkpoint, settings, asked.noun, asked.token, posteriors, masks, self.size, self.dtype
        )
        self.curves = Curves(Inverting.curve_names)
        step, seconds = self._restore()
        if step == 0:
            self._save(0, 0.0)  # by which it is seen that the directory is ours
        try:
            seconds = self._steps(step, seconds)
        except NotFinite:
            if self.kept.step:
                self._restore()
                self._write_usable()
            raise
        self._save(settings.steps, seconds)  # a full disk must not cost what was learned since the last time
        self._finish(seconds)

    def _steps(self, step: int, earlier: float) -> float:
        """Learns to the end; returns the seconds that it took, with those of earlier runs."""
        settings, curves = self.asked.settings, self.curves
        began = last_save = last_look = time.monotonic()
        bar = Progress(
            settings.steps, initial=step, unit="step", desc=str(self.asked.out), show=self.asked.show_progress
        )
        with bar:
            while step < settings.steps:
                if signals.asked_to_stop() is not None:
                    self._save(step, earlier + time.monotonic() - began)
                    self._write_usable()
                    signals.check()
                curves.add(self.inverting.step(step))
                step += 1
                bar.update()
                if time.monotonic() - last_look > SECONDS_BETWEEN_LOOKS:
                    curves.write(self.asked.out)
                    bar.set_postfix({n: f"{v:.3g}" for n, v in curves.latest(20).items()}, refresh=False)
                    last_look = time.monotonic()
                if step < settings.steps and time.monotonic() - last_save >= settings.save_seconds:
                    self._save(step, earlier + time.monotonic() - began)
                    last_save = time.monotonic()
            curves.settle()
        return earlier + time.monotonic() - began

    def _save(self, step: int, seconds: float) -> None:
        curves = self.curves.state()  # settles them: what isn't finite is never saved
        state = {
            **self.inverting.state(), "step": step, "seconds": seconds, "made_with": json.dumps(self.made_with),
            "threads": torch.get_num_threads(), "curves": curves,
        }  # fmt: skip
        save_state(self.asked.out / STATE, state)
        self.kept.step = step
        self.curves.write(self.asked.out)

    def _restore(self) -> tuple[int, float]:
        """Takes up the state on disk, where there is one; returns its step and seconds."""
        state = read_state(self.asked.out / STATE, self.made_with, self.device)
        if state is None:
            return 0, 0.0
        self.inverting.restore(state)
        self.curves.restore(state["curves"])
        self.kept.step = state["step"]
        return state["step"], state["seconds"]

    # What is written

    def _write_usable(self) -> None:
        self.kept.usable = self._write()

    def _write(self) -> Path:
        facts, path = self.checkpoint.facts, self.asked.out / EMBEDDINGS
        keys = KEYS.get(self.checkpoint.family, (self.asked.token,))
        told = {"token": self.asked.token, "checkpoint": facts["checkpoint"]}
        rows = dict(zip(keys, self.inverting.rows(), strict=True))
        replace_bytes(path, save(rows, {TOLD: json.dumps(told, ensure_ascii=False)}))
        return path

    def _finish(self, seconds: float) -> None:
        settings, facts, curves, out = self.asked.settings, self.checkpoint.facts, self.curves, self.asked.out
        curves.write(out)
        curves.draw(out)
        sha256 = content_hash(self._write())
        last = max(1, min(100, settings.steps // 10))
        near = [
            torch.cosine_similarity(rows, noun.cpu()[None]).mean().item()
            for rows, noun in zip(self.inverting.rows(), self.inverting.noun, strict=True)
        ]
        done = {
            "format": FORMAT, "token": self.asked.token, "vectors": settings.vectors, "noun": self.asked.noun,
            "sha256": sha256, "base": {n: facts[n] for n in ("checkpoint", "revision", "family", "prediction_type")},
            "inputs": self.identity, "device": self.device.type, "dtype": self.made_with["computed_in"],
            "processor": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else platform.machine(),
            "threads": torch.get_num_threads(), "versions": library_versions(), "steps": settings.steps,
            "seconds": round(seconds, 1), "cosine_to_noun": [round(value, 4) for value in near],
            "losses": {"steps": last, **{name: round(value, 6) for name, value in curves.latest(last).items()}},
        }  # fmt: skip
        replace_text(out / INVERSION, json.dumps(done, indent=2, ensure_ascii=False) + "\n")
        (out / STATE).unlink(missing_ok=True)
