"""Columns of a dataset's samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from figureground.shards.shard import ShardError

if TYPE_CHECKING:
    from datasets import Features

REASON = "reason"
"""Column of published rejects that holds the reason for rejection."""


@dataclass(frozen=True)
class Columns:
    """Columns of a dataset, in this order, besides `prompt`, `key` and `provenance`.

    The values of `labels` and `texts` are read from a sample's provenance, under the same names.
    """

    foregrounds: Sequence[str]
    """Names of the foreground classes, in label order."""
    backgrounds: Sequence[str]
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Further ClassLabel columns, with the names of their classes; provenance holds the name."""
    texts: Sequence[str] = ()
    """Further string columns."""
    guide: bool = False
    """Whether the guide, the image that generation started from, is stored as PNG."""
    mask: bool = False

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Columns:
        """Restore the columns from the output of `to_json`."""
        return cls(**saved)

    def to_json(self) -> dict[str, Any]:
        """Return all columns as JSON, for the index."""
        return {
            "foregrounds": list(self.foregrounds),
            "backgrounds": list(self.backgrounds),
            "labels": {name: list(names) for name, names in self.labels.items()},
            "texts": list(self.texts),
            "guide": self.guide,
            "mask": self.mask,
        }

    @property
    def classes(self) -> dict[str, Sequence[str]]:
        """Names of the classes, by label column."""
        return {"foreground": self.foregrounds, "background": self.backgrounds, **self.labels}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all columns, in order."""
        common = ("image", "foreground", "background", "prompt", "key", "provenance")
        return (*common, *self.labels, *self.texts, *self.images)

    def features(self) -> Features:
        """Return the columns as `load_dataset` shows them, under their own names."""
        from datasets import ClassLabel, Features, Image, Value

        text = Value("string")
        return Features(
            {
                "image": Image(),
                "foreground": ClassLabel(names=list(self.foregrounds)),
                "background": ClassLabel(names=list(self.backgrounds)),
                "prompt": text,
                "key": text,
                "provenance": text,
                **{name: ClassLabel(names=list(names)) for name, names in self.labels.items()},
                **{name: text for name in self.texts},
                **{name: Image() for name in self.images},
            }
        )

    def with_reason(self) -> Columns:
        """Return the columns of published rejects, which include `reason`.

        Raises:
            ShardError: The dataset already has a column `reason`.
        """
        if REASON in (*self.labels, *self.texts):
            raise ShardError(f"rejects can't be published: the dataset already has a column {REASON!r}.")
        return replace(self, texts=(*self.texts, REASON))

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the image columns besides `image`."""
        return tuple(name for name, is_stored in (("guide", self.guide), ("mask", self.mask)) if is_stored)
