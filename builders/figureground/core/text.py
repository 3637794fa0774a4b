"""Other people's text, made safe for where it is shown: a terminal, Markdown, a page."""

from __future__ import annotations

import re

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""Control characters, marks that reorder text, line separators and bytes that are no text.

The joiners U+200C and U+200D stay: scripts and emoji need them, and they move nothing.
"""

_MARKDOWN = re.compile(r"[\\|<>&*_`~$\[\]]")
_IN_CODE = re.compile(r"[!-/:-@\[-`{-~]")
"""All punctuation of ASCII: as a character reference none of it can begin or end anything in Markdown or HTML."""


def printable(text: object, *, lines: bool = False) -> str:
    r"""Return text that any terminal shows as it is: what would steer the terminal is written as a code.

    Escape sequences, carriage returns, bidirectional overrides and lone surrogates become `\x1b`, `\r`, `\u202e`,
    `\udc80`.

    Args:
        text: Anything; what isn't text is turned into it.
        lines: Whether line breaks and tabs stay; otherwise the result is one line.
    """

    def code(match: re.Match[str]) -> str:
        character = match[0]
        if lines and character in "\n\t":
            return character
        if "\x7f" <= character <= "\x9f":
            return f"\\u{ord(character):04x}"  # as JSON writes it too
        return character.encode("unicode_escape").decode("ascii")

    return _CONTROLS.sub(code, str(text))


def steers(text: str) -> bool:
    """Whether text holds anything but line breaks and tabs that `printable` would write as a code."""
    return printable(text, lines=True) != text


def markdown(text: object) -> str:
    """Return text as one line of Markdown that shows it letter for letter, also in the cell of a table.

    Runs of blanks become one. What is escaped can't open a comment, a tag, a link, a code span or a formula.
    """
    return _MARKDOWN.sub(r"\\\g<0>", printable(" ".join(str(text).split())))


def code(text: object, longest: int = 200) -> str:
    """Return text as code in one line of Markdown, also in the cell of a table; nothing for no text.

    Args:
        text: What isn't text is turned into it.
        longest: Characters that are shown; more are cut off with an ellipsis.
    """
    line = printable(" ".join(str(text).split()))
    line = f"{line[:longest]}…" if len(line) > longest else line
    if not line:
        return ""
    # Nothing can be escaped in a code span: what could end the cell or look like a comment is written as HTML.
    if re.search(r"\\\||\\$|<!--|-->|--!>", line):
        return f"<code>{_IN_CODE.sub(lambda match: f'&#{ord(match[0])};', line)}</code>"
    ticks = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    blank = " " if "`" in (line[0], line[-1]) else ""
    return f"{ticks}{blank}{line}{blank}{ticks}".replace("|", "\\|")


def fence(text: str) -> str:
    """Return the backticks that enclose a block of code in Markdown: more than the text has in a row."""
    return "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
