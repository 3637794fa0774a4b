"""Appends answers to an annotator's file: synced to disk before they count, and never half."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from figureground.annotation.answers import (
    ANNOTATIONS,
    MAX_BYTES,
    Answer,
    Answers,
    find_answer_file,
    make_header,
    parse_answers,
)
from figureground.core.errors import FiguregroundError, printable
from figureground.core.files import LEADS_OUTSIDE, FileError, check_regular, leads_outside, sync_directory
from figureground.core.locks import lock
from figureground.core.system import OPEN_NO_LINK, OPEN_PRIVATE


class NotSaved(FiguregroundError):
    """Raised if answers couldn't be written; the file is as before."""


class AnswerWriter:
    """The file of one annotator, for reading and appending.

    Other processes may append to it too: what they wrote is read before anything is added. Not safe for threads.

    Args:
        directory: The dataset.
        identity: Its identity.
        annotator: A name as `check_name` returns it.

    Raises:
        FileError: The file exists and is damaged, or belongs to another dataset.
    """

    def __init__(self, directory: Path, identity: Mapping[str, Any], annotator: str):
        self._directory, self._identity = directory, identity
        self.path = find_answer_file(directory, annotator)
        self.answers = Answers(self.path.stem)
        self._size = 0
        self.refresh()

    def refresh(self) -> None:
        """Read what another process has appended.

        Raises:
            FileError: See `parse_answers`; or the file is not a regular file of the dataset.
            FiguregroundError: It can't be read.
        """
        try:
            size = check_regular(self.path, root=self._directory).st_size
            if size != self._size:
                with open(self.path, "rb") as file:
                    self._parse_data(file.read(MAX_BYTES))
        except FileNotFoundError:
            self.answers, self._size = Answers(self.path.stem), 0
        except OSError as error:
            raise FiguregroundError(f"{printable(self.path)} can't be read: {error.strerror or error}.") from None

    def _parse_data(self, data: bytes) -> int:
        """Read the whole file; return the number of bytes that are kept, without a last line that is cut off."""
        self.answers, used = parse_answers(data, self.path, self._identity)
        self._size = len(data)
        return used

    def add(self, answers: Sequence[Mapping[str, Any]], together: bool = False) -> list[Answer]:
        """Append answers and wait until they are on disk.

        Args:
            answers: Each with `key`, `question`, `answer`, and `seconds` or None, and optionally `time`.
            together: Whether they were given in a grid, so that an undo takes all of them back.

        Returns:
            The answers, numbered.

        Raises:
            NotSaved: They couldn't be written. The file has none of them.
            FileError: See `parse_answers`.
        """
        now = utc_now()
        records = [
            {
                "key": item["key"], "question": item["question"], "answer": item["answer"],
                "time": item.get("time") or now,
                **({} if item.get("seconds") is None else {"seconds": round(float(item["seconds"]), 2)}),
            }
            for item in answers
        ]  # fmt: skip
        lines = self._append(records, together)
        return [answer for line in lines if (answer := self.answers.get(line["key"], line["question"])) is not None]

    def undo(self) -> list[Answer]:
        """Take back the last answer, or all answers of the last grid; return them, or nothing if there is none.

        Raises:
            NotSaved: It couldn't be written, so the answers still count.
            FileError: See `parse_answers`.
        """
        self.refresh()
        last = self.answers.list_undoable()
        if last:
            now = utc_now()
            self._append([{"undo": answer.n, "time": now} for answer in last])
        return last

    def _append(self, lines: Sequence[Mapping[str, Any]], together: bool = False) -> list[dict[str, Any]]:
        """Number the lines, write and sync them, and only then take them in."""
        try:
            folder = self._directory / ANNOTATIONS
            if leads_outside(folder, self._directory):
                raise FileError(folder, LEADS_OUTSIDE)
            with contextlib.suppress(FileNotFoundError):
                check_regular(self.path, root=self._directory)
            with lock(self.path, wait=True):
                return self._append_locked(lines, together)
        except OSError as error:
            raise NotSaved(
                f"{printable(self.path)} can't be written: {error.strerror or error}. The answer was not saved; "
                "earlier ones are safe."
            ) from error

    def _append_locked(self, lines: Sequence[Mapping[str, Any]], together: bool) -> list[dict[str, Any]]:
        handle = os.open(self.path, os.O_RDWR | os.O_APPEND | OPEN_PRIVATE | OPEN_NO_LINK)
        try:
            size = os.fstat(handle).st_size
            if size != self._size or self.answers.notes:
                with open(handle, "rb", closefd=False) as file:
                    valid_size = self._parse_data(file.read(MAX_BYTES))
                if valid_size < size:  # a last line that a crash cut off, which nobody was told is saved
                    os.ftruncate(handle, valid_size)
                    size = self._size = valid_size
            first_number = self.answers.lines + 1
            numbered = [
                {"n": n, **line, **({"grid": first_number} if together else {})}
                for n, line in enumerate(lines, first_number)
            ]
            data = b"".join(_encode_line(line) for line in numbered)
            if size == 0:
                data = _encode_line(make_header(self._identity, self.answers.annotator)) + data
            elif _read_byte(handle, size - 1) != b"\n":  # written whole, but for its end
                data = b"\n" + data
            try:
                _write_all(handle, data)
                os.fsync(handle)
                if size == 0:
                    sync_directory(self.path.parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.ftruncate(handle, size)
                    os.fsync(handle)
                raise
            for line in numbered:
                self.answers.add(line)
            self._size = size + len(data)
            return numbered
        finally:
            os.close(handle)


def _encode_line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _read_byte(handle: int, position: int) -> bytes:
    """Return the byte at a position of a file that is opened for appending; `os.pread` isn't on Windows."""
    os.lseek(handle, position, os.SEEK_SET)
    return os.read(handle, 1)


def _write_all(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]


def utc_now() -> str:
    """Return the time in UTC as ISO 8601, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
