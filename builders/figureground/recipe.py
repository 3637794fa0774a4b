"""What a user asks for: a config's defaults < a recipe file < `--set`; hashed, saved, compared."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from figureground.errors import FiguregroundError, RecipeError, nearest_or_all

Fields = dict[str, Any]
"""Settings by name, as YAML gives them."""


def read_recipe(path: Path) -> Fields:
    """Reads a recipe file, YAML or the `recipe.json` of a dataset.

    Relative paths in it are relative to the file; they come back relative to the working directory.

    Raises:
        FiguregroundError: The file is missing, or doesn't parse: with file, line and column.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FiguregroundError(f"Recipe {path}: {error.strerror or error}.") from None
    try:
        loaded = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise FiguregroundError(f"Recipe {path}{where}: {error.problem or 'not YAML'}.") from None
    if not isinstance(loaded, dict):
        raise FiguregroundError(
            f"Recipe {path}: a recipe is a mapping of fields to values, not {type(loaded).__name__}."
        )
    if "identity" in loaded and "execution" in loaded:
        loaded = {
            "builder": loaded.get("builder"),
            "config": loaded.get("config"),
            **loaded["identity"],
            **loaded["execution"],
        }
    return {name: _from_file(value, path.parent) if name in PATH_FIELDS else value for name, value in loaded.items()}


PATH_FIELDS = (
    "checkpoint",
    "cutouts",
    "templates",
    "photographs",
    "classes",
    "backgrounds",
    "definitions",
    "prompt",
    "table",
)
"""Fields whose values may name files or directories."""


def _from_file(value: Any, folder: Path) -> Any:
    """A value as found in a file in `folder`; what exists there as a path is made relative to here."""
    if isinstance(value, Mapping):
        return {k: _from_file(v, folder) for k, v in value.items()}
    if isinstance(value, str) and _names_a_file(value) and not Path(value).is_absolute() and (folder / value).exists():
        return os.path.relpath(folder / value)
    return value


def for_file(value: Any, folder: Path) -> Any:
    """The inverse of what `read_recipe` does: paths become relative to `folder`."""
    if isinstance(value, Mapping):
        return {k: for_file(v, folder) for k, v in value.items()}
    if isinstance(value, str) and _names_a_file(value) and Path(value).exists():
        return os.path.relpath(value, folder)
    if isinstance(value, str) and _names_a_file(f"./{value}") and Path(value).is_dir():
        return os.path.relpath(value, folder)
    return value


def _names_a_file(value: str) -> bool:
    """Whether a text can be a path: prompts and definitions are none, and some are too long to ask the disk."""
    looks = "/" in value or value.startswith(".") or Path(value).suffix.lower() in (".csv", ".txt", ".yaml")
    return looks and len(value.encode()) < 1000 and all(len(part.encode()) < 256 for part in value.split("/"))


def parse_setting(text: str) -> tuple[list[str], Any]:
    """Parses `key=value` or `a.b=value`, the value being YAML.

    Raises:
        FiguregroundError: There is no `=`, or the value is not YAML.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise FiguregroundError(f"--set {text!r}: write it as key=value, as in --set per_cell.train=4.")
    try:
        return name.strip().split("."), yaml.safe_load(value)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or "not YAML"
        raise FiguregroundError(f"--set {text!r}: the value doesn't parse as YAML: {problem}.") from None


def apply_settings(fields: Fields, settings: Iterable[str], defaults: Fields) -> Fields:
    """Lays `--set` values over `fields`; a dotted key changes one entry of a mapping and keeps the others.

    Args:
        defaults: What the config says where `fields` is silent; dotted keys start from it.
    """
    out = copy.deepcopy(fields)
    for text in settings:
        keys, value = parse_setting(text)
        if len(keys) == 1:
            out[keys[0]] = value
            continue
        at = out.setdefault(keys[0], copy.deepcopy(defaults.get(keys[0])))
        if not isinstance(at, dict):
            at = out[keys[0]] = {}
        for name in keys[1:-1]:
            if not isinstance(at.get(name), dict):
                at[name] = {}
            at = at[name]
        at[keys[-1]] = value
    return out


def check_names(fields: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raises RecipeError for the first field that is not known, with the nearest that is."""
    known = sorted(known)
    for name in fields:
        if name not in known:
            raise RecipeError(name, f"{what} has no such field{nearest_or_all(name, known)}")


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    ).hexdigest()


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """What differs between two recipes, one line a field: `strength: 0.9, now 0.5`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines = []
        for part in dict.fromkeys([*old, *new]):
            lines += differences(old.get(part), new.get(part), f"{name}.{part}" if name else str(part))
        return lines
    return [] if old == new else [f"{name}: {_short(old)}, now {_short(new)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
