"""Makes untrusted text safe for terminals, Markdown and HTML pages."""

from __future__ import annotations

import re

MAX_CODE = 200
"""Maximum number of characters of a code span."""

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""Control characters, marks that reorder text, line separators and bytes that are not text.

The joiners U+200C and U+200D are allowed: scripts and emoji need them, and they don't reorder text.
"""

_MARKDOWN = re.compile(r"[\\|<>&*_`~$\[\]]")
_IN_CODE = re.compile(r"[!-/:-@\[-`{-~]")
"""All ASCII punctuation, which as character references can't start or end any Markdown or HTML syntax."""


def printable(text: object, *, lines: bool = False) -> str:
    r"""Return text that any terminal shows literally: characters that would control the terminal are escaped.

    Escape sequences, carriage returns, bidirectional overrides and lone surrogates become `\x1b`, `\r`, `\u202e`,
    `\udc80`.

    Args:
        text: Any object; converted to text.
        lines: Whether line breaks and tabs are kept; otherwise the result is one line.
    """

    def escape(match: re.Match[str]) -> str:
        character = match[0]
        if lines and character in "\n\t":
            return character
        if "\x7f" <= character <= "\x9f":
            return f"\\u{ord(character):04x}"  # as JSON writes it too
        return character.encode("unicode_escape").decode("ascii")

    return _CONTROLS.sub(escape, str(text))


def has_control_characters(text: str) -> bool:
    """Whether `printable` would escape anything in a text, besides line breaks and tabs."""
    return printable(text, lines=True) != text


def markdown(text: object) -> str:
    """Return text as one line of Markdown that shows it literally, also in a table cell.

    Runs of blanks become one. Escaped text can't open a comment, a tag, a link, a code span or a formula.
    """
    return _MARKDOWN.sub(r"\\\g<0>", printable(" ".join(str(text).split())))


def code(text: object) -> str:
    """Return text as code in one line of Markdown, also for a table cell; empty for empty text.

    Text longer than `MAX_CODE` characters is cut off with an ellipsis.
    """
    line = printable(" ".join(str(text).split()))
    line = f"{line[:MAX_CODE]}…" if len(line) > MAX_CODE else line
    if not line:
        return ""
    # Code spans allow no escapes, so text that could end the cell or look like a comment is written as HTML.
    if re.search(r"\\\||\\$|<!--|-->|--!>", line):
        return f"<code>{_IN_CODE.sub(lambda match: f'&#{ord(match[0])};', line)}</code>"
    ticks = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    blank = " " if "`" in (line[0], line[-1]) else ""
    return f"{ticks}{blank}{line}{blank}{ticks}".replace("|", "\\|")


def fence(text: str) -> str:
    """Return the backticks of a Markdown code fence: more than the text has in a row."""
    return "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))


def human_time(seconds: float) -> str:
    """Format a duration in a readable unit."""
    if seconds < 1:
        return "less than a second"
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} seconds"
