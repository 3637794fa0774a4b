"""Identity of an export, in `export.json` beside its files: it decides what is resumed, refused and linked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from figureground import __version__
from figureground.core.differences import differences
from figureground.core.errors import FiguregroundError, listed, printable
from figureground.core.files import read_object, replace_text
from figureground.core.owned import GENERATOR, is_ours

STATE = "export.json"
LOCK = ".export.lock"


def refuse_strangers(out: Path) -> None:
    """Check that a directory is new, empty or holds an export.

    Raises:
        FiguregroundError: It is a file, or holds something else.
    """
    if out.exists() and not out.is_dir():
        raise FiguregroundError(f"--out {printable(out)} is a file; give a directory.")
    strangers = sorted(path.name for path in out.iterdir() if path.name != LOCK) if out.is_dir() else []
    if strangers and read(out) is None:
        raise FiguregroundError(
            f"--out {printable(out)} holds something else ({listed(map(printable, strangers), 3)}) and was left as it "
            "is. Give a new directory."
        )


def refuse_other(out: Path, identity: Mapping[str, Any]) -> None:
    """Check that a directory is new, empty or holds this export.

    Raises:
        FiguregroundError: See `refuse_strangers`; or it holds another export, and how that differs.
    """
    refuse_strangers(out)
    saved = read(out)
    if saved is None:
        return
    theirs = {name: value for name, value in saved.items() if name not in ("made_by", "finished")}
    changed = [
        line for name in dict.fromkeys([*theirs, *identity])
        for line in differences(theirs.get(name), identity.get(name), name)
    ]  # fmt: skip
    if changed:
        raise FiguregroundError(
            f"--out {printable(out)} holds another export:\n  " + "\n  ".join(changed[:12])
            + "\nGive a new directory, or the same options as before to resume it."
        )  # fmt: skip


def settle(out: Path, identity: Mapping[str, Any]) -> None:
    """Claim a directory for an export; raises as `refuse_other`."""
    refuse_other(out, identity)
    if read(out) is None:
        write(out, identity, finished=False)


def read(out: Path) -> dict[str, Any] | None:
    """Return what a directory is an export of; None if it is none."""
    path = out / STATE
    if not is_ours(path):
        return None
    return read_object(path, root=out)


def write(out: Path, identity: Mapping[str, Any], finished: bool) -> None:
    """Record what a directory is an export of, and whether all files are there."""
    said = {"made_by": f"{GENERATOR} {__version__}", "finished": finished, **identity}
    replace_text(out / STATE, json.dumps(said, indent=1, ensure_ascii=False) + "\n", root=out)
