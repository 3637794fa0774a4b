"""Saves and restores the state of an unfinished training atomically."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from figureground.core.differences import describe_differences
from figureground.core.errors import FiguregroundError

STATE = "state.pt"


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Replace the state on disk.

    Raises:
        OSError: The disk is full or fails; the previous state is kept.
    """
    draft = path.with_name(f".{path.name}.part")
    try:
        with draft.open("wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # torch hides the file's error
                    raise error.__context__ from None
                raise
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def resume_threads(path: Path, device: torch.device) -> bool:
    """Use the thread count of a saved state: on a CPU, the rounding of sums depends on the number of threads.

    Args:
        path: The state, which may be missing.

    Returns:
        Whether the number changed.
    """
    threads = _saved_threads(path) if device.type == "cpu" else None
    if not threads or threads == torch.get_num_threads():
        return False
    torch.set_num_threads(threads)
    return True


def _saved_threads(path: Path) -> int | None:
    """Return the thread count of the state on disk; None if it is missing or unreadable."""
    with contextlib.suppress(Exception):  # `read_state` reports the error
        return int(torch.load(path, weights_only=True, mmap=True)["threads"])
    return None


def read_state(path: Path, made_with: dict[str, Any], device: torch.device) -> dict[str, Any] | None:
    """Read the state on disk, with its tensors on a device; return None if it is missing.

    Args:
        made_with: What it must have been made with; if empty, that isn't checked.

    Raises:
        FiguregroundError: It is damaged, or was made with other settings, so training couldn't resume exactly.
    """
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes checksums but doesn't verify them
            if damaged_member := archive.testzip():
                raise ValueError(f"the checksum of {damaged_member} is wrong")
        state = torch.load(path, map_location=device, weights_only=True)
        saved_inputs = json.loads(state["made_with"]) if made_with else {}
    except Exception as error:  # torch can raise any exception for damaged data
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FiguregroundError(f"{path} is damaged ({reason}). Remove it to start over.") from None
    if changed := describe_differences(saved_inputs, json.loads(json.dumps(made_with))):
        raise FiguregroundError(
            f"{path.parent} was begun with other settings, so it can't resume exactly:\n  " + "\n  ".join(changed)
            + f"\nUse the same settings, or remove {path.name} to start over."
        )  # fmt: skip
    return state
