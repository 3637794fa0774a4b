"""Checkpoints in a single safetensors file, in their authors' naming: recognised and checked by the file's header.

Such a file holds weights alone. The configurations, tokenizers and the scheduler come from a directory in diffusers'
layout: the setting `checkpoint_config`, or a checkpoint of that kind in the Hub's cache. Parts that the file lacks are
taken from there too. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from figureground.core.errors import FiguregroundError, RecipeError, join_names
from figureground.core.files import read_json
from figureground.models.family import FAMILIES, Family
from figureground.models.headers import Shapes, find_shape, has_name_starting, read_shapes
from figureground.sources.provenance import find_cached_snapshot

FIELD = "checkpoint_config"
_V_PREDICTION = "v_pred"
"""Name of an empty tensor with which trainers mark a checkpoint that predicts v."""

_QUANTIZED = ("scaled_fp8", ".scale_weight", ".weight_scale", ".absmax", ".quant_map", ".comfy_quant")
"""Endings of the names of tensors that come with quantized weights."""


def find_single_file(checkpoint: str) -> Path | None:
    """Return the path of a checkpoint that is a single file; None for any other."""
    path = Path(checkpoint).expanduser()
    return path if path.is_file() else None


def read_file_shapes(path: Path) -> Shapes:
    """Return the shapes of a file's tensors.

    Raises:
        FiguregroundError: It isn't a safetensors file, or it is damaged.
    """
    what = f"checkpoint {path.name!r}"
    if path.suffix != ".safetensors":
        raise FiguregroundError(
            f"{what} is a file, but not a .safetensors: other formats can run code when they are opened. Convert it: "
            "StableDiffusionPipeline.from_single_file(…).save_pretrained('converted')."
        )
    return read_shapes(path, what)


def recognise_file(path: Path) -> Family:
    """Return the family of a checkpoint in a single file, by the names of its tensors.

    Raises:
        FiguregroundError: No family has its names, or the file is damaged.
    """
    shapes, families = read_file_shapes(path), []
    if quantized := next((name for name in shapes if name.endswith(_QUANTIZED)), None):
        raise FiguregroundError(
            f"checkpoint {path.name!r} holds quantized weights ({quantized}). Give the original weights; to save "
            "memory, set quantization: int8."
        )
    for name, kind in FAMILIES.items():
        layout = kind.SINGLE_FILE
        if layout is None:
            continue
        families.append(name)
        if all(has_name_starting(shapes, *marks) for marks in layout.marks) and not has_name_starting(
            shapes, *layout.lacks
        ):
            return kind()
    raise FiguregroundError(
        f"checkpoint {path.name!r} holds {len(shapes):,} tensors, such as {next(iter(shapes))}, and isn't a "
        f"single-file checkpoint of the families {join_names(families)}. Give the directory of a diffusers checkpoint. "
        "LoRA files go into loras."
    )


def find_configuration(path: Path, requested: str | None) -> Path:
    """Return the directory with the configuration of a checkpoint in a single file.

    Args:
        path: The file.
        requested: The directory that a recipe names; None to look in the Hub's cache.

    Raises:
        RecipeError: There is no such directory, or nothing configures the file; says what to give.
        FiguregroundError: The file isn't a known checkpoint.
    """
    if requested is not None:
        folder = Path(requested).expanduser()
        if not (folder / "model_index.json").is_file():
            raise RecipeError(
                FIELD, f"{requested!r} is not the directory of a diffusers checkpoint (model_index.json)."
            )
        return folder
    family, shapes = recognise_file(path), read_file_shapes(path)
    assert family.SINGLE_FILE is not None
    sources = family.SINGLE_FILE.sources(shapes)
    for source in sources:
        cached = find_cached_snapshot(source, None)
        if cached is not None and (cached / "model_index.json").is_file():
            return cached
    advice = f"Give the directory of a diffusers checkpoint of the same kind: --set {FIELD}=DIR. Its weights aren't "
    "needed"
    if sources:
        advice += f". Or download that of the usual checkpoint: hf download {sources[0]} --include '*.json' '*.txt' "
        "'*.model'"
    raise RecipeError(
        FIELD,
        f"checkpoint {path.name!r} is a single file of the family {family.NAME}, which holds neither configuration nor "
        f"tokenizer. {advice}.",
    )


def refuse_training(checkpoint: str) -> None:
    """Raise FiguregroundError for a checkpoint in a single file, which nothing here trains."""
    if find_single_file(checkpoint) is not None:
        raise FiguregroundError(
            f"checkpoint {Path(checkpoint).name!r} is a single file, and training needs a directory. Convert it: "
            "StableDiffusionPipeline.from_single_file(…).save_pretrained('converted')."
        )


def find_parts(family: Family, shapes: Shapes) -> dict[str, str]:
    """Return the parts that a file holds, each with the beginning of its tensors' names."""
    layout = family.SINGLE_FILE
    parts = {}
    for part, beginnings in layout.parts.items() if layout else ():
        matching = [beginning for beginning in beginnings if has_name_starting(shapes, beginning)]
        if matching:
            parts[part] = matching[0]
    return parts


