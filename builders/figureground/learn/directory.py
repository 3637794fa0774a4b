"""Working directories of training, comparing and pasting: identified by a marker, locked, and left as found."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from figureground.core import disk
from figureground.core.errors import FiguregroundError, join_names
from figureground.core.files import read_json
from figureground.core.locks import lock


@contextlib.contextmanager
def lock_directory(out: Path, marker: str, work: str, option: str = "--out ") -> Iterator[None]:
    """Lock a directory for this process, after checking that it is empty or ours.

    A directory that is created here and stays empty is removed again.

    Args:
        marker: Name of the file that marks a directory as ours.
        work: Verb for the work done there, such as "train".
        option: Text before the directory in errors.

    Raises:
        FiguregroundError: The path is a file, holds something else, isn't writable, or is locked by another process.
    """
    lock_path, existed = out / f".{work}.lock", out.is_dir()
    try:
        if out.exists() and not existed:
            raise FiguregroundError(f"{option}{out} is a file; give a directory.")
        _refuse_other_content(out, lock_path, marker, option)
        with lock(lock_path) as acquired:
            if not acquired:
                raise FiguregroundError(
                    f"{out}: another process is at work there ({work}). Wait until it has finished, or give another "
                    "directory."
                )
            try:
                # Check again: another kind of work has its own lock and may have begun just now.
                _refuse_other_content(out, lock_path, marker, option)
                yield
            finally:
                lock_path.unlink(missing_ok=True)
    except OSError as error:
        if problem := disk.explain_disk_error(error, out):
            raise FiguregroundError(problem) from error
        raise
    finally:
        if not existed and out.is_dir() and not any(out.iterdir()):
            with contextlib.suppress(OSError):
                out.rmdir()


def check_directory(out: Path, marker: str, option: str = "--out ") -> None:
    """Raise FiguregroundError if a path is a file or holds something else: as `lock_directory`, before any work."""
    try:
        if out.exists() and not out.is_dir():
            raise FiguregroundError(f"{option}{out} is a file; give a directory.")
        names = sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) if out.is_dir() else []
    except OSError:
        return  # `lock_directory` reports the problem
    if names and marker not in names:
        _refuse_other_content(out, out / ".", marker, option)


def _refuse_other_content(out: Path, ignored: Path, marker: str, option: str) -> None:
    names = sorted(path.name for path in out.iterdir() if path != ignored) if out.is_dir() else []
    if names and marker not in names:
        raise FiguregroundError(
            f"{option}{out} holds something else ({join_names(names, 3)}) and was left as it is. Give a new directory."
        )


def read_inputs(path: Path) -> Any:
    """Read the JSON content of a directory's marker.

    Raises:
        FiguregroundError: The marker is damaged.
    """
    try:
        return read_json(path)
    except ValueError as error:
        raise FiguregroundError(f"{path} is damaged ({error}). Give another directory.") from None


def refuse_changed_inputs(out: Path, kind: str, changed: Sequence[str]) -> None:
    """Raise FiguregroundError if a directory's content, such as a training, differs from the requested one.

    Args:
        changed: Differences from `core.differences.describe_differences`.
    """
    if changed:
        raise FiguregroundError(
            f"--out {out} holds another {kind}:\n  " + "\n  ".join(changed[:12])
            + "\nGive another directory, or the same settings and data again."
        )  # fmt: skip


def remove_drafts(out: Path) -> None:
    """Remove temporary files of a killed run."""
    for path in [*out.glob(".*.part"), *out.glob(".*.tmp")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
