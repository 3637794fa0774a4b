"""Merge a dataset's local card with the one on the Hub; both may have been edited."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from figureground.core.errors import FiguregroundError
from figureground.core.yaml_documents import safe_load
from figureground.shards import card

_HEADER = re.compile(r"\A---[ \t]*\n(?P<yaml>.*?)^---[ \t]*$\n?", re.DOTALL | re.MULTILINE)
_MISSING: Any = None


def join(here: str, there: str, before: str | None) -> str:
    """Return the card to publish: generated parts from the local card, the rest with the edits of both sides.

    If only one side changed a key of the YAML header, or the text outside the generated marks, since the last push,
    its version is used. Lists that both sides changed are united.

    Args:
        here: The local card.
        there: The card on the Hub.
        before: The local card at the last push; None if it was never pushed.

    Raises:
        FiguregroundError: Both sides changed the same item, or a card's header can't be read.
    """
    if there in (here, before):
        return here
    ours, our_text = _parts(here, "README.md")
    said, their_text = _parts(there, "README.md on the Hub")
    theirs = said
    if before is None:
        # Values of an unedited card; keys missing on the Hub don't count as edits.
        title = ours.get("pretty_name")
        base: dict[str, Any] = {"license": "unknown", "pretty_name": title}
        base_text = f"# {title}\n\n{card.BEGIN}\n{card.END}\n"
        theirs = {**ours, **base, **said}
    else:
        base, base_text = _parts(before, "the card as it was last pushed")
    header = {}
    for key in dict.fromkeys([*ours, *theirs]):
        if key in card.OURS:
            if key in ours:
                header[key] = ours[key]
            continue
        value = _chosen(key, ours.get(key), theirs.get(key), base.get(key))
        if value is not _MISSING:
            header[key] = value
    if not their_text.strip():
        their_text = base_text  # an empty card doesn't count as an edit
    text = _chosen("text", our_text, their_text, base_text)
    # Keep the Hub's YAML verbatim, with its comments, unless a value differs.
    written = _HEADER.match(there)
    kept = (
        written["yaml"]
        if written and all(header.get(key) == value for key, value in said.items() if key not in card.OURS)
        else card.dump(header)
    )
    body = _body(here)
    generated = card.generated_part(body)
    if generated is None:
        raise FiguregroundError("README.md: the generated part is missing. Rerun the command that made the dataset.")
    our_part = body[generated[0] :]
    return card.rewrite(f"---\n{kept}---\n{text}", header, our_part)


def _chosen(what: str, ours: Any, theirs: Any, base: Any) -> Any:
    if isinstance(ours, str) and isinstance(theirs, str) and ours.split() == theirs.split():
        return ours
    if ours == theirs or _same(theirs, base):
        return ours
    if _same(ours, base):
        return theirs
    if isinstance(ours, list) and isinstance(theirs, list):
        return [*ours, *(item for item in theirs if item not in ours)]
    name = "the text outside the generated part" if what == "text" else repr(what)
    raise FiguregroundError(
        f"README.md: {name} was changed differently here and on the Hub. Copy one version to the other side, and "
        "push again."
    )


def _same(one: Any, other: Any) -> bool:
    return one == other or (isinstance(one, str) and isinstance(other, str) and one.split() == other.split())


def _parts(text: str, where: str) -> tuple[dict[str, Any], str]:
    """Return a card's YAML header, and its Markdown with the two marks but without the text between them."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    match = _HEADER.match(text)
    try:
        header = (safe_load(match["yaml"]) or {}) if match else {}
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise FiguregroundError(f"{where}: its YAML header can't be read: {problem}. Fix it and push again.") from None
    if not isinstance(header, Mapping):
        raise FiguregroundError(f"{where}: its YAML header isn't a mapping of keys to values. Fix it and push again.")
    body = _body(text)
    found = card.generated_part(body)
    if found is not None:
        body = f"{body[: found[0]]}{card.BEGIN}\n{card.END}{body[found[1] :]}"
    return dict(header), body


def _body(text: str) -> str:
    match = _HEADER.match(text)
    return text[match.end() :] if match else text
