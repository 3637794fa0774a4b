"""The state of an unfinished fine-tuning on disk: whole or not there."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from figureground.core.differences import differences
from figureground.core.errors import FiguregroundError

STATE = "state.pt"


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Replaces the state on disk.

    Raises:
        OSError: The disk is full, or fails; what was there before is kept.
    """
    draft = path.with_name(f".{path.name}.part")
    try:
        with draft.open("wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # torch hides what the file said
                    raise error.__context__ from None
                raise
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def resume_threads(path: Path, device: torch.device) -> bool:
    """Use as many threads as a saved state was made with: on a CPU, sums are split up by threads and rounded so.

    Args:
        path: The state, which may not be there.

    Returns:
        Whether the number changed.
    """
    threads = saved_threads(path) if device.type == "cpu" else None
    if not threads or threads == torch.get_num_threads():
        return False
    torch.set_num_threads(threads)
    return True


def saved_threads(path: Path) -> int | None:
    """With how many threads the state on disk was computed; None where there is none, or it can't be read."""
    with contextlib.suppress(Exception):  # what is wrong with it, `read_state` says
        return int(torch.load(path, weights_only=True, mmap=True)["threads"])
    return None


def read_state(path: Path, made_with: dict[str, Any], device: torch.device) -> dict[str, Any] | None:
    """The state on disk, its tensors on a device; None where there is none.

    Raises:
        FiguregroundError: It is damaged, or was made with other means: then it couldn't go on exactly.
    """
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes checksums, and doesn't read them
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} is wrong")
        state = torch.load(path, map_location=device, weights_only=True)
        theirs = json.loads(state["made_with"])
    except Exception as error:  # torch raises whatever damage leads to
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise FiguregroundError(f"{path} is damaged ({said}). Remove it to begin anew.") from None
    if changed := differences(theirs, json.loads(json.dumps(made_with))):
        raise FiguregroundError(
            f"{path.parent} was begun by other means, so it can't go on exactly:\n  " + "\n  ".join(changed)
            + f"\nUse the same again, or remove {path.name} to begin anew."
        )  # fmt: skip
    return state
