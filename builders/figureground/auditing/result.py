"""Result of an audit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figureground.auditing.findings import Finding
from figureground.auditing.samples import Samples


@dataclass(frozen=True)
class Audit:
    """Result of an audit."""

    samples: Samples
    findings: list[Finding]
    """Largest effect first."""
    report: dict[str, Any]
    """Contents of `audit.json`; see `docs/audit.md`."""
    out: Path
    """Output directory."""
