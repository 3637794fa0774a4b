"""Renders HTML pages from `templates/`, with all untrusted text escaped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from figureground.core.errors import plural
from figureground.core.resources import find_resource
from figureground.core.text import printable


def render_page(template: str, filters: Mapping[str, Callable[..., Any]], /, **values: Any) -> str:
    """Render a template as HTML; all values are escaped, and control characters are made visible.

    Args:
        template: File name in `templates/`, ending with `.html.jinja`.
        filters: Filters by name, in addition to Jinja's own and `plural`.
        values: Values for the template.
    """
    environment = Environment(
        loader=FileSystemLoader(find_resource("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_make_printable,
    )
    environment.filters.update(plural=plural, **filters)
    return environment.get_template(template).render(**values)


def _make_printable(value: Any) -> Any:
    return printable(value, lines=True) if isinstance(value, str) and not hasattr(value, "__html__") else value
