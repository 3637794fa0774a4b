"""Identity of an export, in `export.json` beside its files: it decides what is resumed, refused and linked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from figureground.core.differences import describe_differences
from figureground.core.errors import FiguregroundError, printable
from figureground.core.files import read_object, replace_text
from figureground.core.owned import GENERATOR, is_ours
from figureground.core.version import VERSION
from figureground.data.metadata import EXPORT
from figureground.training.work_directory import Work, refuse_other_content

STATE = EXPORT
WORK = Work((STATE,), ".export.lock", "is exporting there", recognise=is_ours)
"""Exporting to a directory."""


def refuse_other_export(out: Path, identity: Mapping[str, Any]) -> None:
    """Check that a directory is new, empty or holds this export.

    Raises:
        FiguregroundError: See `refuse_other_content`; or it holds another export, and how that differs.
    """
    refuse_other_content(out, WORK)
    saved = read_state(out)
    if saved is None:
        return
    earlier = {name: value for name, value in saved.items() if name not in ("made_by", "finished")}
    changes = [
        line for name in dict.fromkeys([*earlier, *identity])
        for line in describe_differences(earlier.get(name), identity.get(name), name)
    ]  # fmt: skip
    if changes:
        raise FiguregroundError(
            f"--out {printable(out)} holds another export:\n  " + "\n  ".join(changes[:12])
            + "\nGive a new directory, or the same options as before to resume it."
        )  # fmt: skip


def claim(out: Path, identity: Mapping[str, Any]) -> None:
    """Claim a directory for an export; raises as `refuse_other_export`."""
    refuse_other_export(out, identity)
    if read_state(out) is None:
        write_state(out, identity, finished=False)


def read_state(out: Path) -> dict[str, Any] | None:
    """Return what a directory is an export of; None if it is none."""
    path = out / STATE
    if not is_ours(path):
        return None
    return read_object(path, root=out)


def write_state(out: Path, identity: Mapping[str, Any], finished: bool) -> None:
    """Record what a directory is an export of, and whether all files are there."""
    state = {"made_by": f"{GENERATOR} {VERSION}", "finished": finished, **identity}
    replace_text(out / STATE, json.dumps(state, indent=1, ensure_ascii=False) + "\n", root=out)
