"""Writes api.md from the docstrings of the public names: `python docs/make_api.py`."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path

import figureground

PAGE = Path(__file__).with_name("api.md")
METHODS = ("D3S", "Spurious", "SCGS", "DDB")
FUNCTIONS = (
    "plan",
    "build",
    "cutouts",
    "scenes",
    "extend",
    "check",
    "show",
    "evaluate",
    "verify",
    "review",
    "audit",
    "disentangle",
    "train",
    "compare",
    "curate",
    "merge",
    "export",
    "push",
)
SHOWN = ("build", "from_recipe", "plan", "download_and_prepare", "as_dataset")
"""Methods of the classes that users call."""
OF_MODEL = ("features", "save_pretrained", "from_pretrained")
"""Methods of a separated model that users call."""


def render() -> str:
    """The whole page."""
    parts = [
        "# Python API\n",
        "Everything below is imported from `figureground`. Other modules may change between releases. Errors are",
        "subclasses of `figureground.core.errors.FiguregroundError`; wrong use raises `UsageError`, a bad field of a",
        "recipe `RecipeError`.\n",
        "This page is made from the docstrings by `python docs/make_api.py`.\n",
        "## Methods\n",
        "A method is made from a config and settings, and builds a dataset:\n",
        "```",
        'D3S(config_name="pocket", *, cache_dir=None, **settings)',
        "```\n",
        "`config_name` is one of the method's configs, `cache_dir` is where `download_and_prepare` builds, and",
        "`settings` are fields of its recipe, listed by `figureground settings METHOD`. An unknown field or a value",
        "that can't be used raises `RecipeError`.\n",
    ]
    for name in METHODS:
        kind = getattr(figureground, name)
        parts += [f"### {name}\n", _text(kind), "", f"Configs: {', '.join(f'`{each}`' for each in kind.CONFIGS)}.\n"]
    parts += ["### What all methods have\n"]
    for name in SHOWN:
        parts += [*_entry(name, getattr(figureground.D3S, name), "####"), ""]
    parts += ["## Functions\n"]
    for name in FUNCTIONS:
        parts += [*_entry(name, getattr(figureground, name), "###"), ""]
    parts += ["### Training\n", _text(figureground.Training), ""]
    parts += ["## Models\n", "### Disentangled\n", _text(figureground.Disentangled), ""]
    for name in OF_MODEL:
        parts += [*_entry(name, getattr(figureground.Disentangled, name), "####"), ""]
    return "\n".join(parts).rstrip() + "\n"


def _entry(name: str, function: object, level: str) -> list[str]:
    signature = re.sub(r"figureground\.(\w+\.)+", "", str(inspect.signature(function)).replace("'", ""))
    signature = re.sub(r"\(self, ?|\(self\)", lambda m: "()" if m[0] == "(self)" else "(", signature)
    lines = textwrap.wrap(f"{name}{signature}", 110, subsequent_indent="    ")
    return [f"{level} {name}\n", "```", *lines, "```\n", _text(function)]


def _text(documented: object) -> str:
    """A docstring in Markdown: its sections as lists."""
    lines: list[str] = []
    for line in (inspect.getdoc(documented) or "").splitlines():
        if re.fullmatch(r"(Args|Returns|Raises|Yields):", line):
            lines += [f"**{line[:-1]}**", ""]
        elif found := re.match(r"    ([\w, ]+): (.*)", line):
            lines.append(f"- `{found[1]}`: {found[2]}")
        elif line.startswith("    "):
            lines.append(f"  {line.strip()}" if lines and lines[-1].startswith(("- ", "  ")) else line.strip())
        else:
            lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
