"""A model, package or device that this machine lacks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Need:
    """A requirement that this machine lacks."""

    field: str
    """Recipe field that requires it."""
    what: str
    """Description, a sentence without a full stop."""
    command: str | None = None
    """Shell command that provides it, or the setting to change."""
    bytes: int | None = None
    """Approximate download size, if known."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
