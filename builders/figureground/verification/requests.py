"""The scorers that a user asks for: `KIND`, `KIND:ID` or `NAME=KIND:ID`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from figureground.core.errors import UsageError, suggest_or_list
from figureground.core.names import slug
from figureground.verification.scorer import SCORERS

RESERVED = ("quality", "safety", "blur", "brightness", "key", "image")
"""Names that the scores file uses for something else."""
_PATTERN = re.compile(r"(?:(?P<name>[^=:/]*)=)?(?P<kind>[^:]*)(?::(?P<id>.*))?", re.DOTALL)


@dataclass(frozen=True)
class ScorerRequest:
    """A scorer, not opened."""

    name: str
    """Name in the scores file, an identifier."""
    kind: str
    id: str
    """Text after the colon; empty without one."""


def parse_scorers(texts: Sequence[str]) -> list[ScorerRequest]:
    """Read what `--scorer` names.

    Without a NAME, it is made of the kind and the last part of the id: `clip:openai/clip-vit-base-patch32` is
    `clip_clip_vit_base_patch32`.

    Raises:
        UsageError: A kind is unknown, lacks its id, or a name isn't an identifier, is reserved or occurs twice.
    """
    requests: dict[str, ScorerRequest] = {}
    for text in texts:
        match = _PATTERN.fullmatch(text.strip())
        assert match is not None
        kind, id = match["kind"].strip(), (match["id"] or "").strip()
        if kind not in SCORERS:
            raise UsageError(f"--scorer {text}: unknown scorer {kind!r}{suggest_or_list(kind, SCORERS.names())}")
        if not id and kind in ("clip", "classifier", "vlm"):
            raise UsageError(f"--scorer {text}: name the model, as {kind}:ID.")
        name = match["name"].strip() if match["name"] is not None else _default_name(kind, id)
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) or name in RESERVED:
            raise UsageError(
                f"--scorer {text}: {name!r} can't be a scorer's name. Give an identifier, as in mine={kind}."
            )
        if name in requests:
            earlier = requests[name]
            raise UsageError(
                f"--scorer {text}: {earlier.kind}{':' * bool(earlier.id)}{earlier.id} is called {name!r} too. "
                f"Name one of them: --scorer other={text.rpartition('=')[2]}"
            )
        requests[name] = ScorerRequest(name, kind, id)
    return list(requests.values())


def _default_name(kind: str, id: str) -> str:
    last = slug(PurePath(id.removeprefix("timm:").rstrip("/")).name) if id else ""
    return f"{kind}_{last}" if last else kind
