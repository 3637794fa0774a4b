"""What a user asks for: a config's defaults < a recipe file < `--set`; hashed, saved, compared."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from figureground.core.differences import differences
from figureground.core.documents import Plain, read_document
from figureground.core.errors import FiguregroundError, RecipeError, UsageError, printable
from figureground.core.files import read_object
from figureground.core.hashing import digest
from figureground.core.tables import TABLES
from figureground.core.values import NULLS, Setting, convert, kind_at
from figureground.recipe.settings import Names, marked, name_nearest

Fields = dict[str, Any]
"""Settings by name."""


def read_recipe(path: Path) -> RecipeFields:
    """Read a recipe file, YAML or the `recipe.json` of a dataset.

    Scalars come back as they were typed, for `convert_fields`. Relative paths in it are relative to the file, and come
    back as they are, for `relocate`.

    Raises:
        UsageError: The file is missing, too large, is no text, doesn't parse, or is no recipe: with file, line and
            column.
    """
    loaded = read_document(path, "Recipe")
    if not isinstance(loaded, dict):
        kind = "a list" if isinstance(loaded, list) else "empty" if loaded in NULLS else "a single value"
        raise UsageError(f"Recipe {path}: a recipe is a mapping of fields to values; this one is {kind}.")
    if "identity" in loaded:
        parts = {part: loaded.get(part, {}) for part in ("identity", "execution")}
        for part, fields in parts.items():
            if not isinstance(fields, dict):
                raise UsageError(f"Recipe {path}: {part!r} is no mapping of fields, so this is no recipe of a dataset.")
        head = {name: loaded[name] for name in HEAD if name in loaded}
        loaded = {**head, **parts["identity"], **parts["execution"]}
    for name in HEAD:
        if loaded.get(name) in NULLS:
            loaded.pop(name, None)
        elif not isinstance(loaded.get(name, ""), str):
            raise UsageError(f"Recipe {path}: {name!r} names one thing, and here it is a list or a mapping.")
    fields = RecipeFields(loaded)
    fields.folder = path.parent
    return fields


HEAD = ("builder", "config")
"""What a recipe file may say beside its fields: the method, and the config that it starts from."""

FORMAT = 2
"""The version of a dataset's format: it rises with every change of which pixels, keys or order a recipe gives. Versions
and what changed in each stand in docs/format.md."""
_FIRST = 1
"""The version of datasets that say none."""


def format_of(saved: Mapping[str, Any], name: str) -> int:
    """Return the version of the format that a recipe, an index or a marker says.

    Args:
        saved: What was read.
        name: Of the file, or of the dataset, for the error.

    Raises:
        FiguregroundError: It is none that this release knows.
    """
    version = saved.get("format", _FIRST)
    if isinstance(version, bool) or not isinstance(version, int) or not _FIRST <= version <= FORMAT:
        raise FiguregroundError(
            f"{name}: format {printable(str(version)[:40])} is not one that this release knows ({_FIRST} to {FORMAT}). "
            "Install the release of figureground that wrote it."
        )
    return version


def refuse_older(saved: Mapping[str, Any], directory: Path, doing: str) -> None:
    """Refuse to add images to a dataset of an older format: they would not be those that the rest was drawn with.

    Args:
        saved: The dataset's recipe.json.
        doing: The command, `build` or `extend`.

    Raises:
        FiguregroundError: The dataset has another format than this release writes.
    """
    version = format_of(saved, str(directory))
    if version != FORMAT:
        raise FiguregroundError(
            f"{directory} is of format {version}, and this release draws format {FORMAT}: other noise, another order "
            f"and other counts from the same recipe. {doing} would mix the two. Build it anew in another directory, "
            f"with --recipe {directory / '_figureground' / 'recipe.json'}, or go on with the release that began it. "
            "check, curate, merge, evaluate, show and push take it as it is."
        )


def read_saved(path: Path) -> dict[str, Any]:
    """Read the `recipe.json` of a dataset, as `Builder.recipe` gives it.

    Raises:
        FiguregroundError: It is missing, can't be read, or is no such recipe.
    """
    what = f"{path} can't be read"
    try:
        saved = read_object(path, root=path.parent.parent)
    except OSError as error:
        raise FiguregroundError(f"{what}: {error.strerror or error}.") from None
    for name, kind in (("builder", str), ("sha256", str), ("identity", dict), ("execution", dict), ("content", dict)):
        if not isinstance(saved.get(name), kind):
            raise FiguregroundError(
                f"{what}: its {name!r} is missing or of another kind, so it is no recipe of this package. Bring the "
                "file back from a copy, or build into another directory."
            )
    return saved


COPIES = ("curate", "merge")
"""What stands as `builder` in the recipes of datasets that were made from others."""
_SUFFIXES = (*TABLES, ".txt", ".safetensors", ".pt", ".pth")


class RecipeFields(dict[str, Any]):
    """Fields of a recipe file, and the folder that relative paths in it start from; see `relocate`."""

    folder: Path


def relocate(fields: Fields, kind: type) -> Fields:
    """Return a recipe file's fields with its relative paths made relative to the working directory.

    Args:
        fields: As `read_recipe` returns them; others come back as they are.
        kind: The class of settings, whose types say which fields name files.
    """
    if not isinstance(fields, RecipeFields):
        return fields
    names = marked(kind, Names)
    return {n: _from_file(names[n], v, fields.folder) if n in names else v for n, v in fields.items()}


def _from_file(names: Names, value: Any, folder: Path) -> Any:
    """A value as found in a file in `folder`; what exists there is made relative to here."""
    if isinstance(value, Mapping):
        return {k: _from_file(names, v, folder) for k, v in value.items()}
    if isinstance(value, Plain) and value in NULLS:
        return value
    if both := _two_models(value):
        return "".join(_from_file(names, part, folder) for part in both.groups())
    if _may_be_path(names, value) and not Path(value).is_absolute() and _exists(names, folder / value):
        return os.path.relpath(folder / value)
    return value


def for_file(names: Names | None, value: Any, folder: Path) -> Any:
    """Return a field's value as a recipe in `folder` has it: paths relative to the folder. The inverse of `relocate`.

    Args:
        names: What the field's texts name; None for a field that names no files.
    """
    if names is None:
        return value
    if isinstance(value, Mapping):
        return {k: for_file(names, v, folder) for k, v in value.items()}
    if both := _two_models(value):
        return "".join(for_file(names, part, folder) for part in both.groups())
    if _may_be_path(names, value) and _exists(names, Path(value)):
        return os.path.relpath(value, folder)
    return value


def _two_models(value: Any) -> re.Match[str] | None:
    """The parts of a segmenter that is two models, either of which may be a path."""
    return re.fullmatch(r"(grounding-dino:)(.+?)(\+sam:)(.+)", value) if isinstance(value, str) else None


def _exists(names: Names, path: Path) -> bool:
    return names.made or (path.is_dir() if names.kind == "directory" else path.exists())


def _may_be_path(names: Names, value: Any) -> bool:
    """Whether a value can be a path: prompts and definitions are none, and may be too long to ask the disk."""
    if not isinstance(value, str) or value == "pocket":
        return False
    looks = "/" in value or value.startswith(".") or Path(value).suffix.lower() in _SUFFIXES
    short = len(value.encode()) < 1000 and all(len(part.encode()) < 256 for part in value.split("/"))
    return short and (looks or names.kind != "file")


def parse_setting(text: str) -> tuple[list[str], Setting]:
    """Split `key=value` or `a.b=value` into keys and the text behind `=`.

    Raises:
        UsageError: There is no `=`, or an empty key.
    """
    name, equals, value = text.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise UsageError(f"--set {text!r}: write it as key=value, as in --set per_cell.train=4.")
    return keys, Setting(value)


def convert_fields(fields: Fields, kinds: Mapping[str, Any]) -> Fields:
    """Return what `read_recipe` gives as values of each field's type; see `core.values.convert`."""
    return {name: convert(value, kinds.get(name, Any), name) for name, value in fields.items()}


