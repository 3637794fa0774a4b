"""Settings that only some entries of a registry use, such as some ways of training, each with its own default.

A class of settings names the entry in its field `method`. Settings of this package's entries are fields that are None
unless given; those of other packages' entries lie in the field `options`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from figureground.core.errors import RecipeError, join_names, suggest_or_list
from figureground.core.registry import Registry
from figureground.core.values import Setting, convert
from figureground.recipe.settings import field_names


class Entry(Protocol):
    """A class in the registry."""

    NAME: str
    OWN: Mapping[str, Any]
    """Its settings that not every entry uses, with their defaults."""


def find_users(kind: type, entries: Registry[Any]) -> dict[str, list[str]]:
    """Return, for each field of a class of settings that not every entry uses, the names of the entries that do."""
    users: dict[str, list[str]] = {}
    names = set(field_names(kind))
    for name, entry in entries.items():
        for field in names & set(entry.OWN):
            users.setdefault(field, []).append(name)
    return users


def apply_defaults(settings: Any, entries: Registry[Any]) -> None:
    """Set the entry's own settings to its defaults where none are given; called by `__post_init__`.

    Args:
        settings: A frozen object with the fields `method` and `options`.
        entries: The registry of the methods.

    Raises:
        RecipeError: There is no such method, or it doesn't use a setting that is given.
    """
    method = settings.method
    if method not in entries:
        raise RecipeError("method", f"there is no {method!r}{suggest_or_list(method, entries.names())}")
    own: Mapping[str, Any] = entries[method].OWN
    users = find_users(type(settings), entries)
    for name, methods in users.items():
        if method in methods and getattr(settings, name) is None:
            object.__setattr__(settings, name, own[name])
        elif method not in methods and getattr(settings, name) is not None:
            verb = "does" if len(methods) == 1 else "do"
            raise RecipeError(name, f"{method} doesn't use it; only {join_names(methods)} {verb}. Leave it out.")
    object.__setattr__(settings, "options", _fill_options(settings.options, own, set(own) - set(users), method))


def used_settings(settings: Any, entries: Registry[Any]) -> dict[str, Any]:
    """Return the fields that the method uses, with their values."""
    users = find_users(type(settings), entries)
    return {
        name: value
        for name, value in dataclasses.asdict(settings).items()
        if settings.method in users.get(name, [settings.method])
    }


def _fill_options(
    options: Mapping[str, Any], own: Mapping[str, Any], known: Collection[str], method: str
) -> dict[str, Any]:
    for name in options:
        if name not in known:
            hint = suggest_or_list(name, known) if known else ": it has none."
            raise RecipeError(f"options.{name}", f"{method} has no such option{hint}")
    return {
        n: _convert_option(default, options[n], n) if n in options else default
        for n, default in own.items()
        if n in known
    }


def _convert_option(default: Any, value: Any, name: str) -> Any:
    """Return an option as its default's type, if it was given as text."""
    typed = isinstance(value, str) and default is not None
    return convert(Setting(value), type(default), f"options.{name}") if typed else value
