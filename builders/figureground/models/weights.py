"""Locates, identifies and checks a checkpoint's files without opening them as a model."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError, RecipeError, join_names
from figureground.core.lfs import refuse_pointer
from figureground.models.bundled import WEIGHTS
from figureground.models.family import Family, recognise
from figureground.models.headers import read_shapes
from figureground.models.opening import refuse_code
from figureground.models.parts import check_words, find_text_config, has_part, read_config, read_vocabulary
from figureground.models.single_file import (
    check_file,
    find_configuration,
    find_single_file,
    read_file_parts,
    refuse_missing_parts,
)
from figureground.sources.provenance import find_cached_snapshot

POCKET = "pocket"
HASHED_WHOLE = 256 * 2**20
"""Files up to this size, bytes, are hashed whole, larger ones by samples: training changes every tensor."""
SAMPLES, SAMPLE = 256, 2**16
IDENTIFYING_SUFFIXES = (".json", ".safetensors", ".txt", ".model", ".jinja")
"""Suffixes of a checkpoint's files that decide images: settings, weights, vocabularies and chat templates."""


def local_directory(checkpoint: str, config: str | None = None) -> Path | None:
    """Return a checkpoint's directory on this machine; None for a Hub id.

    For a checkpoint in a single file, that is the directory with its configuration.

    Args:
        config: The recipe's `checkpoint_config`.

    Raises:
        FiguregroundError: It looks like a path but doesn't exist, or it is a single file that can't be used.
        RecipeError: Nothing configures a single file, or `config` is given for something else.
    """
    file = find_single_file(checkpoint)
    if file is not None:
        return find_configuration(file, config)
    if config is not None:
        raise RecipeError("checkpoint_config", f"checkpoint {checkpoint!r} isn't a single file. Leave it out.")
    if checkpoint == POCKET:
        if not (WEIGHTS / "model_index.json").is_file():
            raise FiguregroundError(
                "checkpoint: the pocket model's weights are missing from this install. Reinstall figureground, or "
                "train them: python -m figureground.pocket.train --out builders/figureground/pocket/weights"
            )
        return WEIGHTS
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        return path
    if checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") != 1:
        raise FiguregroundError(
            f"checkpoint: no such directory: {checkpoint!r}. Give 'pocket', a diffusers directory, a .safetensors "
            "file, or a Hub id 'user/name'."
        )
    return None


def refuse_revision(checkpoint: str, revision: str | None, folder: Path | None) -> None:
    """Raise RecipeError if a revision is given for a checkpoint on this machine.

    Args:
        folder: From `local_directory`.
    """
    if revision is not None and folder is not None:
        raise RecipeError("revision", f"it applies only to checkpoints on the Hub, and {checkpoint!r} isn't one.")


def fingerprint(checkpoint: str, revision: str | None, config: str | None = None) -> str:
    """Identify a checkpoint's content: `sha256:…` over a local one's files, else its Hub id and revision.

    A checkpoint that isn't on this machine, or isn't valid, is treated like one on the Hub, so that a plan needs no
    weights. For one in a single file, that is its content, and the files that configure it.

    Args:
        config: The recipe's `checkpoint_config`.
    """
    try:
        folder = local_directory(checkpoint, config)
        file = find_single_file(checkpoint)
        file_parts = read_file_parts(file, folder, read_family(folder, checkpoint)) if folder and file else {}
    except FiguregroundError:
        folder = None
    if folder is None or not (folder / "model_index.json").is_file():
        return f"{checkpoint}@{revision or 'main'}"
    hasher = hashlib.sha256()
    if file is not None:
        hasher.update(f"{hash_content(file)}\n".encode())
    for path in sorted(p for p in folder.rglob("*") if p.suffix in IDENTIFYING_SUFFIXES and p.is_file()):
        relative = path.relative_to(folder)
        from_file = file is not None and path.suffix == ".safetensors" and relative.parts[0] in (*file_parts, path.name)
        if not from_file and not any(part.startswith(".") for part in relative.parts):
            hasher.update(f"{relative.as_posix()}\0{hash_content(path)}\n".encode())
    return f"sha256:{hasher.hexdigest()}"


