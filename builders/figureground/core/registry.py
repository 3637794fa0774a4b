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
        noun: Word for an entry in error messages, such as `layout`.
        built_in: `module:attribute` of this package's entries, by name.
        check: Returns the problem with an entry, such as "is not a Layout", or None.
    """

    def __init__(
        self, group: str, noun: str, built_in: Mapping[str, str], check: Callable[[str, Any], str | None]
    ) -> None:
        self.group, self.noun, self._check = group, noun, check
        self._built_in = dict(built_in)
        self._added: dict[str, str] = {}
        self._entry_points: dict[str, str] | None = None
        self._objects: dict[str, T] = {}

    def names(self) -> list[str]:
        """Return all names, this package's first."""
        return list(self._locations())

    def __contains__(self, name: object) -> bool:
        return name in self._locations()

    def __getitem__(self, name: str) -> T:
        """Return the object of a name.

        Raises:
            KeyError: The name is unknown.
            FiguregroundError: An entry of another package can't be imported or used.
        """
        if name not in self._objects:
            location = self._locations()[name]
            module, _, attribute = location.partition(":")
            try:
                value = getattr(importlib.import_module(module), attribute)
            except Exception as error:  # whatever another package's module raises
                if name in self._built_in:
                    raise
                raise FiguregroundError(f"the {self.noun} {name!r}, {location}, can't be imported: {error}.") from error
            if problem := self._check(name, value):
                raise FiguregroundError(f"the {self.noun} {name!r}: {location} {problem}.")
            self._objects[name] = value
        return self._objects[name]

    def items(self) -> list[tuple[str, T]]:
        """Return all names with their objects, this package's first.

        Entries of other packages that can't be used are left out; `[name]` raises the reason.
        """
        entries = []
        for name in self.names():
            with suppress(FiguregroundError):
                entries.append((name, self[name]))
        return entries

    def add(self, name: str, location: str) -> None:
        """Add a name for the lifetime of this process. Processes that it starts don't know it, unlike an entry point.

        Args:
            name: The name; adding it again with the same place has no effect.
            location: `module:attribute`.

        Raises:
            FiguregroundError: The name refers to something else already.
        """
        if (existing := self._locations().get(name, location)) != location:
            raise FiguregroundError(f"the {self.noun} {name!r} is {existing} already and can't be {location}.")
        self._added[name] = location

    def remove(self, name: str) -> None:
        """Remove a name that `add` added."""
        del self._added[name]
        self._objects.pop(name, None)

    def reload_entry_points(self) -> None:
        """Search entry points again at the next use, for programs that install packages while they run."""
        for name in self._entry_points or {}:
            self._objects.pop(name, None)
        self._entry_points = None

    def _locations(self) -> dict[str, str]:
        if self._entry_points is None:
            self._entry_points = {point.name: point.value for point in entry_points(group=self.group)}
        additions = {**self._entry_points, **self._added}
        return {
            **self._built_in,
            **{name: location for name, location in additions.items() if name not in self._built_in},
        }


def check_subclass(base: type | str, attribute: str) -> Callable[[str, Any], str | None]:
    """Return a check for `Registry` that an entry is a subclass of `base` whose `attribute` is the entry's name.

    Args:
        base: The class, or `module:attribute`, which is imported when the first entry is checked.
        attribute: Name of the attribute.
    """

    def check(name: str, entry: Any) -> str | None:
        kind: Any = base
        if isinstance(base, str):
            module, _, class_name = base.partition(":")
            kind = getattr(importlib.import_module(module), class_name)
        if isinstance(entry, type) and issubclass(entry, kind) and getattr(entry, attribute, None) == name:
            return None
        return f"is no {kind.__name__} whose {attribute} is {name!r}"

    return check
