"""Where a labelled data set is, and what the user says about how to read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

METADATA = "metadata.csv"
"""File name of tables that come with a data set."""
CELEBA = ("list_attr_celeba.csv", "list_attr_celeba.txt")
"""File names of CelebA's attribute table."""

OPTIONS = ("root", "y", "a", "file", "split_column")
"""Fields that only some layouts accept."""
READING_OPTIONS = ("layout", *OPTIONS)
"""Fields that say how to read the data set. Commands and functions take arguments of the same names."""


@dataclass(frozen=True)
class DataSource:
    """A labelled data set on disk. `layouts.read_data` reads it, and says what each option means."""

    path: Path
    """Path as given."""
    layout: str | None = None
    """One of `layouts.LAYOUTS`; None: detected."""
    root: Path | None = None
    """Directory of the files named by a table; default: the table's directory."""
    y: str | None = None
    """Table column or attribute that is the class."""
    a: str | None = None
    """One name, or several comma-separated ones, whose values are crossed."""
    file: str | None = None
    """Table column with the file names."""
    split_column: str | None = None
    """Table column with the split."""
    seed: int = 0
    """Seed for choosing validation and test images if none are given."""
    found: Path | None = None
    """Table or directory that has the layout; None until `read_data` finds it."""

    @classmethod
    def of(
        cls, path: Path | str, layout: str | None = None, *, root: Path | str | None = None, y: str | None = None,
        a: str | None = None, file: str | None = None, split_column: str | None = None, seed: int = 0,
    ) -> DataSource:  # fmt: skip
        """Return the source that arguments as users give them describe; paths may be text."""
        return cls(Path(path), layout, None if root is None else Path(root), y, a, file, split_column, seed)

    @property
    def at(self) -> Path:
        """Table or directory that has the layout; the given path until it is found."""
        return self.found or self.path

    @property
    def name(self) -> str:
        """Name of the data set: its directory, or the given table if that has a specific name."""
        if self.path.is_dir():
            return self.path.resolve().name
        return self.at.resolve().parent.name if self.at.name in (METADATA, *CELEBA) else self.at.stem

    def given(self) -> dict[str, Any]:
        """Return the reading options that aren't None, by name."""
        options = {name: getattr(self, name) for name in READING_OPTIONS}
        return {name: value for name, value in options.items() if value is not None}
