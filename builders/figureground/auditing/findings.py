"""Findings: what was found beyond chance, in words, with the images that show it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

LEVEL = 0.05
"""Highest chance of any false finding among all tests of an audit."""
MAX_KEYS = 12
"""Maximum number of images that a finding names."""


@dataclass(frozen=True)
class Finding:
    """A finding."""

    kind: str
    """`dependence`, `surroundings`, `object`, `near_duplicates`, `reuse`, `references` or `bias`."""
    text: str
    """A sentence or two."""
    effect: float
    """0 to 1, by which findings are sorted; see the section that made it."""
    classes: tuple[str, ...] = ()
    """Labels that it concerns."""
    keys: tuple[str, ...] = ()
    """Images that show it."""
    beside: tuple[str, ...] = ()
    """Images to compare them with."""
    p: float | None = None
    """P-value of its test before the correction for the number of tests; None if the finding is a fact, not a test."""
    numbers: dict[str, Any] = field(default_factory=dict, compare=False)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Section:
    """A part of an audit's report, and what it found."""

    report: dict[str, Any] | None
    """JSON; None for a part that wasn't asked for."""
    findings: list[Finding] = field(default_factory=list)
    """Candidates, which `confirm_findings` corrects for the number of tests."""
    p_values: list[float] = field(default_factory=list)
    """Of all tests that were made, found or not; see `confirm_findings`."""


def join_sections(report: dict[str, Any] | None, parts: Iterable[Section]) -> Section:
    """Return a report with the findings and the p-values of its parts, in order."""
    parts = list(parts)
    findings = [finding for part in parts for finding in part.findings]
    return Section(report, findings, [p for part in parts for p in part.p_values])


def confirm_findings(findings: Sequence[Finding], tests: Sequence[float]) -> list[Finding]:
    """Return the findings that are facts or stand after Holm's correction (1979), largest effect first.

    Args:
        findings: Candidates. A finding whose p-value isn't in `tests` would be corrected for too few tests.
        tests: P-values of all tests that were made, found or not. Of a sequence in which each test is only made if the
            one before found something, the largest one: the sequence stops at its first null hypothesis that isn't
            rejected, so all of it is tested at one level.
    """
    ordered, rejected = np.sort(np.asarray(tests, np.float64)), 0
    # Holm goes through the tests in order, and stops at the first that fails.
    while rejected < len(ordered) and ordered[rejected] * (len(ordered) - rejected) <= LEVEL:
        rejected += 1
    level = LEVEL / max(1, len(ordered) - rejected)
    highest = max(level, float(ordered[rejected - 1])) if rejected else level
    confirmed = [finding for finding in findings if finding.p is None or finding.p <= highest]
    return sorted(confirmed, key=lambda finding: -finding.effect)
