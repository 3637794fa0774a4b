"""Merge a dataset's local card with the one on the Hub; both may have been edited."""

from __future__ import annotations

from typing import Any

from figureground.core.errors import FiguregroundError
from figureground.shards.card_file import (
    BEGIN,
    CARD,
    END,
    GENERATED_KEYS,
    UNKNOWN_LICENSE,
    CardText,
    dump,
    find_generated_part,
    parse_card,
    rewrite,
)

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
    (ours, _, our_body), our_text = _parse(local, CARD)
    (remote_header, remote_yaml, _), their_text = _parse(remote, f"{CARD} on the Hub")
    theirs = remote_header
    base: dict[Any, Any]
    if previous is None:
        # Values of an unedited card; keys missing on the Hub don't count as edits.
        title = ours.get("pretty_name")
        base = {"license": UNKNOWN_LICENSE, "pretty_name": title}
        base_text = f"# {title}\n\n{BEGIN}\n{END}\n"
        theirs = {**ours, **base, **remote_header}
    else:
        (base, _, _), base_text = _parse(previous, "the card as it was last pushed")
    header = {}
    for key in dict.fromkeys([*ours, *theirs]):
        if key in GENERATED_KEYS:
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
    unchanged = all(header.get(key) == value for key, value in remote_header.items() if key not in GENERATED_KEYS)
    generated = find_generated_part(our_body)
    if generated is None:
        raise FiguregroundError("README.md: the generated part is missing. Rerun the command that made the dataset.")
    merged = f"---\n{remote_yaml if unchanged else dump(header)}---\n{text}"
    return rewrite(merged, header, our_body[generated[0] :])


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


def _parse(text: str, name: str) -> tuple[CardText, str]:
    """Return a card, taken apart, and its Markdown with the two marks but without the text between them."""
    card = parse_card(text, name, "Fix it and push again.")
    span = find_generated_part(card.body)
    return card, card.body if span is None else f"{card.body[: span[0]]}{BEGIN}\n{END}{card.body[span[1] :]}"
