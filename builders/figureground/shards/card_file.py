"""README.md: a YAML header and Markdown, of which some keys and the part between two marks are generated.

All else belongs to the user, and stays as written when the generated parts are renewed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from figureground.core.errors import join_names
from figureground.core.files import FileError, read_text, replace_if_changed
from figureground.core.text import has_control_characters
from figureground.core.yaml_documents import safe_load
from figureground.shards.shard import ShardError

CARD = "README.md"
BEGIN = "<!-- figureground: begin generated -->"
END = "<!-- figureground: end generated -->"
_MARKS = (BEGIN, END)

GENERATED_KEYS = ("configs", "dataset_info", "size_categories")
"""YAML keys that are rewritten each time; all others belong to the user."""

UNKNOWN_LICENSE = "unknown"

_HEADER = re.compile(r"\A\s*^---[ \t]*\n(?P<yaml>.*?)^---[ \t]*$\n?", re.DOTALL | re.MULTILINE)


class CardText(NamedTuple):
    """A card, taken apart."""

    header: dict[Any, Any]
    """Values of the YAML header; empty without one."""
    yaml: str
    """The header as written, without the lines `---` around it."""
    body: str
    """The Markdown after the header."""


def parse_card(text: str, name: str = CARD, advice: str = "Fix it, or delete the file.") -> CardText:
    """Take a card apart; a byte-order mark is dropped, and line breaks become `\\n`.

    Args:
        text: The content of README.md.
        name: What an error calls the card.
        advice: What an error tells to do.

    Raises:
        ShardError: The header isn't YAML, or not a mapping.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    match = _HEADER.match(text)
    if not match:
        return CardText({}, "", text)
    try:
        header = safe_load(match["yaml"]) or {}
    except yaml.YAMLError as error:
        raise ShardError(f"{name}: its YAML header can't be read: {_describe_yaml_error(error)}. {advice}") from error
    if not isinstance(header, dict):
        raise ShardError(f"{name}: its YAML header isn't a mapping of keys to values. {advice}")
    return CardText(header, match["yaml"], text[match.end() :])


def write(directory: Path, header: Mapping[str, Any], body: str) -> None:
    """Write README.md, and keep what a person wrote into an existing one: see `rewrite`.

    Args:
        header: As `card.describe` returns it.
        body: As `card.render` returns it.

    Raises:
        ShardError: The existing README.md can't be parsed.
    """
    path = directory / CARD
    text = f"---\n{dump(header)}---\n{body}"
    if path.exists():
        text = rewrite(_read_card(path), header, body)
    replace_if_changed(path, text, root=directory)


def refuse_unreadable(directory: Path) -> None:
    """Check, before anything is drawn, that the existing card can be rewritten.

    Raises:
        ShardError: As `write`.
    """
    path = directory / CARD
    if path.exists():
        find_generated_part(parse_card(_read_card(path)).body)


def read_license(directory: Path) -> str | None:
    """Return the licence in the card's YAML; None if there is no card, or the licence is not set or unknown.

    Several licences are joined by commas. For `other`, returns `license_link`, or else `license_name`.

    Raises:
        ShardError: As `write`.
    """
    path = directory / CARD
    header = parse_card(_read_card(path)).header if path.exists() else {}
    license = header.get("license")
    if not license or license == UNKNOWN_LICENSE:
        return None
    if license == "other":
        license = header.get("license_link") or header.get("license_name") or license
    return ", ".join(map(str, license)) if isinstance(license, list) else str(license)


def rewrite(existing: str, header: Mapping[str, Any], body: str) -> str:
    """Return an existing card with newly generated content.

    In the YAML, `GENERATED_KEYS` are replaced, and keys that it lacks are added; everything else stays as written,
    including license, tags and comments. In the Markdown, the part between the two marks is replaced; without marks,
    the generated part is appended.

    Raises:
        ShardError: The YAML can't be read, or one mark is missing.
    """
    card = parse_card(existing)
    users_values = {key: value for key, value in card.header.items() if key not in GENERATED_KEYS}
    text = _merge_text(card.body, body)
    return f"---\n{_merge_yaml(card.yaml, card.header, {**header, **users_values})}---\n{text}"


