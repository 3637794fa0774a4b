"""Formats the results of `verify` as text."""

from __future__ import annotations

from figureground.core.errors import join_names, plural
from figureground.verification.verifying import QUALITY, Verified

MAX_NAMED = 5
"""Maximum number of labels or keys that a line names."""


def summarise(verified: Verified) -> str:
    """Return the summary: one line per scorer, and lines about what has no score."""
    lines = []
    for name, result in verified.results.items():
        agreements = [
            f"{what} {agree:,} of {of:,} ({100 * agree / of:.1f} %)" for what, (agree, of) in result.agree.items() if of
        ]
        new = "nothing new" if not result.new else f"{plural(result.new, 'image')} scored"
        lines.append(f"{name}: {new}" + (f"; agrees with {', '.join(agreements)}" if agreements else ""))
        for what, labels in result.left_out.items():
            names = join_names((f"{label} ({count:,})" for label, count in labels.items()), MAX_NAMED)
            lines.append(f"  without a score, because it doesn't know the {what}: {names}")
        if name != QUALITY:
            lines += [
                f"  without an answer: {column.rpartition('_')[0]} of {plural(count, 'image')}"
                for column, count in result.missing.items()
                if count > len(verified.unreadable)
            ]
    if verified.unreadable:
        keys = join_names((f"{key} ({why})" for key, why in verified.unreadable.items()), MAX_NAMED)
        lines.append(f"{plural(len(verified.unreadable), 'image')} can't be decoded and got no score: {keys}")
    return "\n".join(lines)
