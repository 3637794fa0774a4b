"""Tells what `verify` found, as text."""

from __future__ import annotations

from figureground.core.errors import counted, listed
from figureground.verification.verifying import QUALITY, Verified

MOST_NAMED = 5
"""Maximum number of labels or keys that a line names."""


def summarise(done: Verified) -> str:
    """Return the summary: one line per scorer, and lines about what has no score."""
    lines = []
    for name, result in done.results.items():
        said = [
            f"{what} {agree:,} of {of:,} ({100 * agree / of:.1f} %)" for what, (agree, of) in result.agree.items() if of
        ]
        new = "nothing new" if not result.new else f"{counted(result.new, 'image')} scored"
        lines.append(f"{name}: {new}" + (f"; agrees with {', '.join(said)}" if said else ""))
        for what, labels in result.left_out.items():
            named = listed((f"{label} ({count:,})" for label, count in labels.items()), MOST_NAMED)
            lines.append(f"  without a score, because it doesn't know the {what}: {named}")
        if name != QUALITY:
            lines += [
                f"  without an answer: {column.rpartition('_')[0]} of {counted(count, 'image')}"
                for column, count in result.missing.items()
                if count > len(done.unreadable)
            ]
    if done.unreadable:
        keys = listed((f"{key} ({why})" for key, why in done.unreadable.items()), MOST_NAMED)
        lines.append(f"{counted(len(done.unreadable), 'image')} can't be decoded and got no score: {keys}")
    return "\n".join(lines)