def fingerprint_files(path: Path) -> str:
    """Return `sha256:…` over a file, or over a directory's JSON, safetensors and text files (vocabularies)."""
    suffixes = (".json", ".safetensors", ".txt")
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix in suffixes and p.is_file())
    hasher = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            hasher.update(f"{file.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return f"sha256:{hasher.hexdigest()}"


def hash_content(path: Path) -> str:
    """Return a SHA-256 of a file: over all of it, or over samples and the size if it is larger than `HASHED_WHOLE`."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= HASHED_WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        hasher = hashlib.sha256(str(size).encode())
        for i in range(SAMPLES):
            file.seek((size - SAMPLE) * i // (SAMPLES - 1))
            hasher.update(file.read(SAMPLE))
        return hasher.hexdigest()


# Checks of a checkpoint before it is opened as a model

VARIANTS = (None, "fp16", "bf16")
"""Variants of weights, in order of preference; the first that all parts have is used. None: no suffix."""
_WEIGHTS = re.compile(r"[^.]+?(\.(?P<variant>[^.]+?))?(-\d{5}-of-\d{5})?\.safetensors")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def check_files(
    folder: Path,
    checkpoint: str,
    inpaint: bool = False,
    *,
    scheduler: str | None = None,
    safety: str = "off",
    steps: int | None = None,
) -> str | None:
    """Check by its files that a checkpoint is supported, complete, and free of pickles and code.

    Also checks that its parts fit together, and that a single file fits its configuration.

    Args:
        folder: The checkpoint's directory, in diffusers' layout; see `local_directory`.
        checkpoint: Its name in the recipe.
        inpaint: Whether inpainting checkpoints are accepted too.
        scheduler: The sampler, which must support the checkpoint's noise schedule; None skips that check.
        safety: `reject` if the checkpoint's safety checker, if any, will be opened.
        steps: Denoising steps, which the scheduler must be able to take; None skips that check.

    Returns:
        `fp16` or `bf16` if the weights exist only in that variant, else None.

    Raises:
        FiguregroundError: A check fails; names the file.
    """
    refuse_code(folder, f"checkpoint {checkpoint!r}")
    index, what = read_index(folder, checkpoint, inpaint), f"checkpoint {checkpoint!r}"
    family = recognise(index["_class_name"][0], what)
    parts = [part for part in family.networks if has_part(index, part)]
    file = find_single_file(checkpoint)
    file_parts = read_file_parts(file, folder, family) if file else {}
    if file is not None:
        refuse_missing_parts(file, folder, [part for part in parts if part not in file_parts])
    variants = {part: _check_part(folder, part, checkpoint) for part in parts if part not in file_parts}
    for part in (*parts, *family.TEXTS.values(), "scheduler"):
        if has_part(index, part):
            _check_settings(folder, part, checkpoint)
    if file is not None:
        check_file(file, folder, family)
    _check_fit(folder, index, family, what, inpaint)
    if scheduler is not None:
        config = _read_json(folder / "scheduler" / "scheduler_config.json", folder, checkpoint)
        family.check_schedule(config, str(index["scheduler"][-1]), scheduler, what, steps)
    if safety != "off" and family.HAS_SAFETY_CHECKER:
        _check_safety(folder, index, checkpoint)
    for variant in VARIANTS:
        if all(variant in part_variants for part_variants in variants.values()):
            return variant
    raise FiguregroundError(f"{what}: {_describe_variants(variants)} Download it in one variant.")


def _describe_variants(variants: Mapping[str, set[str | None]]) -> str:
    """Describe parts that have no common variant that can be opened."""
    unsupported = {part: part_variants for part, part_variants in variants.items() if not part_variants & set(VARIANTS)}
    if unsupported:
        names = sorted({name for part_variants in unsupported.values() for name in part_variants if name})
        return (
            f"{join_names(unsupported)} exists only as {join_names(names)}; supported are the plain weights, fp16 or "
            "bf16."
            + (" Weights without the moving average (non_ema) are for resuming training." if "non_ema" in names else "")
        )
    common = max(VARIANTS, key=lambda variant: sum(variant in part_variants for part_variants in variants.values()))
    missing = [part for part, part_variants in variants.items() if common not in part_variants]
    existing = sorted({str(name) for part in missing for name in variants[part] if name} or {"plain weights"})
    return f"{join_names(missing)} exists only as {join_names(existing)}, unlike the other parts."


def _check_safety(folder: Path, index: Mapping[str, Any], checkpoint: str) -> None:
    """Check that the safety checker named by the index exists, along with its image preprocessor."""
    if not has_part(index, "safety_checker"):
        return
    advice = f"checkpoint {checkpoint!r}: its model_index.json names a safety_checker, but "
    last = "Download it again, or leave the checker out: --set safety=off."
    if not (folder / "feature_extractor" / "preprocessor_config.json").is_file():
        raise FiguregroundError(f"{advice}feature_extractor/ has no preprocessor_config.json. {last}")
    if not (folder / "safety_checker" / "config.json").is_file():
        raise FiguregroundError(f"{advice}safety_checker/ has no config.json. {last}")
    try:
        _check_part(folder, "safety_checker", checkpoint)
    except FiguregroundError as error:
        raise FiguregroundError(f"{error} Or leave the checker out: --set safety=off.") from None


def list_weights(part: Path, variant: str | None) -> list[Path]:
    """List the safetensors files of a part's weights in a variant; None for the plain one."""
    matches = [(path, _WEIGHTS.fullmatch(path.name)) for path in sorted(part.glob("*.safetensors"))]
    return [path for path, match in matches if match and match["variant"] == variant]


def read_index(folder: Path, checkpoint: str, inpaint: bool = False) -> dict[str, Any]:
    """Read a checkpoint's `model_index.json`; inpainting checkpoints are accepted only with `inpaint`.

    Raises:
        FiguregroundError: It is missing, doesn't parse, names a pipeline of no family, or lacks a part of its family.
    """
    if not (folder / "model_index.json").is_file():
        raise FiguregroundError(f"checkpoint {checkpoint!r} is not a diffusers checkpoint: it has no model_index.json.")
    index = _read_json(folder / "model_index.json", folder, checkpoint)
    family = recognise(index.get("_class_name"), f"checkpoint {checkpoint!r}", inpaint)
    missing = [part for part in (*family.networks, *family.TEXTS.values(), "scheduler") if not index.get(part)]
    if missing:
        raise FiguregroundError(f"checkpoint {checkpoint!r} is incomplete: its model_index.json names no {missing[0]}.")
    return {name: value if isinstance(value, list) and value else [value] for name, value in index.items()}


def read_family(folder: Path, checkpoint: str) -> Family:
    """Return the family of a checkpoint's directory, also of one made for inpainting.

    Raises:
        FiguregroundError: See `read_index`.
    """
    index = read_index(folder, checkpoint, inpaint=True)
    return recognise(index["_class_name"][0], f"checkpoint {checkpoint!r}").variant(index)


def find_family(checkpoint: str, revision: str | None, config: str | None = None) -> Family | None:
    """Return the family of a checkpoint; None if it isn't on this machine or can't be used, which opening reports."""
    try:
        folder = local_directory(checkpoint, config) or find_cached_snapshot(checkpoint, revision)
        return read_family(folder, checkpoint) if folder else None
    except (FiguregroundError, OSError):
        return None


def download_file(checkpoint: str, name: str, revision: str | None) -> None:
    """Download one file of a Hub checkpoint into the cache; does nothing for others, or if that fails."""
    from huggingface_hub import hf_hub_download

    with contextlib.suppress(FiguregroundError, OSError, ValueError):
        if local_directory(checkpoint) is None:
            hf_hub_download(checkpoint, name, revision=revision)


def edge_multiple(folder: Path, checkpoint: str) -> int:
    """Return the pixels of which an image's edge must be a multiple, for a checkpoint's directory.

    Raises:
        FiguregroundError: See `read_index`.
        OSError, ValueError: The autoencoder's configuration can't be read.
    """
    return read_family(folder, checkpoint).edge_multiple(folder)


def check_size(size: int, step: int) -> None:
    """Refuse an image edge, in pixels, that isn't a multiple of a checkpoint's `edge_multiple`.

    Raises:
        RecipeError: It isn't.
    """
    if size % step:
        near = max(step, round(size / step) * step)
        raise RecipeError("size", f"{size} is not a multiple of {step}, which this checkpoint requires. Give {near}.")


def _read_json(path: Path, folder: Path, checkpoint: str) -> dict[str, Any]:
    where = f"checkpoint {checkpoint!r}: its {path.relative_to(folder).as_posix()}"
    try:
        data = path.read_bytes()
        loaded = json.loads(data.decode("utf-8"))
    except FileNotFoundError:
        raise FiguregroundError(
            f"checkpoint {checkpoint!r} is incomplete: it has no {path.relative_to(folder).as_posix()}."
        ) from None
    except json.JSONDecodeError as error:
        refuse_pointer(path, where)
        raise FiguregroundError(f"{where} doesn't parse (line {error.lineno}). Download it again.") from None
    except UnicodeDecodeError:
        raise FiguregroundError(f"{where} is not text. Download it again.") from None
    if not isinstance(loaded, dict):
        raise FiguregroundError(f"{where} is not a JSON object. Download it again.")
    return loaded


def _check_settings(folder: Path, part: str, checkpoint: str) -> None:
    """Check that a part's config, or a tokenizer's vocabulary, exists."""
    if not part.startswith("tokenizer"):
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        _read_json(folder / part / name, folder, checkpoint)
        return
    vocabulary = [folder / part / name for name in ("tokenizer.json", "vocab.json")]
    existing = [path for path in vocabulary if path.is_file()]
    if not existing:
        raise FiguregroundError(f"checkpoint {checkpoint!r} is incomplete: {part}/ has no vocabulary.")
    _read_json(existing[0], folder, checkpoint)


def _check_fit(folder: Path, index: Mapping[str, Any], family: Family, what: str, inpaint: bool) -> None:
    """Refuse a checkpoint whose parts don't fit together.

    The family compares its denoiser with the autoencoder and the text encoders. Each tokenizer's words are compared
    with the rows of its text encoder: a word without a row would be an index out of range during drawing.

    Args:
        folder: The checkpoint's directory; its configuration files exist and parse.
        index: Output of `read_index`.
        what: The checkpoint's name in errors.
        inpaint: Whether the denoiser may also take a mask and a masked image.

    Raises:
        FiguregroundError: Two parts don't fit; names both and their sizes.
    """
    texts = {name: read_config(folder, name) for name in family.TEXTS if has_part(index, name)}
    family.check_denoiser(read_config(folder, family.DENOISER), read_config(folder, "vae"), texts, what, inpaint)
    for name, text in texts.items():
        tokenizer, rows = family.TEXTS[name], text.get("vocab_size", find_text_config(text).get("vocab_size"))
        if isinstance(rows, int) and has_part(index, tokenizer):
            check_words(read_vocabulary(folder / tokenizer), rows, f"{what}: its {tokenizer} and {name}")


def _check_part(folder: Path, part: str, checkpoint: str) -> set[str | None]:
    """Return the variants in which a part's weights are complete; None for the plain one."""
    variants: set[str | None] = set()
    for path in sorted((folder / part).glob("*.safetensors")):
        match = _WEIGHTS.fullmatch(path.name)
        if match:
            if match["variant"] in VARIANTS:
                _check_weights(path, folder, checkpoint)
            variants.add(match["variant"])
    for path in sorted((folder / part).glob("*.safetensors.index*.json")):
        names = set(_read_json(path, folder, checkpoint).get("weight_map", {}).values())
        missing = sorted(name for name in names if not (folder / part / str(name)).is_file())
        if missing:
            raise FiguregroundError(
                f"checkpoint {checkpoint!r} is incomplete: {part}/{missing[0]}, named in {path.name}, is missing."
            )
    if variants:
        return variants
    pickles = sorted(p.name for p in (folder / part).glob("*") if p.suffix in _PICKLES)
    if pickles:
        raise FiguregroundError(
            f"checkpoint {checkpoint!r}: {part} exists only as a pickle ({pickles[0]}), which can run code "
            "when it is opened. If you trust it, convert it: "
            "DiffusionPipeline.from_pretrained(…, use_safetensors=False).save_pretrained('converted')."
        )
    raise FiguregroundError(f"checkpoint {checkpoint!r} is incomplete: {part}/ has no .safetensors file.")


def _check_weights(path: Path, folder: Path, checkpoint: str) -> None:
    """Compare the length of a safetensors file with its header."""
    read_shapes(path, f"checkpoint {checkpoint!r}: its {path.relative_to(folder).as_posix()}")
