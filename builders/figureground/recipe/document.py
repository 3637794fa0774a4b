"""Recipe documents: merges a config's defaults < a recipe file < `--set`; saves, seals and compares recipes."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from figureground.core.differences import describe_differences
from figureground.core.documents import Plain, read_document
from figureground.core.errors import FiguregroundError, RecipeError, UsageError, printable
from figureground.core.files import read_object
from figureground.core.hashing import digest
from figureground.core.tables import TABLES
from figureground.core.values import NULLS, Setting, convert, field_types, type_at
from figureground.recipe.config import Config
from figureground.recipe.settings import Names, find_marks, suggest_setting, with_current_names

Fields = dict[str, Any]
"""Settings by name."""


def read_recipe(path: Path) -> RecipeFields:
    """Read a recipe file, YAML or the `recipe.json` of a dataset.

    Scalars are returned as typed, for `convert_fields`. Relative paths are relative to the file and returned unchanged,
    for `resolve_paths`.

    Raises:
        UsageError: The file is missing, too large, not text, doesn't parse, or isn't a recipe; with file, line and
            column.
    """
    loaded = read_document(path, "Recipe")
    if not isinstance(loaded, dict):
        kind = "a list" if isinstance(loaded, list) else "empty" if loaded in NULLS else "a single value"
        raise UsageError(f"Recipe {path}: a recipe is a mapping of fields to values; this one is {kind}.")
    saved = "identity" in loaded
    if saved:
        parts = {part: loaded.get(part, {}) for part in ("identity", "execution")}
        for part, fields in parts.items():
            if not isinstance(fields, dict):
                raise UsageError(
                    f"Recipe {path}: {part!r} isn't a mapping of fields, so this isn't a dataset's recipe."
                )
        head = {name: loaded[name] for name in HEAD if name in loaded}
        loaded = {**head, **parts["identity"], **parts["execution"]}
    for name in HEAD:
        if loaded.get(name) in NULLS:
            loaded.pop(name, None)
        elif not isinstance(loaded.get(name, ""), str):
            raise UsageError(f"Recipe {path}: {name!r} must be one name, but is a list or a mapping.")
    fields = RecipeFields(loaded)
    fields.folder, fields.saved = path.parent, saved
    return fields


HEAD = ("builder", "config")
"""Keys of a recipe file besides its fields: the method, and the config that it starts from."""

FORMAT = 2
"""Version of the dataset format. It increases whenever a recipe gives other pixels, keys or order. docs/format.md lists
the versions and their changes."""
_FIRST_FORMAT = 1
"""Version of datasets that state none."""


MARKS = "marks"
"""Field of a saved recipe that names the mark of generated images that the dataset's images carry. A dataset that was
begun before there were marks lacks it, and so do the images that are added to it."""


def is_marked(saved: Mapping[str, Any]) -> bool:
    """Return whether the images of a dataset state that they are generated; see `sources.marks`."""
    return MARKS in saved


def read_format(saved: Mapping[str, Any], name: str) -> int:
    """Return the format version of a recipe, an index or a marker.

    Args:
        saved: The recipe, index or marker as read.
        name: Name of the file or dataset, for the error.

    Raises:
        FiguregroundError: This release doesn't know the version.
    """
    version = saved.get("format", _FIRST_FORMAT)
    if isinstance(version, bool) or not isinstance(version, int) or not _FIRST_FORMAT <= version <= FORMAT:
        raise FiguregroundError(
            f"{name}: format {printable(str(version)[:40])} is not one that this release knows ({_FIRST_FORMAT} to "
            f"{FORMAT}). Install the release of figureground that wrote it."
        )
    return version


def refuse_older(saved: Mapping[str, Any], directory: Path, command: str) -> None:
    """Refuse to add images to a dataset of an older format, as they would differ in kind from the existing ones.

    Args:
        saved: The dataset's recipe.json.
        directory: The dataset.
        command: The command, `build` or `extend`.

    Raises:
        FiguregroundError: The dataset's format isn't the one that this release writes.
    """
    version = read_format(saved, str(directory))
    if version != FORMAT:
        raise FiguregroundError(
            f"{directory} is of format {version}, and this release draws format {FORMAT}: the same recipe gives other "
            f"noise, order and counts, and {command} would mix the two. Build a new dataset in another directory, "
            f"with --recipe {directory / '_figureground' / 'recipe.json'}, or use the release that started it. "
            "check, curate, merge, evaluate, show and push accept it unchanged."
        )


def read_saved_recipe(path: Path) -> dict[str, Any]:
    """Read the `recipe.json` of a dataset, as `Method.recipe` returns it.

    Raises:
        FiguregroundError: The file is missing, can't be read, or isn't a dataset's recipe.
    """
    problem = f"{path} can't be read"
    try:
        saved = read_object(path, root=path.parent.parent)
    except OSError as error:
        raise FiguregroundError(f"{problem}: {error.strerror or error}.") from None
    for name, kind in (("builder", str), ("sha256", str), ("identity", dict), ("execution", dict), ("content", dict)):
        if not isinstance(saved.get(name), kind):
            raise FiguregroundError(
                f"{problem}: its {name!r} is missing or of another type, so it isn't a recipe of this package. Restore "
                "the file from a copy, or build into another directory."
            )
    return saved


COPIES = ("curate", "merge")
"""Values of `builder` in recipes of datasets that were made from other datasets."""
_TWO_MODELS, _ONE_MODEL = r"(grounding-dino:)(.+?)(\+sam:)(.+)", r"(clipseg:|onnx:|timm:local-dir:)(.+)"
"""Fields with names of models in which a path may follow a prefix."""
_SUFFIXES = (*TABLES, ".txt", ".safetensors", ".pt", ".pth", ".onnx")


class RecipeFields(dict[str, Any]):
    """Fields of a recipe file, and the folder that relative paths in it start from; see `resolve_paths`."""

    folder: Path
    saved: bool = False
    """Whether it is a dataset's recipe, in which fields may have the names of an earlier version."""