def apply_settings(fields: Fields, settings: Iterable[str], defaults: Fields, kinds: Mapping[str, Any]) -> Fields:
    """Lay `--set` values over `fields`; a dotted key changes one entry of a mapping and keeps the others.

    Args:
        defaults: What the config says where `fields` is silent; dotted keys start from it.
        kinds: Each field's type.

    Raises:
        UsageError: One that isn't written as key=value.
        RecipeError: A value that the field's type doesn't take.
    """
    out = copy.deepcopy(fields)
    for text in settings:
        keys, typed = parse_setting(text)
        value = convert(typed, kind_at(kinds.get(keys[0], Any), keys[1:]), ".".join(keys))
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
            raise RecipeError(name, f"{what} has no such field{name_nearest(name, known)}")


SEAL = "saved_sha256"
"""The field of a saved recipe that holds the SHA-256 of all others but the execution settings.

`sha256` says what decides the images, with the content of files for their names; this one shows that a recipe.json was
edited, also where an edit leaves that content alone.
"""


def seal(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe as it is saved: with the SHA-256 of what it says, execution settings left out."""
    return {**recipe, SEAL: _sealed(recipe)}


def is_sealed(recipe: Mapping[str, Any]) -> bool | None:
    """Whether a saved recipe is as it was sealed; None for one of an older release, which has no seal."""
    return recipe[SEAL] == _sealed(recipe) if SEAL in recipe else None


def _sealed(recipe: Mapping[str, Any]) -> str:
    said = {name: value for name, value in recipe.items() if name not in (SEAL, "execution")}
    return digest(json.loads(json.dumps(said)))  # keys that are numbers are text once they are saved


def recipe_differences(saved: Mapping[str, Any], mine: Mapping[str, Any]) -> list[str]:
    """Return what differs between two recipes as `Builder.recipe` gives them, both JSON, one line a field.

    What somebody set comes first. A field that names files differs if their content does: it is told as it was set,
    and by its content only where the setting is the same.
    """
    first: list[str] = differences(saved["builder"], mine["builder"], "METHOD")
    first += differences(saved.get("format"), mine.get("format"), "format")
    last: list[str] = []
    for field in dict.fromkeys([*saved["identity"], *mine["identity"], *saved["content"], *mine["content"]]):
        contents = differences(saved["content"].get(field), mine["content"].get(field), field)
        if not contents and (field in saved["content"] or field in mine["content"]):
            continue
        set_anew = differences(saved["identity"].get(field), mine["identity"].get(field), field)
        if set_anew:
            first += set_anew
        else:
            last += contents
    return first + last
