"""Lists of foreground classes and backgrounds, from CSV files or from values in a recipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from figureground.core.errors import RecipeError, join_names, suggest, suggest_or_list
from figureground.core.names import RULE, describe_same_names, find_same_names, name_key
from figureground.core.resources import find_resource
from figureground.core.tables import TABLES, TextTable, UnreadableText

PHRASED = "backgrounds"
"""The kind of list whose names have phrases."""


@dataclass(frozen=True)
class ClassEntry:
    """A foreground class or a background, as labels and prompts name it."""

    name: str
    """Name in the ClassLabel, unique in its list."""
    text: str
    """Text in prompts: the class's name, or the background's phrase."""
    definition: str = ""
    aliases: tuple[str, ...] = ()
    """Other names that its folder may have, such as a WordNet id."""


def read_nouns(field: str, value: object, kind: str, default: str) -> list[ClassEntry]:
    """Resolve a recipe's classes or backgrounds.

    Args:
        field: The recipe's field, for errors.
        value: The name of a file in `prompts/{kind}/`, the path of a CSV, a list that selects from the
            file `default`, or a mapping of names to definitions (classes) or phrases (backgrounds).
        kind: `classes` or `backgrounds`.
        default: The file that a list selects from.

    Raises:
        RecipeError: The file doesn't exist, a row has no name, a name isn't in the file, or a name occurs twice, also
            in another spelling (`core.names`).
    """
    if isinstance(value, Mapping):
        nouns = [_make_entry(str(name), str(text or ""), kind) for name, text in value.items()]
    elif isinstance(value, str):
        nouns = read_csv(find_list(field, value, kind), kind)
    elif isinstance(value, Sequence):
        nouns = _select_entries(
            field, [str(v) for v in value], read_csv(find_list(field, default, kind), kind), default
        )
    else:
        raise RecipeError(field, f"{value!r} is not a file, a list of names or a mapping of names to texts.")
    if not nouns:
        raise RecipeError(field, "the list is empty.")
    if not all(noun.name.strip() for noun in nouns):
        raise RecipeError(field, "a name is empty.")
    duplicates = [name for name, n in Counter(noun.name for noun in nouns).items() if n > 1]
    if duplicates:
        raise RecipeError(field, f"named twice: {join_names(duplicates)}.")
    # A classifier's labels are distinguished by their numbers, and their list isn't the user's to correct.
    if field != "labels" and (same := find_same_names(noun.name for noun in nouns)):
        raise RecipeError(field, f"{describe_same_names(same)}. {RULE}: use one of each.")
    return nouns


def _make_entry(name: str, text: str, kind: str) -> ClassEntry:
    return ClassEntry(name, text or name) if kind == PHRASED else ClassEntry(name, name, text)


def _select_entries(field: str, names: list[str], entries: list[ClassEntry], source: str) -> list[ClassEntry]:
    by_name = {name_key(alias): noun for noun in reversed(entries) for alias in (*noun.aliases, noun.name)}
    unknown = [name for name in names if name_key(name) not in by_name]
    if unknown:
        raise RecipeError(
            field,
            f"{unknown[0]!r} is not in the list {source!r}"
            f"{suggest_or_list(unknown[0], [alias for noun in entries for alias in (noun.name, *noun.aliases)])} "
            "For names of your own, give a CSV file, or a mapping of names to texts.",
        )
    if same := find_same_names(names):
        raise RecipeError(field, f"{describe_same_names(same)}. {RULE}: use one of each.")
    return [by_name[name_key(name)] for name in names]


def find_list(field: str, name: str, kind: str) -> Path:
    """Return the path of the CSV `name`: a path, or a file in `prompts/{kind}/` without its suffix.

    Raises:
        RecipeError: The file doesn't exist.
    """
    path = Path(name)
    if path.suffix.lower() in TABLES or "/" in name:
        if not path.is_file():
            raise RecipeError(field, f"there is no file {name!r}.")
        return path
    folder = find_resource(f"prompts/{kind}")
    if not (folder / f"{name}.csv").is_file():
        available = sorted(p.stem for p in folder.glob("*.csv"))
        raise RecipeError(
            field,
            f"there is no list {name!r}{suggest(name, available) or '.'} Available: {join_names(available)}. Or give "
            "the path of a CSV.",
        )
    return folder / f"{name}.csv"


@contextmanager
def open_table(path: Path, field: str, *columns: str) -> Iterator[TextTable]:
    """Open a user's table for reading; see `core.tables.TextTable`.

    Args:
        field: The recipe's field, for errors.
        columns: Required columns.

    Raises:
        RecipeError: The table can't be read, on opening or later, or a column is missing.
    """
    try:
        table = TextTable(path)
        table.require(*columns)
        yield table
    except UnreadableText as error:
        raise RecipeError(field, str(error)) from None


def read_csv(path: Path, kind: str) -> list[ClassEntry]:
    """Read a CSV `name[,definition][,wnid][,index]` (classes) or `name[,phrase]` (backgrounds).

    If a name occurs twice (ImageNet has two cranes, and both Cardigan and cardigan), each gets its WordNet id:
    `crane (n02012849)`.
    """
    with open_table(path, kind, "name") as table:
        rows = list(table.records())
    nouns = []
    repeated = {name for name, n in Counter(name_key(row["name"]) for _, row in rows).items() if n > 1}
    for line, row in rows:
        name, wnid = row["name"], row.get("wnid", "")
        if not name:
            raise RecipeError(kind, f"{table.name}, line {line}: the name is empty.")
        label = f"{name} ({wnid})" if name_key(name) in repeated and wnid else name
        text = row.get("phrase", "") if kind == PHRASED else name
        aliases = tuple(dict.fromkeys(a for a in (wnid, name) if a and a != label))
        if name_key(name) in repeated:
            aliases = (wnid,) if wnid else ()
        nouns.append(ClassEntry(label, text or name, row.get("definition", ""), aliases))
    return nouns


def add_definitions(nouns: Sequence[ClassEntry], path: Path) -> list[ClassEntry]:
    """Return classes with definitions from a CSV `name,definition`, where `name` may be a WordNet id.

    Raises:
        RecipeError: A column is missing, no name is that of a class (the CSV may define further classes), or a class
            is defined twice.
    """
    with open_table(path, "definitions", "name", "definition") as table:
        definitions: dict[str, str] = {}
        for line, row in table.records():
            if (name := name_key(row["name"])) in definitions:
                raise RecipeError(
                    "definitions", f"{table.name}, line {line}: {row['name']!r} is defined twice. {RULE}."
                )
            if name:
                definitions[name] = row["definition"]
    class_names = {name_key(alias) for noun in nouns for alias in (noun.name, *noun.aliases)}
    if definitions and not class_names & set(definitions):
        raise RecipeError(
            "definitions",
            f"{table.name} defines none of the recipe's classes; its first name is {next(iter(definitions))!r}.",
        )
    return [
        replace(
            noun,
            definition=next(
                (definitions[name_key(a)] for a in (noun.name, *noun.aliases) if name_key(a) in definitions),
                noun.definition,
            ),
        )
        for noun in nouns
    ]
