"""Which cut-outs are kept, and why others are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from figureground.materials.gates import NOTHING, Gates, list_reasons
from figureground.materials.journal import CUT, UNREADABLE, CutoutRow
from figureground.materials.marks import KEEP, LEAVE

BY_HAND = "left out by hand"


@dataclass(frozen=True)
class Decision:
    """A photograph, and what becomes of its cut-out."""

    row: CutoutRow
    reasons: tuple[str, ...]
    """Why gates, or people, leave it out; also given for a cut-out that is kept by hand."""
    mark: str = ""
    """`keep`, `leave`, or nothing."""

    @property
    def is_kept(self) -> bool:
        return self.row.state == CUT and self.mark != LEAVE and (not self.reasons or self.mark == KEEP)

    @property
    def folder(self) -> str:
        return self.row.file.partition("/")[0]

    @property
    def kind(self) -> str:
        """The first reason without its number, such as `too small`; empty for one that is kept."""
        return "" if self.is_kept else self.reasons[0].partition(":")[0]


def decide(row: CutoutRow, gates: Gates, mark: str = "") -> Decision:
    """Decide about one photograph: people's marks overrule gates, but nothing can be kept of one without a cut-out."""
    if row.state == UNREADABLE:
        return Decision(row, (f"unreadable: {row.problem}",), mark)
    if row.state != CUT or row.measures is None:
        return Decision(row, (NOTHING,), mark)
    by_hand = (BY_HAND,) if mark == LEAVE else ()
    return Decision(row, (*by_hand, *list_reasons(row.measures, gates)), mark)


def count_by_class(decisions: Iterable[Decision]) -> dict[str, dict[str, int]]:
    """Return for each class folder the numbers of photographs, of those kept, and of others by the first reason."""
    counts: dict[str, Counter[str]] = {}
    for decision in decisions:
        class_counts = counts.setdefault(decision.folder, Counter({"photographs": 0, "kept": 0}))
        class_counts["photographs"] += 1
        class_counts[decision.kind or "kept"] += 1
    return {folder: dict(class_counts) for folder, class_counts in counts.items()}


def count_reasons(counts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Return the numbers of photographs that were left out by the first reason, the most frequent first."""
    total: Counter[str] = Counter()
    for class_counts in counts.values():
        total.update({kind: n for kind, n in class_counts.items() if kind not in ("photographs", "kept")})
    return dict(total.most_common())
