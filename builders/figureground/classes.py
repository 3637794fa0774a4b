"""Lists of foreground classes and of backgrounds: CSV files that people edit, or values in a recipe."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from figureground.errors import RecipeError, listed, nearest, nearest_or_all
from figureground.resources import resource

PHRASED = ("backgrounds", "scenes")
"""Kinds of lists whose names stand for phrases."""


@dataclass(frozen=True)
class Noun:
    """A foreground class or a background, as labels and prompts name it."""

    name: str
    """Unique in its list; what the ClassLabel says."""
    text: str
    """What a prompt says: the class's name, or the background's phrase."""
    definition: str = ""
    aliases: tuple[str, ...] = ()
    """Other names that its folder may have, such as a WordNet id."""


def read_nouns(field: str, value: object, kind: str, default: str) -> list[Noun]:
    """Resolves what a recipe says of its classes or backgrounds.

    Args:
        field: The recipe's field, for errors.
        value: The name of a file in `prompts/{kind}/`, the path of a CSV, a list that selects from the
            file `default`, or a mapping of names to definitions (classes) or phrases (backgrounds, scenes).
        kind: `classes`, `backgrounds` or `scenes`.
        default: The file that a list selects from.

    Raises:
        RecipeError: No such file, a row without a name, a name that the file lacks, or a name twice.
    """
    if isinstance(value, Mapping):
        nouns = [_noun(str(name), str(text or ""), kind) for name, text in value.items()]
    elif isinstance(value, str):
        nouns = read_csv(find_list(field, value, kind), kind)
    elif isinstance(value, Sequence):
        nouns = _select(field, [str(v) for v in value], read_csv(find_list(field, default, kind), kind), default)
    else:
        raise RecipeError(field, f"{value!r} is neither a file, nor a list of names, nor a mapping of names to texts.")
    if not nouns:
        raise RecipeError(field, "the list is empty.")
    if not all(noun.name.strip() for noun in nouns):
        raise RecipeError(field, "a name is empty.")
    twice = [name for name, n in Counter(noun.name for noun in nouns).items() if n > 1]
    if twice:
        raise RecipeError(field, f"named twice: {listed(twice)}.")
    return nouns


def _noun(name: str, text: str, kind: str) -> Noun:
    return Noun(name, text or name) if kind in PHRASED else Noun(name, name, text)


def _select(field: str, names: list[str], known: list[Noun], source: str) -> list[Noun]:
    by_name = {alias: noun for noun in known for alias in (noun.name, *noun.aliases)}
    unknown = [n for n in names if n not in by_name]
    if unknown:
        raise RecipeError(
            field,
            f"{unknown[0]!r} is not in the list {source!r}{nearest_or_all(unknown[0], by_name)} "
            "For names of your own, give a CSV file, or a mapping of names to texts.",
        )
    return [by_name[n] for n in names]


def find_list(field: str, name: str, kind: str) -> Path:
    """The CSV called `name`: a path, or a file in `prompts/{kind}/` without its suffix."""
    given = Path(name)
    if given.suffix.lower() == ".csv" or "/" in name:
        if not given.is_file():
            raise RecipeError(field, f"there is no file {name!r}.")
        return given
    folder = resource(f"prompts/{kind}")
    if not (folder / f"{name}.csv").is_file():
        known = sorted(p.stem for p in folder.glob("*.csv"))
        raise RecipeError(
            field,
            f"there is no list {name!r}{nearest(name, known) or '.'} Shipped: {listed(known)}; or give a CSV's path.",
        )
    return folder / f"{name}.csv"


@contextmanager
def open_csv(path: Path, field: str) -> Iterator[TextIO]:
    """A CSV that a person wrote, for reading; with or without a byte order mark.

    Raises:
        RecipeError: It is no text, or no CSV.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield file
    except UnicodeDecodeError as error:
        raise RecipeError(field, f"{path.name} is no UTF-8 text ({error.reason} at byte {error.start}).") from None
    except csv.Error as error:
        raise RecipeError(field, f"{path.name} is no CSV: {error}.") from None


def read_csv(path: Path, kind: str) -> list[Noun]:
    """Reads `name[,definition][,wnid][,index]` (classes) or `name[,phrase]` (backgrounds).

    Names that occur twice (ImageNet has two cranes) both get their WordNet id: `crane (n02012849)`.
    """
    with open_csv(path, kind) as file:
        reader = csv.DictReader(file)
        if "name" not in (reader.fieldnames or ()):
            raise RecipeError(
                kind,
                f"{path.name} has no column 'name'; its first line reads {listed(reader.fieldnames or ['nothing'])}.",
            )
        rows = [(reader.line_num, {k: (v or "").strip() for k, v in row.items() if k}) for row in reader]
    nouns = []
    repeated = {name for name, n in Counter(row["name"] for _, row in rows).items() if n > 1}
    for line, row in rows:
        name, wnid = row["name"], row.get("wnid", "")
        if not name:
            raise RecipeError(kind, f"{path.name}, line {line}: the name is empty.")
        label = f"{name} ({wnid})" if name in repeated and wnid else name
        text = row.get("phrase", "") if kind in PHRASED else name
        aliases = tuple(dict.fromkeys(a for a in (wnid, name) if a and a != label))
        if name in repeated:
            aliases = (wnid,) if wnid else ()
        nouns.append(Noun(label, text or name, row.get("definition", ""), aliases))
    return nouns


def define(nouns: Sequence[Noun], path: Path) -> list[Noun]:
    """Gives classes their definitions from a CSV `name,definition`, where `name` may be a WordNet id.

    Raises:
        RecipeError: A column is missing, or no name is that of a class; the CSV may define further classes.
    """
    with open_csv(path, "definitions") as file:
        reader = csv.DictReader(file)
        missing = {"name", "definition"} - set(reader.fieldnames or ())
        if missing:
            raise RecipeError("definitions", f"{path.name} has no column {sorted(missing)[0]!r}.")
        found = {row["name"].strip(): (row["definition"] or "").strip() for row in reader if row["name"]}
    known = {alias for noun in nouns for alias in (noun.name, *noun.aliases)}
    if found and not known & set(found):
        raise RecipeError(
            "definitions", f"{path.name} defines none of the recipe's classes; its first name is {next(iter(found))!r}."
        )
    return [
        replace(noun, definition=next((found[a] for a in (noun.name, *noun.aliases) if a in found), noun.definition))
        for noun in nouns
    ]
