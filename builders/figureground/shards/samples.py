"""A sample in a shard: as it is written, and as it is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from figureground.core.files import parse_json
from figureground.recipe.sample import Guide, Reject, Spec


@dataclass(frozen=True, slots=True)
class Encoded:
    """A sample as bytes, ready for any format."""

    spec: Spec
    image: bytes
    provenance: str
    """JSON."""
    labels: dict[str, int] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    images: dict[str, bytes] = field(default_factory=dict)
    """PNG, by column."""


@dataclass(frozen=True, slots=True)
class Dropped(Reject):
    """A reject that has an image."""

    encoded: Encoded


@dataclass(frozen=True, slots=True)
class Stored:
    """A sample as stored in a shard: bytes and labels, not decoded."""

    key: str
    image: bytes
    """The encoded image."""
    prompt: str
    provenance: str
    """JSON, as written."""
    labels: dict[str, int]
    """`foreground`, `background`, and the further label columns."""
    texts: dict[str, str] = field(default_factory=dict)
    images: dict[str, bytes] = field(default_factory=dict)
    """PNG, by column."""

    def spec(self) -> Spec:
        """Return the Spec that the sample was made from, as far as its provenance records it."""
        record: dict[str, Any] = parse_json(self.provenance, f"{self.key}: its provenance")
        guide = Guide.from_json(record["guide"]) if record.get("guide") else None
        return Spec(
            self.key, record["split"], self.labels["foreground"], self.labels["background"],
            record.get("foreground_name", record["foreground"]), record.get("background_name", record["background"]),
            self.prompt, record.get("seed", 0), guide, (record.get("concept") or {}).get("name"),
        )  # fmt: skip

    def encoded(self) -> Encoded:
        """Return the same sample, ready to be written again."""
        further = {name: label for name, label in self.labels.items() if name not in ("foreground", "background")}
        return Encoded(self.spec(), self.image, self.provenance, further, self.texts, self.images)
