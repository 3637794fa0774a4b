"""Reads tables and text: CSV with the usual separators and encodings, JSON Lines, and plain text."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError, join_names, plural, printable, suggest
from figureground.core.files import FileError, open_regular

SEPARATORS = ",;\t"
"""Possible separators of a CSV; the first line decides."""
JSON_LINES = (".jsonl", ".ndjson")
TABLES = (".csv", ".tsv", *JSON_LINES)
"""Suffixes of tables."""
HEAD_BYTES = 65536
"""Bytes read if only the header is needed."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip
"""Byte order marks; if one is a prefix of another, the longer comes first."""


class UnreadableText(FiguregroundError):
    """Raised for a file that can't be read as text or as a table; the message begins with the file's name."""


# Text


def read_text(path: Path, *, lenient: bool = False) -> str:
    """Return the text of a file in UTF-8 or UTF-16, with or without a byte order mark.

    Args:
        lenient: Whether other bytes are read as Windows code page 1252 instead of refused.

    Raises:
        UnreadableText: It is missing or has another encoding.
    """
    return decode(_read_bytes(path), printable(path.name), lenient=lenient)


def _read_bytes(path: Path, max_bytes: int = -1) -> bytes:
    name = printable(path.name)
    try:
        with open_regular(path) as file:
            return file.read(max_bytes)
    except FileError as error:
        raise UnreadableText(f"{name} can't be read: {error.reason}.") from None
    except OSError as error:
        raise UnreadableText(f"{name} can't be read: {error.strerror or error}.") from None


def decode(data: bytes, name: str, *, lenient: bool = False, is_complete: bool = True) -> str:
    """Decode the content of a text file; see `read_text`.

    Args:
        name: The file's name, for errors.
        is_complete: False where `data` may end within a character.

    Raises:
        UnreadableText: Neither UTF-8 nor UTF-16, or not text at all.
    """
    encoding, start = _detect_encoding(data)
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(data[start:], final=is_complete)
    except UnicodeDecodeError as error:
        if lenient and encoding == "utf-8":
            return data.decode("cp1252", errors="replace")
        raise UnreadableText(
            f"{name} is not text in UTF-8 or UTF-16 ({error.reason} at byte {start + error.start:,}). Save it as "
            'UTF-8; spreadsheets call that "CSV UTF-8".'
        ) from None
    if "\0" in text:
        raise UnreadableText(f"{name} is not text: it contains the character NUL.")
    return text


