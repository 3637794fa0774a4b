"""Working directories: of one kind of work, known by a mark, held by one process, and otherwise left as found."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figureground.core import disk
from figureground.core.differences import describe_differences
from figureground.core.errors import FiguregroundError, join_names, printable
from figureground.core.files import read_json, replace_text
from figureground.core.locks import lock, remove_held

DRAFTS = (".part", ".tmp")
"""Suffixes of hidden files and folders that a killed run leaves half written."""


@dataclass(frozen=True)
class Work:
    """A kind of work that has directories to itself."""

    marks: tuple[str, ...]
    """Files, relative to the directory, of which any one shows that the directory is of this work."""
    lock: str
    """Lock file, relative to the directory."""
    activity: str
    """What a process does that holds the lock, such as "is fine-tuning there"."""
    option: str = "--out "
    """Text before the directory in errors."""
    files: frozenset[str] | None = None
    """All that a directory of this work may hold; None if a mark permits anything beside it."""
    recognise: Callable[[Path], bool] = os.path.lexists
    """Whether a mark's file is one of ours."""


@contextlib.contextmanager
def hold(out: Path, work: Work) -> Iterator[None]:
    """Hold a directory for this process, after checking that it is new, empty or of this work.

    It is created if missing, and removed again if it stays empty.

    Raises:
        FiguregroundError: See `refuse_other_content`; or another process holds it, or it can't be written.
    """
    with contextlib.ExitStack() as stack:
        with disk.explained(out):
            if not out.is_dir():
                stack.callback(_remove_if_empty, out)
                stack.callback(_remove_if_empty, (out / work.lock).parent)  # a folder of `out`, or `out` itself
            refuse_other_content(out, work)
            if not stack.enter_context(lock(out / work.lock)):
                raise FiguregroundError(
                    f"{printable(out)}: another process {work.activity}. Wait until it has finished, or give another "
                    "directory."
                )
            stack.callback(remove_held, out / work.lock)
            # Checked again: another kind of work has its own lock and may have begun just now.
            refuse_other_content(out, work)
        yield


def refuse_other_content(out: Path, work: Work) -> None:
    """Check that a directory is new, empty or of this work; nothing is changed.

    Raises:
        FiguregroundError: It is a file, holds something else, or can't be read.
    """
    with disk.explained(out):
        if out.exists() and not out.is_dir():
            raise FiguregroundError(f"{work.option}{printable(out)} is a file; give a directory.")
        paths = out.iterdir() if out.is_dir() else ()
        names = sorted(path.name for path in paths if not _is_passing(path.name, work))
    foreign = [] if work.files is None else [name for name in names if name not in work.files]
    if foreign or (names and not any(work.recognise(out / mark) for mark in work.marks)):
        raise FiguregroundError(
            f"{work.option}{printable(out)} holds something else ({join_names(map(printable, foreign or names), 3)}) "
            "and was left as it is. Give a new directory."
        )


def _is_passing(name: str, work: Work) -> bool:
    """Whether a name is of this work's lock, or of a draft: a run that was killed before its mark leaves only these."""
    return name == Path(work.lock).parts[0] or (name.startswith(".") and name.endswith(DRAFTS))


def _remove_if_empty(out: Path) -> None:
    with contextlib.suppress(OSError):
        out.rmdir()  # refused unless it is empty


def record_inputs(out: Path, marker: str, inputs: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Record the inputs of a directory's content, such as a training, or check that they are the same as before.

    Inputs of a run that failed before its first result are replaced. Temporary files of a killed run are removed.

    Args:
        out: A directory held with `hold`.
        marker: Name of the JSON file that records the inputs.
        inputs: JSON-serialisable, with the key `format`.
        kind: Noun of the content, for errors.

    Returns:
        The inputs after a JSON round trip.

    Raises:
        FiguregroundError: The marker is damaged, or records other inputs; the message lists the differences.
    """
    path = out / marker
    recorded: dict[str, Any] = json.loads(json.dumps(inputs))
    previous = read_inputs(path) if path.exists() else None
    if previous is not None and (has_results(out, marker) or not _is_record(previous)):
        refuse_changed_inputs(out, kind, describe_differences(previous, recorded))
    else:
        replace_text(path, json.dumps(recorded, indent=2, ensure_ascii=False) + "\n")
    remove_drafts(out)
    return recorded


def _is_record(content: Any) -> bool:
    """Whether a marker's content is ours, so that it may be replaced."""
    return isinstance(content, Mapping) and "format" in content


def has_results(out: Path, *markers: str) -> bool:
    """Whether a directory holds a file, at any depth, besides markers of these names, locks and drafts."""
    return any(
        path.is_file() and path.name not in markers
        for path in out.rglob("*")
        if not any(part.startswith(".") for part in path.relative_to(out).parts)
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
    for path in [path for suffix in DRAFTS for path in out.glob(f".*{suffix}")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
