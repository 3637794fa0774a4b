"""Packages that are installed for a test, with a module and an entry point."""

import os
import sys
import textwrap
from pathlib import Path

from commands import ENVIRONMENT


def install(site: Path, module: str, text: str, group: str, entry: str) -> dict[str, str]:
    """Write an installed package of one module with an entry point; return the environment that has it."""
    facts = site / f"{module}-1.0.dist-info"
    facts.mkdir(parents=True)
    (site / f"{module}.py").write_text(textwrap.dedent(text))
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[figureground.{group}]\n{entry}\n")
    return {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(site), *sys.path])}
