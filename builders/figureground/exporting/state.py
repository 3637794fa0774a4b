"""Identity of an export, in `export.json` beside its files: it decides what is resumed, refused and linked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from figureground import __version__
from figureground.core.differences import describe_differences
from figureground.core.errors import FiguregroundError, join_names, printable
from figureground.core.files import read_object, replace_text
from figureground.core.owned import GENERATOR, is_ours

STATE = "export.json"
LOCK = ".export.lock"


def refuse_other_files(out: Path) -> None:
    """Check that a directory is new, empty or holds an export.

    Raises:
        FiguregroundError: It is a file, or holds something else.
    """
    if out.exists() and not out.is_dir():
        raise FiguregroundError(f"--out {printable(out)} is a file; give a directory.")
    names = sorted(path.name for path in out.iterdir() if path.name != LOCK) if out.is_dir() else []
    if names and read_state(out) is None:
        raise FiguregroundError(
            f"--out {printable(out)} holds something else ({join_names(map(printable, names), 3)}) and was left as it "
            "is. Give a new directory."
        )


def refuse_other_export(out: Path, identity: Mapping[str, Any]) -> None:
    """Check that a directory is new, empty or holds this export.

    Raises:
        FiguregroundError: See `refuse_other_files`; or it holds another export, and how that differs.
    """
    refuse_other_files(out)
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
    state = {"made_by": f"{GENERATOR} {__version__}", "finished": finished, **identity}
    replace_text(out / STATE, json.dumps(state, indent=1, ensure_ascii=False) + "\n", root=out)
