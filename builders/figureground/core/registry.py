"""Registries: what a name on the command line or in a recipe stands for, open to other packages.

Another package adds to a registry with an entry point in its group; a program adds with `add`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from figureground.core.errors import FiguregroundError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names, and what each stands for.

    Args:
        group: Group of entry points, `figureground.layouts`.
        what: What a name stands for, in error messages: `layout`.
        built_in: By name, `module:attribute` of those of this package.
        check: Returns what is wrong with an entry of another package, such as "is no Layout"; None where nothing is.
    """

    def __init__(
        self, group: str, what: str, built_in: Mapping[str, str], check: Callable[[str, Any], str | None]
    ) -> None:
        self.group, self.what, self._check = group, what, check
        self._built_in = dict(built_in)
        self._added: dict[str, str] = {}
        self._found: dict[str, str] | None = None
        self._opened: dict[str, T] = {}

    def names(self) -> list[str]:
        """All names, those of this package first."""
        return list(self._places())

    def __contains__(self, name: object) -> bool:
        return name in self._places()

    def __getitem__(self, name: str) -> T:
        """Return what a name stands for.

        Raises:
            KeyError: There is no such name.
            FiguregroundError: An entry of another package can't be imported or used.
        """
        if name not in self._opened:
            place = self._places()[name]
            module, _, attribute = place.partition(":")
            try:
                found = getattr(importlib.import_module(module), attribute)
            except (ImportError, AttributeError) as error:
                if name in self._built_in:
                    raise
                raise FiguregroundError(f"the {self.what} {name!r}, {place}, can't be imported: {error}.") from error
            if problem := self._check(name, found):
                raise FiguregroundError(f"the {self.what} {name!r}: {place} {problem}.")
            self._opened[name] = found
        return self._opened[name]

    def items(self) -> list[tuple[str, T]]:
        """All names with what they stand for, those of this package first.

        An entry of another package that can't be used is left out; `[name]` says why.
        """
        found = []
        for name in self.names():
            with suppress(FiguregroundError):
                found.append((name, self[name]))
        return found

    def add(self, name: str, place: str) -> None:
        """Add a name for as long as this process lives.

        Args:
            place: `module:attribute`.

        Raises:
            FiguregroundError: The name stands for something else.
        """
        if (there := self._places().get(name, place)) != place:
            raise FiguregroundError(f"the {self.what} {name!r} is {there} already, and can't be {place}.")
        self._added[name] = place

    def remove(self, name: str) -> None:
        """Take back what `add` did."""
        del self._added[name]
        self._opened.pop(name, None)

    def forget(self) -> None:
        """Look for entry points again at the next use, for a program that installs packages while it runs."""
        for name in self._found or {}:
            self._opened.pop(name, None)
        self._found = None

    def _places(self) -> dict[str, str]:
        if self._found is None:
            self._found = {point.name: point.value for point in entry_points(group=self.group)}
        others = {**self._found, **self._added}
        return {**self._built_in, **{name: place for name, place in others.items() if name not in self._built_in}}