def resolve_paths(fields: Fields, kind: type) -> Fields:
    """Return a recipe file's fields under their present names, with relative paths made relative to the working
    directory.

    Args:
        fields: Fields from `read_recipe`; others are returned unchanged.
        kind: The class of settings, whose annotations mark the fields that name files.
    """
    if not isinstance(fields, RecipeFields):
        return fields
    marks = find_marks(kind, Names)
    renamed = with_current_names(fields, kind) if fields.saved else fields
    return {n: _resolve_value(marks[n], v, fields.folder) if n in marks else v for n, v in renamed.items()}


def _resolve_value(names: Names, value: Any, folder: Path) -> Any:
    """Return a value from a file in `folder`, with existing paths made relative to the working directory."""
    if isinstance(value, Mapping):
        return {k: _resolve_value(names, v, folder) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolve_value(names, v, folder) if isinstance(v, Mapping) else v for v in value]
    if isinstance(value, Plain) and value in NULLS:
        return value
    if parts := _split_model_name(value):
        return "".join(_resolve_value(Names("path"), part, folder) for part in parts)
    if _may_be_path(names, value) and not Path(value).is_absolute() and _exists(names, folder / value):
        return os.path.relpath(folder / value)
    return value


def make_paths_relative(names: Names | None, value: Any, folder: Path) -> Any:
    """Return a field's value for a recipe in `folder`, with paths relative to it. The inverse of `resolve_paths`.

    Args:
        names: The field's mark; None for a field that names no files.
        value: The field's value.
        folder: Folder of the recipe.
    """
    if names is None:
        return value
    if isinstance(value, Mapping):
        return {k: make_paths_relative(names, v, folder) for k, v in value.items()}
    if isinstance(value, list):
        return [make_paths_relative(names, v, folder) if isinstance(v, Mapping) else v for v in value]
    if parts := _split_model_name(value):
        return "".join(make_paths_relative(Names("path"), part, folder) for part in parts)
    if _may_be_path(names, value) and _exists(names, Path(value)):
        return os.path.relpath(value, folder)
    return value


def _split_model_name(value: Any) -> Sequence[str]:
    """Return the parts of a model's name with a prefix, of which some may be paths; empty for other values."""
    if not isinstance(value, str):
        return ()
    match = re.fullmatch(_TWO_MODELS, value) or re.fullmatch(_ONE_MODEL, value)
    return match.groups() if match else ()


def _exists(names: Names, path: Path) -> bool:
    """Return whether a path exists as a field names it. A field of directories may name a table in a mapping."""
    if names.is_created or names.kind != "directory":
        return names.is_created or path.exists()
    return path.is_dir() or (path.suffix.lower() in TABLES and path.is_file())


def _may_be_path(names: Names, value: Any) -> bool:
    """Return whether a value may be a path. Long texts, such as prompts, would fail as file names and are excluded."""
    if not isinstance(value, str) or value == "pocket":
        return False
    looks_like_path = "/" in value or value.startswith(".") or Path(value).suffix.lower() in _SUFFIXES
    is_short = len(value.encode()) < 1000 and all(len(part.encode()) < 256 for part in value.split("/"))
    return is_short and (looks_like_path or names.kind != "file")


