"""A commented recipe to start from, written from the declarations of a method's settings."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from figureground.recipe.config import Config
from figureground.recipe.settings import Names, describe_accepted, describe_fields, execution_names, find_marks

WIDTH = 100
"""Columns of a comment."""
_PLACES = {"directory": "DIR", "file": "FILE", "path": "PATH"}


def write_starter(
    head: Sequence[str],
    builder: str,
    config: Config,
    configs: Iterable[str],
    fields: Iterable[str],
    examples: Mapping[str, tuple[Any, str]],
) -> str:
    """Return a recipe, YAML, with some settings of a config, each below its text and what it accepts.

    Read back, it is the same recipe as the config alone, but for the examples. Settings without a value are commented
    out.

    Args:
        head: Lines of the comment at the top.
        builder: Name of the method.
        config: Provides the values.
        configs: Names of the method's configs.
        fields: Names of the settings to write, in order; those of how it is run come last, whatever the order.
        examples: Value and remark of settings that a build needs and the config lacks.
    """
    kind = type(config)
    texts, places, execution = describe_fields(kind), find_marks(kind, Names), execution_names(kind)
    lines = [*(f"# {line}".rstrip() for line in head), "", f"builder: {builder}"]
    lines += _format_comment(f"The other settings have this config's values: {', '.join(configs)}.")
    lines += [_format_entry("config", config.name)]
    names = list(dict.fromkeys(fields))
    for name in [*(n for n in names if n not in execution), *(n for n in names if n in execution)]:
        value, remark = getattr(config, name), ""
        if value is None and name in examples:
            value, remark = examples[name]
        accepted = describe_accepted(kind, name)
        lines += [
            "",
            *_format_comment(texts[name]),
            *_format_comment(f"[{accepted}]"),
            *(_format_comment(remark) if remark else []),
        ]
        if value is None:
            lines.append(f"# {name}: {_PLACES[places[name].kind] if name in places else '…'}")
        else:
            lines.append(_format_entry(name, value))
    return "\n".join(lines) + "\n"


def _format_entry(name: str, value: Any) -> str:
    plain = _to_plain(value)
    if isinstance(plain, list | dict):
        text = yaml.safe_dump(plain, default_flow_style=True, allow_unicode=True, sort_keys=False, width=10**6)
    else:
        text = yaml.safe_dump(plain, allow_unicode=True, width=10**6).removesuffix("...\n")
    return f"{name}: {text.strip()}"


def _to_plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _to_plain(item) for key, item in value.items()}
    return [_to_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _format_comment(text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False, break_on_hyphens=False
    )