def read_file_parts(path: Path, folder: Path, family: Family) -> dict[str, str]:
    """Return the parts that a checkpoint in a single file holds; see `find_parts`.

    Args:
        path: The file.
        folder: The directory that configures it.
        family: The directory's family.

    Raises:
        FiguregroundError: The file is damaged, no checkpoint, or of another family.
    """
    file_family = recognise_file(path)
    if file_family.SINGLE_FILE != family.SINGLE_FILE:
        raise FiguregroundError(
            f"checkpoint {path.name!r} is of the family {file_family.NAME}, but {FIELD} {folder.name!r} is of the "
            f"family {family.NAME}."
        )
    return find_parts(family, read_file_shapes(path))


def refuse_missing_parts(path: Path, folder: Path, parts: Iterable[str]) -> None:
    """Raise FiguregroundError if the directory that configures a file lacks weights of parts that the file lacks."""
    missing = [part for part in parts if not any((folder / part).glob("*.safetensors"))]
    if missing:
        raise FiguregroundError(
            f"checkpoint {path.name!r} holds no {join_names(missing)}, and neither does {FIELD} {folder.name!r}. Give "
            "a file with all weights, or the directory of a checkpoint with those that are missing."
        )


def check_file(path: Path, folder: Path, family: Family) -> None:
    """Compare the sizes of a checkpoint in a single file with those of the directory that configures it.

    Args:
        path: The file.
        folder: The directory; its configurations exist and parse.
        family: The directory's family.

    Raises:
        FiguregroundError: They differ; names both.
    """
    shapes, what = read_file_shapes(path), f"checkpoint {path.name!r}"
    for (part, entry), (ending, axis) in family.SINGLE_FILE.sizes.items() if family.SINGLE_FILE else ():
        shape, configured = find_shape(shapes, ending), _read_entry(folder, part, entry)
        if shape is not None and isinstance(configured, int) and len(shape) > axis and shape[axis] != configured:
            raise FiguregroundError(
                f"{what}: its {part} has {entry} {shape[axis]}, but {FIELD} {folder.name!r} is of a checkpoint with "
                f"{configured}. Give the configuration of a checkpoint of the same kind."
            )
    if _V_PREDICTION in shapes and _read_entry(folder, "scheduler", "prediction_type") != "v_prediction":
        raise FiguregroundError(
            f"{what} predicts v (it holds {_V_PREDICTION}), but the scheduler of {FIELD} {folder.name!r} says "
            f"otherwise. Give a directory whose scheduler/scheduler_config.json has prediction_type v_prediction."
        )


def _read_entry(folder: Path, part: str, entry: str) -> object:
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    content = read_json(folder / part / name)
    return content.get(entry) if isinstance(content, Mapping) else None
