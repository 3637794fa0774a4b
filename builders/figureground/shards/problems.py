"""Problems of a shard's files: as an error where they are read, as a list where they are checked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from figureground.core.errors import FiguregroundError, join_names


@dataclass
class ShardProblems:
    """Faults of a shard; samples with the same fault share one line."""

    lines: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    """Files that may be whole, but can't be read."""
    samples: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, where: str, fault: str, key: str, detail: str = "") -> None:
        """Record a fault of one sample; details are shown for the first few."""
        self.samples.setdefault((where, fault), []).append(f"{key} ({detail})" if detail else key)

    def to_lines(self, remedy: str) -> list[str]:
        """Return one line per fault, with the remedy of damage."""
        grouped = [f"{where}: {fault}: {join_names(keys, 3)}." for (where, fault), keys in self.samples.items()]
        return [*self.unreadable, *(f"{line} {remedy}" for line in [*self.lines, *grouped])]


def shorten_error(error: BaseException) -> str:
    """Return an error's message as one line of at most 200 characters."""
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__


@contextlib.contextmanager
def explain_damage(path: Path) -> Iterator[None]:
    """Turn errors from a damaged file, or one with other columns, into an error that names the file.

    Raises:
        FiguregroundError: The file can't be read.
    """
    import pyarrow as pa

    try:
        yield
    except FiguregroundError as error:
        raise FiguregroundError(f"{path}: {error}") from None
    except PermissionError as error:
        raise FiguregroundError(f"{path} can't be read: {error.strerror or error}.") from error
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        message = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise FiguregroundError(
            f"{path} is damaged ({type(error).__name__}: {message}). figureground check {path.parent.parent} lists all "
            "problems. Restore the file from a copy, or delete its shard's marker and build again."
        ) from error
