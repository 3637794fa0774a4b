"""Comparison of names, and names for paths: one rule for classes, backgrounds and folders."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

RULE = "Names that differ only in case, spaces, '_' or Unicode normalisation count as one"
"""Description of the rule, for errors."""

MAX_PAIRS_SHOWN = 3
"""Maximum number of pairs of names in an error."""
MAX_SLUG_LENGTH = 60
"""Maximum characters of a slug. Slugs are parts of file names, which may have 255 bytes."""
_HASH_DIGITS = 8
_LATIN = {"æ": "ae", "đ": "d", "ð": "d", "ħ": "h", "ı": "i", "ł": "l", "ŋ": "n", "ø": "o", "œ": "oe", "þ": "th"}
"""Latin letters without a decomposition, and their ASCII spelling."""


def name_key(name: str) -> str:
    """Return a name's comparison key: case, `_` for a space, blanks, and Unicode normalisation don't matter.

    Invisible characters, such as a byte order mark or a soft hyphen, don't matter either. Throughout the package, two
    names are the same if their keys are equal.
    """
    # Casefolding may undo the normalisation, so it is done twice (Unicode 15, section 3.13, definition D146).
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    visible = "".join(character for character in plain if unicodedata.category(character) != "Cf")
    return " ".join(visible.replace("_", " ").split())


_SYMBOLS = "#%*♀♂"
"""Characters that distinguish names, besides mathematical signs and currencies."""


def find_symbols(name: str) -> str:
    """Return the symbols of a name that tell it from others with the same letters: `++` of `C++`, `#` of `C#`."""
    plain = unicodedata.normalize("NFKC", name)
    return "".join(each for each in plain if each in _SYMBOLS or unicodedata.category(each) in ("Sm", "Sc"))


def as_names(names: str | Iterable[str]) -> list[str]:
    """Return names as a list; a text is one name, not one for each of its letters."""
    return [names] if isinstance(names, str) else list(names)


def is_text(name: str) -> bool:
    """Whether a name or another text has no lone surrogate. With one it can't be stored in a file.

    Names of files may have them: file systems allow arbitrary bytes.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def find_same_names(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of different spellings that are the same name by `name_key`, in order of the first spelling."""
    first: dict[str, str] = {}
    pairs: dict[tuple[str, str], None] = {}
    for name in names:
        if (other := first.setdefault(name_key(name), name)) != name:
            pairs[other, name] = None
    return list(pairs)


def describe_same_names(pairs: Sequence[tuple[str, str]]) -> str:
    """Return pairs of `find_same_names` for an error: `'Cat' and 'cat'; …`."""
    examples = "; ".join(f"{one!r} and {other!r}" for one, other in pairs[:MAX_PAIRS_SHOWN])
    return f"{examples}; … ({len(pairs)} pairs)" if len(pairs) > MAX_PAIRS_SHOWN else examples


class Lookup:
    """Index of known names by `name_key`. Building takes time linear in the number of names; a search, constant time.

    Args:
        names: The names, in the order in which `find` returns them.
    """

    def __init__(self, names: Iterable[str]):
        self._by_name: dict[str, list[str]] = {}
        for name in names:
            self._by_name.setdefault(name_key(name), []).append(name)

    def find(self, *names: str) -> list[str]:
        """Return the known names that match the first of `names` with a match."""
        return next((matches for name in names if (matches := self._by_name.get(name_key(name)))), [])


def slug(text: str) -> str:
    """Return a name for paths, splits and concepts: lower-case letters, digits and `_`, at most `MAX_SLUG_LENGTH` long.

    `potter's wheel` becomes `potters_wheel`. A letter without an ASCII form becomes its code point: `鸟` is `u9e1f`.
    A name without letters or digits is spelled entirely in code points. A blank name gives an empty slug.
    """
    plain = unicodedata.normalize("NFKC", re.sub(r"['’]", "", text).casefold())
    ascii_text = "".join(map(_spell_in_ascii, plain))
    result = re.sub(r"[^a-z0-9]+", "_", ascii_text).strip("_")
    if not result:
        result = "_".join(f"u{ord(character):x}" for character in text if not character.isspace())
    if len(result) > MAX_SLUG_LENGTH:
        result = f"{result[: MAX_SLUG_LENGTH - _HASH_DIGITS - 1].rstrip('_')}_{short_hash(text)}"
    return result


def _spell_in_ascii(character: str) -> str:
    """Return a character's ASCII letters and digits, else its code point if it is a letter, a mark or a number."""
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode().casefold()
    plain = plain or _LATIN.get(character, "")
    if plain or character.isascii():
        return plain
    return f"_u{ord(character):x}_" if unicodedata.category(character)[0] in "LNM" else "_"


def unique_slugs(names: Collection[str]) -> dict[str, str]:
    """Return a unique slug for each name: names that would share one get a hash of the name appended."""
    slugs = {name: slug(name) for name in names}
    counts = Counter(slugs.values())
    return {name: f"{text}_{short_hash(name)}" if counts[text] > 1 else text for name, text in slugs.items()}


def short_hash(text: str) -> str:
    """Return eight hexadecimal digits of a name's SHA-256, independent of Unicode normalisation."""
    data = unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()[:_HASH_DIGITS]


RESERVED = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$"}
    | {f"{port}{n}" for port in ("com", "lpt") for n in "0123456789¹²³"}
)
"""Names of devices, in lower case, which Windows doesn't let a file have, with or without a suffix."""
MAX_NAME_BYTES = 255
"""Longest name of a file on Linux, bytes of UTF-8."""
_REFUSED = '<>:"/\\|?*'


def explain_unportable(name: str) -> str | None:
    """Return why a name can't be that of a file on Linux, macOS and Windows alike; None if it can."""
    if not name or name in (".", ".."):
        return "names no file"
    if bad := sorted({character for character in name if character in _REFUSED}):
        return f"contains {' '.join(bad)}"
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        return "contains a control character"
    if name[-1] in ". " or name[0] == " ":
        return "begins with a space, or ends with a dot or a space"
    if name.partition(".")[0].rstrip().casefold() in RESERVED:
        return "is the name of a device on Windows"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"has more than {MAX_NAME_BYTES} bytes"
    return None


def find_same_files(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of different names that are one file where case or Unicode normalisation doesn't count."""
    first: dict[str, str] = {}
    pairs: dict[tuple[str, str], None] = {}
    for name in names:
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        if (other := first.setdefault(key, name)) != name:
            pairs[other, name] = None
    return list(pairs)


def folder_names(names: Collection[str]) -> dict[str, str]:
    """Return a name for a folder of each name: its slug, unique, and portable to every system."""
    return {
        name: f"{folder}_{short_hash(name)}" if explain_unportable(folder) else folder
        for name, folder in unique_slugs(names).items()
    }