def parse_setting(text: str) -> tuple[list[str], Setting]:
    """Split `key=value` or `a.b=value` into keys and the text after `=`.

    Raises:
        UsageError: `=` is missing, or a key is empty.
    """
    name, equals, value = text.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise UsageError(f"--set {text!r}: write it as key=value, as in --set per_cell.train=4.")
    return keys, Setting(value)


def convert_fields(fields: Fields, kinds: Mapping[str, Any]) -> Fields:
    """Convert fields from `read_recipe` to their types; see `core.values.convert`."""
    return {name: convert(value, kinds.get(name, Any), name) for name, value in fields.items()}


def apply_settings(fields: Fields, settings: Iterable[str], defaults: Fields, kinds: Mapping[str, Any]) -> Fields:
    """Return `fields` updated with `--set` values; a dotted key changes one entry of a mapping and keeps the others.

    Args:
        fields: Fields of the recipe.
        settings: `key=value` texts.
        defaults: The config's values, which dotted keys change if `fields` lacks the field.
        kinds: Each field's type.

    Raises:
        UsageError: A setting isn't written as key=value.
        RecipeError: A value doesn't fit the field's type.
    """
    updated = copy.deepcopy(fields)
    for text in settings:
        keys, typed = parse_setting(text)
        value = convert(typed, type_at(kinds.get(keys[0], Any), keys[1:]), ".".join(keys))
        if len(keys) == 1:
            updated[keys[0]] = value
            continue
        entry = updated.setdefault(keys[0], copy.deepcopy(defaults.get(keys[0])))
        if not isinstance(entry, dict):
            entry = updated[keys[0]] = {}
        for name in keys[1:-1]:
            if not isinstance(entry.get(name), dict):
                entry[name] = {}
            entry = entry[name]
        entry[keys[-1]] = value
    return updated


def read_values(config: Config, fields: Fields, settings: list[str]) -> Fields:
    """Return the values that a recipe and then `--set` give, by field, converted to their types.

    Args:
        config: The config that they change.
        fields: Fields of a recipe, as read.
        settings: `KEY=VALUE` texts; dotted keys reach inside mappings.

    Raises:
        RecipeError: A value doesn't fit its field's type.
        UsageError: A setting isn't written as `KEY=VALUE`.
    """
    types = field_types(type(config))
    values = {n: v for n, v in resolve_paths(fields, type(config)).items() if n not in HEAD}
    values = convert_fields(values, types)
    return apply_settings(values, settings, dataclasses.asdict(config), types)


def check_names(fields: Iterable[str], known: Iterable[str], owner: str) -> None:
    """Raise RecipeError for the first unknown field, with the nearest known one."""
    known = sorted(known)
    for name in fields:
        if name not in known:
            raise RecipeError(name, f"{owner} has no such field{suggest_setting(name, known)}")


SEAL = "saved_sha256"
"""Field of a saved recipe with the SHA-256 of all other fields except the execution settings.

`sha256` identifies everything that decides the images, with the content of files instead of their names. This field
reveals any edit of a recipe.json, even one that leaves that content unchanged.
"""


def seal(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe with the field `SEAL` added: the SHA-256 of its content without execution settings."""
    return {**recipe, SEAL: _hash_content(recipe)}


def is_sealed(recipe: Mapping[str, Any]) -> bool | None:
    """Return whether a saved recipe is unchanged since it was sealed; None for older releases, which have no seal."""
    return recipe[SEAL] == _hash_content(recipe) if SEAL in recipe else None


def _hash_content(recipe: Mapping[str, Any]) -> str:
    content = {name: value for name, value in recipe.items() if name not in (SEAL, "execution")}
    return digest(json.loads(json.dumps(content)))  # saving turns numeric keys into text


def describe_recipe_differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Return the differences between two recipes from `Method.recipe`, both as JSON, one line per field.

    Differences in settings come first. A field that names files differs if their content does. It is shown with its
    settings, or with its content if the settings are equal.
    """
    first: list[str] = describe_differences(saved["builder"], current["builder"], "METHOD")
    first += describe_differences(saved.get("format"), current.get("format"), "format")
    last: list[str] = []
    for field in dict.fromkeys([*saved["identity"], *current["identity"], *saved["content"], *current["content"]]):
        contents = describe_differences(saved["content"].get(field), current["content"].get(field), field)
        if not contents and (field in saved["content"] or field in current["content"]):
            continue
        settings = describe_differences(saved["identity"].get(field), current["identity"].get(field), field)
        if settings:
            first += settings
        else:
            last += contents
    return first + last