def _read_card(path: Path) -> str:
    try:
        return read_text(path, root=path.parent, encoding="utf-8-sig")
    except FileError as error:
        raise ShardError(f"{path.name} can't be read: {error.reason}. Save it as UTF-8, or delete it.") from error


def _describe_yaml_error(error: yaml.YAMLError) -> str:
    """Describe a YAML error and its position from the header's first line, without quoting the lines."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    position = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    return f"{problem}{position}" if problem else " ".join(str(error).split())


def dump(values: Mapping[Any, Any]) -> str:
    """Return values as YAML; non-ASCII is escaped if a character would reorder the line or control a terminal."""
    if not values:
        return ""
    text: str = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=120)
    return yaml.safe_dump(dict(values), sort_keys=False, width=120) if has_control_characters(text) else text


def _merge_yaml(existing_yaml: str, existing: Mapping[Any, Any], merged: Mapping[Any, Any]) -> str:
    """Return a header's YAML in which only keys that differ from the wanted values are rewritten."""
    changed = {key: value for key, value in merged.items() if key not in existing or existing[key] != value}
    text = _replace_keys(existing_yaml, changed)
    try:
        if safe_load(text) == merged:
            return text
    except yaml.YAMLError:
        pass
    return dump(merged)  # written in another style, such as {a: 1}: values are kept, comments are lost


def _replace_keys(existing_yaml: str, changed: Mapping[Any, Any]) -> str:
    """Replace the values of top-level keys in YAML; missing keys are appended."""
    root = yaml.compose(existing_yaml)
    keys = root.value if isinstance(root, yaml.MappingNode) else []
    starts = [key.start_mark.index for key, _ in keys]
    ends = [*starts, len(existing_yaml)][1:]
    parts = [existing_yaml[: starts[0]] if starts else existing_yaml]
    for (key, _), start, end in zip(keys, starts, ends, strict=True):
        block = existing_yaml[start:end]
        if key.value in changed:
            # Comments after our lines and above the next key belong to the user.
            without_comments = re.sub(r"(?:^(?:#.*)?\n)+\Z", "", block, flags=re.MULTILINE)
            block = dump({key.value: changed[key.value]}) + block[len(without_comments) :]
        parts.append(block)
    present = {key.value for key, _ in keys}
    text = "".join(parts)
    text += "\n" if text and not text.endswith("\n") else ""
    return text + dump({key: value for key, value in changed.items() if key not in present})


def find_generated_part(text: str) -> tuple[int, int] | None:
    """Return start and end of a card's generated part, including both marks; None without marks.

    Marks stand on lines of their own. A mark within a line is a setting's value or a class name, written by an older
    release, and is ignored.

    Raises:
        ShardError: A mark is missing or repeated; the error names the lines and the fix.
    """
    on_own_lines = {
        mark: [match.start(1) for match in re.finditer(rf"^[ \t]*({re.escape(mark)})[ \t]*\r?$", text, re.M)]
        for mark in _MARKS
    }
    positions = on_own_lines
    if not any(on_own_lines.values()):
        positions = {mark: [match.start() for match in re.finditer(re.escape(mark), text)] for mark in _MARKS}
    if not any(positions.values()):
        return None
    begins, ends = positions[BEGIN], positions[END]
    if len(begins) == len(ends) == 1 and begins[0] < ends[0]:
        return begins[0], ends[0] + len(END)
    lines = {
        mark: join_names((text.count("\n", 0, position) + 1 for position in positions[mark]), 5) for mark in _MARKS
    }
    raise ShardError(
        f"README.md: the generated part must stand between the lines {BEGIN} and {END}, once each, in this order. "
        f"Below the header, the first is in line {lines[BEGIN] or '(none)'}, the second in line "
        f"{lines[END] or '(none)'}. Delete the generated part with all its marks, or the whole file, and run the same "
        "command again to rewrite it."
    )


def _merge_text(text: str, body: str) -> str:
    new_span = find_generated_part(body)
    assert new_span is not None, "a card is rendered with its marks"
    generated = body[new_span[0] : new_span[1]]
    if not text.strip():
        return body
    old_span = find_generated_part(text)
    if old_span is None:
        return f"{text.rstrip()}\n\n{generated}\n"
    return text[: old_span[0]] + generated + text[old_span[1] :]
