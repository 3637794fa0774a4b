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


def merge_cards(local: str, remote: str, previous: str | None) -> str:
    """Return the card to publish: generated parts from the local card, the rest with the edits of both sides.

    If only one side changed a key of the YAML header, or the text outside the generated marks, since the last push,
    its version is used. Lists that both sides changed are united.

    Args:
        local: The local card.
        remote: The card on the Hub.
        previous: The local card at the last push; None if it was never pushed.

    Raises:
        FiguregroundError: Both sides changed the same item, or a card's header can't be read.
    """
    if remote in (local, previous):
        return local
    ours, our_text = _split_card(local, "README.md")
    remote_header, their_text = _split_card(remote, "README.md on the Hub")
    theirs = remote_header
    if previous is None:
        # Values of an unedited card; keys missing on the Hub don't count as edits.
        title = ours.get("pretty_name")
        base: dict[str, Any] = {"license": "unknown", "pretty_name": title}
        base_text = f"# {title}\n\n{card.BEGIN}\n{card.END}\n"
        theirs = {**ours, **base, **remote_header}
    else:
        base, base_text = _split_card(previous, "the card as it was last pushed")
    header = {}
    for key in dict.fromkeys([*ours, *theirs]):
        if key in card.GENERATED_KEYS:
            if key in ours:
                header[key] = ours[key]
            continue
        value = _merge_value(key, ours.get(key), theirs.get(key), base.get(key))
        if value is not _MISSING:
            header[key] = value
    if not their_text.strip():
        their_text = base_text  # an empty card doesn't count as an edit
    text = _merge_value("text", our_text, their_text, base_text)
    # Keep the Hub's YAML verbatim, with its comments, unless a value differs.
    match = _HEADER.match(remote)
    header_yaml = (
        match["yaml"]
        if match
        and all(header.get(key) == value for key, value in remote_header.items() if key not in card.GENERATED_KEYS)
        else card.dump(header)
    )
    body = _strip_header(local)
    generated = card.find_generated_part(body)
    if generated is None:
        raise FiguregroundError("README.md: the generated part is missing. Rerun the command that made the dataset.")
    our_part = body[generated[0] :]
    return card.rewrite(f"---\n{header_yaml}---\n{text}", header, our_part)


def _merge_value(key: str, ours: Any, theirs: Any, base: Any) -> Any:
    if isinstance(ours, str) and isinstance(theirs, str) and ours.split() == theirs.split():
        return ours
    if ours == theirs or _is_same(theirs, base):
        return ours
    if _is_same(ours, base):
        return theirs
    if isinstance(ours, list) and isinstance(theirs, list):
        return [*ours, *(item for item in theirs if item not in ours)]
    name = "the text outside the generated part" if key == "text" else repr(key)
    raise FiguregroundError(
        f"README.md: {name} was changed differently here and on the Hub. Copy one version to the other side, and "
        "push again."
    )


def _is_same(one: Any, other: Any) -> bool:
    return one == other or (isinstance(one, str) and isinstance(other, str) and one.split() == other.split())


def _split_card(text: str, where: str) -> tuple[dict[str, Any], str]:
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
    body = _strip_header(text)
    span = card.find_generated_part(body)
    if span is not None:
        body = f"{body[: span[0]]}{card.BEGIN}\n{card.END}{body[span[1] :]}"
    return dict(header), body


def _strip_header(text: str) -> str:
    match = _HEADER.match(text)
    return text[match.end() :] if match else text
