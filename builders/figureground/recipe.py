"""What a user asks for: a config's defaults < a recipe file < `--set`; hashed, saved, compared."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from figureground.errors import RecipeError, UsageError, nearest_or_all

Fields = dict[str, Any]
"""Settings by name, as YAML gives them."""


class _Loader(yaml.SafeLoader):
    """YAML in which a field that is given twice is an error, where one would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_recipe(path: Path) -> Fields:
    """Reads a recipe file, YAML or the `recipe.json` of a dataset.

    Relative paths in it are relative to the file; they come back relative to the working directory.

    Raises:
        UsageError: The file is missing, is no text, or doesn't parse: with file, line and column.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"Recipe {path}: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise UsageError(
            f"Recipe {path}: that is no text. Give a YAML file, or the recipe.json of a dataset."
        ) from None
    try:
        loaded = json.loads(text) if path.suffix == ".json" else yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UsageError(f"Recipe {path}{where}: {error.problem or 'not YAML'}.") from None
    except json.JSONDecodeError as error:
        where = f", line {error.lineno}, column {error.colno}"
        raise UsageError(f"Recipe {path}{where}: {error.msg}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"Recipe {path}: it doesn't parse: {what}.") from None
    if not isinstance(loaded, dict):
        kind = "empty" if loaded is None else f"not {type(loaded).__name__}"
        raise UsageError(f"Recipe {path}: a recipe is a mapping of fields to values; this one is {kind}.")
    if "identity" in loaded and "execution" in loaded:
        head = {"builder": loaded.get("builder"), "config": loaded.get("config")}
        loaded = {**head, **loaded["identity"], **loaded["execution"]}
    return {str(name): _from_file(str(name), value, path.parent) for name, value in loaded.items()}


COPIES = ("curate", "merge")
"""What stands as `builder` in the recipes of datasets that were made from others."""
DIRECTORIES = ("checkpoint", "cutouts", "templates", "photographs", "references", "concepts", "components")
"""Fields whose values name directories, or `pocket`, or a Hub id."""
FILES = (
    "classes", "backgrounds", "definitions", "prompt", "table", "features", "scenes", "labels", "feature_model",
    "finetuning", "classifier", "segmenter", "training", "inversion",
)  # fmt: skip
"""Fields whose values may name files."""
PLACES = ("data", "root")
"""Fields whose values are always paths, of directories or files."""
MADE = ("concepts",)
"""Fields whose directories a build makes where they aren't there."""
_SUFFIXES = (".csv", ".txt", ".safetensors", ".pt", ".pth")


def _from_file(field: str, value: Any, folder: Path) -> Any:
    """A field's value as found in a file in `folder`; what exists there is made relative to here."""
    if isinstance(value, Mapping):
        return {k: _from_file(field, v, folder) for k, v in value.items()}
    if both := _two_models(field, value):
        return "".join(_from_file(field, part, folder) for part in both.groups())
    if _names_a_file(field, value) and not Path(value).is_absolute() and _exists(field, folder / value):
        return os.path.relpath(folder / value)
    return value


def for_file(field: str, value: Any, folder: Path) -> Any:
    """The inverse of what `read_recipe` does: paths become relative to `folder`."""
    if isinstance(value, Mapping):
        return {k: for_file(field, v, folder) for k, v in value.items()}
    if both := _two_models(field, value):
        return "".join(for_file(field, part, folder) for part in both.groups())
    if _names_a_file(field, value) and _exists(field, Path(value)):
        return os.path.relpath(value, folder)
    return value


def _two_models(field: str, value: Any) -> re.Match[str] | None:
    """The parts of a segmenter that is two models, either of which may be a path."""
    named = field == "segmenter" and isinstance(value, str)
    return re.fullmatch(r"(grounding-dino:)(.+?)(\+sam:)(.+)", value) if named else None


def _exists(field: str, path: Path) -> bool:
    if field in MADE:
        return True
    return path.is_dir() if field in DIRECTORIES else path.exists()


def _names_a_file(field: str, value: Any) -> bool:
    """Whether a field's value can be a path: prompts and definitions are none, and may be too long to ask the disk."""
    if not isinstance(value, str) or field not in (*DIRECTORIES, *FILES, *PLACES) or value == "pocket":
        return False
    looks = "/" in value or value.startswith(".") or Path(value).suffix.lower() in _SUFFIXES
    short = len(value.encode()) < 1000 and all(len(part.encode()) < 256 for part in value.split("/"))
    return short and (looks or field in (*DIRECTORIES, *PLACES))


def parse_setting(text: str) -> tuple[list[str], Any]:
    """Parses `key=value` or `a.b=value`, the value being YAML.

    Raises:
        UsageError: There is no `=`, or the value is not YAML.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"--set {text!r}: write it as key=value, as in --set per_cell.train=4.")
    try:
        return name.strip().split("."), yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = getattr(error, "problem", None) or "not YAML"
        raise UsageError(f"--set {text!r}: the value doesn't parse as YAML: {problem}.") from None


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