def _detect_encoding(data: bytes) -> tuple[str, int]:
    """Return the encoding of a text, and the length of its byte order mark."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding, len(mark)
    # Without a mark, every other byte of Latin text in UTF-16 is zero.
    head = data[:1000]
    if len(head) >= 4 and head.count(0) * 3 > len(head):
        even_zeros, odd_zeros = head[::2].count(0), head[1::2].count(0)
        return ("utf-16-le" if odd_zeros > even_zeros else "utf-16-be"), 0
    return "utf-8", 0


# Tables


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    values: Sequence[str]
    lines: Sequence[int | str]
    """Line of each value in its file; with several files, a text that also names the file."""


class TextTable:
    """A CSV (separated by `,`, `;` or tabs) or JSON Lines. Blank lines, and blanks around values, are ignored.

    Args:
        path: Its suffix decides: `.jsonl` and `.ndjson` have one object per line, others are CSV.
        head: Whether only the header of a possibly large file is needed.
        lenient: See `read_text`.

    Raises:
        UnreadableText: It can't be read as a table.
    """

    def __init__(self, path: Path, *, head: bool = False, lenient: bool = False):
        self.name = printable(path.name)
        data = _read_bytes(path, HEAD_BYTES if head else -1)
        text = decode(data, self.name, lenient=lenient, is_complete=not head or len(data) < HEAD_BYTES)
        self._is_truncated = head and len(data) == HEAD_BYTES
        if path.suffix.lower() in JSON_LINES:
            self.is_json, self.separator, self.text = True, ",", text
            self._objects = list(self._read_objects(text))
            self.header = list(dict.fromkeys(name for _, fields in self._objects for name in fields))
        else:
            self.is_json, self._objects = False, []
            self.text, self.separator, self._lines_skipped = _find_separator(text)
            self.header = [name.strip() for name in next(self._fields(), (0, []))[1]]

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the number and fields of each line; there may be more or fewer fields than in the header."""
        if self.is_json:
            for line, values_by_name in self._objects:
                yield line, [_to_csv_text(values_by_name.get(name)) for name in self.header]
            return
        fields = self._fields()
        next(fields, None)
        yield from ((line, [value.strip() for value in row]) for line, row in fields)

    def records(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield the number and values by column of each line; missing fields at the end of a line are empty.

        Raises:
            UnreadableText: A line has more fields than the header, so a value contains a separator.
        """
        for line, fields in self:
            if len(fields) > len(self.header) and any(fields[len(self.header) :]):
                raise UnreadableText(
                    f"{self.name}, line {line}: {len(fields)} fields instead of {len(self.header)}. "
                    f"{self.quoting_hint()}"
                )
            values = [*fields[: len(self.header)], *[""] * (len(self.header) - len(fields))]
            yield line, dict(zip(self.header, values, strict=True))

    def require(self, *names: str) -> None:
        """Raise UnreadableText unless each name has exactly one column."""
        for name in names:
            if self.header.count(name) > 1:
                raise UnreadableText(f"{self.name} has two columns {name!r}. {describe_header(self.header)}")
            if name not in self.header:
                near = suggest(name, self.header) or f". {describe_header(self.header)}"
                raise UnreadableText(f"{self.name} has no column {name!r}{near}")

    def columns(self, names: Sequence[str]) -> dict[str, Column]:
        """Return columns by name.

        Raises:
            UnreadableText: A column is missing or duplicated, a line's number of fields differs from the header's, or
                no line follows the header.
        """
        self.require(*names)
        positions = [self.header.index(name) for name in names]
        values: list[list[str]] = [[] for _ in names]
        lines: list[int] = []
        uneven: list[tuple[int, int]] = []
        for line, fields in self:
            if len(fields) != len(self.header):
                uneven.append((line, len(fields)))
                continue
            lines.append(line)
            for column, position in zip(values, positions, strict=True):
                column.append(fields[position])
        if uneven:
            line, count = uneven[0]
            raise UnreadableText(
                f"{self.name}: {plural(len(uneven), 'row')} whose number of fields differs from the "
                f"{len(self.header)} of the first line, such as line {line} with {count}. {self.quoting_hint()}"
            )
        if not lines:
            raise UnreadableText(f"{self.name} has no row below its first line.")
        return {name: Column(name, column, lines) for name, column in zip(names, values, strict=True)}

    def quoting_hint(self) -> str:
        """Return the advice for a line with too many fields."""
        sign = {",": "A comma", ";": "A semicolon", "\t": "A tab"}.get(self.separator, f"A {self.separator!r}")
        return f"{sign} within a value needs quotes around the value."

    def _fields(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the non-blank lines of a CSV, the header first."""
        # Strict, because otherwise an unclosed quote would swallow the rest of the file.
        strict = not self._is_truncated
        reader = csv.reader(io.StringIO(self.text, newline=""), delimiter=self.separator, strict=strict)
        try:
            for fields in reader:
                if any(field.strip() for field in fields):
                    yield reader.line_num + self._lines_skipped, fields
        except csv.Error as error:
            line = reader.line_num + self._lines_skipped
            raise UnreadableText(f"{self.name}, line {line}: it can't be read as a CSV: {error}.") from None

    def _read_objects(self, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
        lines = text.split("\n")
        for number, line in enumerate(lines[:-1] if self._is_truncated else lines, 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                reason = getattr(error, "msg", None) or type(error).__name__
                raise UnreadableText(f"{self.name}, line {number}: it is not JSON ({reason}).") from None
            if not isinstance(values, dict):
                raise UnreadableText(f'{self.name}, line {number}: it is not a JSON object such as {{"y": "cat"}}.')
            yield number, {name.strip(): value for name, value in values.items()}


def _to_csv_text(value: Any) -> str:
    """Return a JSON value in CSV notation."""
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else str(value).strip()


def _find_separator(text: str) -> tuple[str, str, int]:
    """Return the text of a CSV, its separator, and the number of lines dropped before its header.

    Excel may write `sep=;` into the first line.
    """
    first, _, rest = text.partition("\n")
    if (declaration := first.strip().strip('"')).lower().startswith("sep=") and len(declaration) == len("sep=,"):
        return rest, declaration[-1], 1
    header = text.lstrip("\r\n").splitlines()[:1]
    outside = "".join((header or [""])[0].split('"')[::2])
    return text, max(SEPARATORS, key=outside.count), 0


def read_header(path: Path) -> list[str]:
    """Return the column names of a table; empty for an empty file.

    Raises:
        UnreadableText: It can't be read as a table.
    """
    return TextTable(path, head=True).header


def describe_header(header: Sequence[str]) -> str:
    """Describe the first line of a table, as a sentence."""
    return f"Its first line reads: {printable(join_names(header, 8)) or 'nothing'}."
