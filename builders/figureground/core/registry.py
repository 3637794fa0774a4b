"""Registries: names on the command line and in recipes, and the objects that they refer to.

Other packages add to a registry with an entry point in its group; programs add with `add`.
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
    """A mapping of names to objects, imported on first use.

    Args:
        group: Group of entry points, such as `figureground.layouts`.
        what: Word for an entry in error messages, such as `layout`.
        built_in: `module:attribute` of this package's entries, by name.
        check: Returns the problem with an entry, such as "is not a Layout", or None.
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
        """Return all names, this package's first."""
        return list(self._places())

    def __contains__(self, name: object) -> bool:
        return name in self._places()

    def __getitem__(self, name: str) -> T:
        """Return the object of a name.

        Raises:
            KeyError: The name is unknown.
            FiguregroundError: An entry of another package can't be imported or used.
        """
        if name not in self._opened:
            place = self._places()[name]
            module, _, attribute = place.partition(":")
            try:
                found = getattr(importlib.import_module(module), attribute)
            except Exception as error:  # whatever another package's module raises
                if name in self._built_in:
                    raise
                raise FiguregroundError(f"the {self.what} {name!r}, {place}, can't be imported: {error}.") from error
            if problem := self._check(name, found):
                raise FiguregroundError(f"the {self.what} {name!r}: {place} {problem}.")
            self._opened[name] = found
        return self._opened[name]

    def items(self) -> list[tuple[str, T]]:
        """Return all names with their objects, this package's first.

        Entries of other packages that can't be used are left out; `[name]` raises the reason.
        """
        found = []
        for name in self.names():
            with suppress(FiguregroundError):
                found.append((name, self[name]))
        return found

    def add(self, name: str, place: str) -> None:
        """Add a name for the lifetime of this process. Processes that it starts don't know it, unlike an entry point.

        Args:
            name: The name; adding it again with the same place has no effect.
            place: `module:attribute`.

        Raises:
            FiguregroundError: The name refers to something else already.
        """
        if (there := self._places().get(name, place)) != place:
            raise FiguregroundError(f"the {self.what} {name!r} is {there} already and can't be {place}.")
        self._added[name] = place

    def remove(self, name: str) -> None:
        """Remove a name that `add` added."""
        del self._added[name]
        self._opened.pop(name, None)

    def forget(self) -> None:
        """Search entry points again at the next use, for programs that install packages while they run."""
        for name in self._found or {}:
            self._opened.pop(name, None)
        self._found = None

    def _places(self) -> dict[str, str]:
        if self._found is None:
            self._found = {point.name: point.value for point in entry_points(group=self.group)}
        others = {**self._found, **self._added}
        return {**self._built_in, **{name: place for name, place in others.items() if name not in self._built_in}}


def subclasses(base: type | str, attribute: str) -> Callable[[str, Any], str | None]:
    """Return a check for `Registry` that an entry is a subclass of `base` whose `attribute` is the entry's name.

    Args:
        base: The class, or `module:attribute`, which is imported when the first entry is checked.
        attribute: Name of the attribute.
    """

    def check(name: str, found: Any) -> str | None:
        kind: Any = base
        if isinstance(base, str):
            module, _, place = base.partition(":")
            kind = getattr(importlib.import_module(module), place)
        if isinstance(found, type) and issubclass(found, kind) and getattr(found, attribute, None) == name:
            return None
        return f"is no {kind.__name__} whose {attribute} is {name!r}"

    return check
