"""Prompt templates: text with `{class}`, `{definition}` and `{background}`, from files or a recipe.

Prompts of concepts have `{V}` and `{noun}` instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from figureground.core.errors import RecipeError, join_names, suggest
from figureground.core.resources import find_resource
from figureground.core.tables import UnreadableText, read_text
from figureground.recipe.classes import ClassEntry

PLACEHOLDERS = ("class", "definition", "background")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_DEFINITION_CLAUSE = re.compile(r",?\s*\{definition\}")


@dataclass(frozen=True)
class Template:
    """One line of a prompt file."""

    text: str
    where: str
    """Location for errors: a file and line, or the recipe's field."""


def read_templates(value: str) -> tuple[Template, ...]:
    """Resolve a recipe's `prompt`: a template, the path of a `.txt` file, or a file in `prompts/templates/`.

    Raises:
        RecipeError: The file doesn't exist or contains no template, or a placeholder is unknown; with file and line.
    """
    if not isinstance(value, str) or not value.strip():
        raise RecipeError("prompt", f"{value!r} is not a template or the name of a file of templates.")
    if value.endswith(".txt") or re.fullmatch(r"[\w-]+", value):
        path = Path(value) if value.endswith(".txt") else find_resource("prompts/templates") / f"{value}.txt"
        if not path.is_file():
            available = sorted(p.stem for p in find_resource("prompts/templates").glob("*.txt"))
            raise RecipeError(
                "prompt",
                f"there is no file {path.name!r}{suggest(value, available) or '.'} Available: {join_names(available)}.",
            )
        try:
            lines = enumerate(read_text(path).splitlines(), 1)
        except UnreadableText as error:
            raise RecipeError("prompt", str(error)) from None
        templates = tuple(
            Template(t.strip(), f"{path.name}, line {n}") for n, t in lines if t.strip() and not t.startswith("#")
        )
        if not templates:
            raise RecipeError("prompt", f"{path.name} contains no template.")
    else:
        templates = (Template(value, "the recipe's prompt"),)
    for template in templates:
        for name in _PLACEHOLDER.findall(template.text):
            if name not in PLACEHOLDERS:
                raise RecipeError(
                    "prompt",
                    f"{template.where}: nothing fills the placeholder {{{name}}}{suggest(name, PLACEHOLDERS) or '.'} "
                    f"Known: {', '.join('{' + p + '}' for p in PLACEHOLDERS)}.",
                )
        if set("{}") & set(_PLACEHOLDER.sub("", template.text)):
            raise RecipeError("prompt", f"{template.where}: a brace has no partner in {template.text!r}.")
    return templates


def fill(template: Template, foreground: ClassEntry, background: ClassEntry | None) -> str:
    """Return the prompt for a class on a background, or on none."""
    text = template.text
    if not foreground.definition:
        text = _DEFINITION_CLAUSE.sub("", text)
    if background is None:
        text = re.sub(r",?\s*\{background\}", "", text)
    values = {
        "class": foreground.text,
        "definition": foreground.definition,
        "background": background.text if background else "",
    }
    return " ".join(_PLACEHOLDER.sub(lambda m: values[m[1]], text).split())


def shorten(
    template: Template,
    foreground: ClassEntry,
    background: ClassEntry | None,
    count_tokens: Callable[[str], Sequence[tuple[int, int]]],
) -> str:
    """Return the class's definition, cut after the last word with which all text encoders read the whole prompt.

    Args:
        count_tokens: Returns, for each text encoder, a prompt's number of tokens, including begin and end, and the
            largest number that it reads; 77 for CLIP.

    Raises:
        RecipeError: Even without a definition the prompt is too long, so its background would be lost.
    """
    words = foreground.definition.split()
    while True:
        definition = " ".join(words).rstrip(",;:")
        prompt = fill(template, ClassEntry(foreground.name, foreground.text, definition), background)
        too_long = [(count, limit) for count, limit in count_tokens(prompt) if count > limit]
        if not too_long:
            return definition
        if not words:
            count, limit = too_long[0]
            raise RecipeError(
                "prompt",
                f"{template.where}: for the class {foreground.name!r} the prompt has {count} tokens even "
                f"without a definition, and the text encoder reads {limit}; shorten the template: {prompt!r}",
            )
        words.pop()


def refuse_long(field: str, subject: str, counts: Iterable[tuple[int, int]]) -> None:
    """Refuse a prompt that a text encoder would cut off silently.

    Args:
        field: The recipe's field that makes it so long.
        subject: The prompt in words, such as `the prompt 'a bird'`.
        counts: For each text encoder, the prompt's number of tokens and how many it reads.

    Raises:
        RecipeError: It has more tokens than a text encoder reads.
    """
    for count, limit in counts:
        if count > limit:
            raise RecipeError(field, f"{subject} has {count} tokens, and the text encoder reads {limit}. Shorten it.")


def find_unfilled(template: str, placeholders: Iterable[str]) -> str | None:
    """Return the first placeholder or stray brace of a prompt template that isn't in `placeholders`, or None."""
    for placeholder in placeholders:
        template = template.replace(placeholder, "")
    stray = re.search(r"\{[^{}]*\}?|\}", template)
    return stray and stray[0]


def fill_noun(template: str, noun: str, identifier: str) -> str:
    """Return a prompt from a template or caption: fill in `{V}` and `{noun}`, and turn `a` into `an` before vowels."""
    values = {"{V}": identifier, "{noun}": noun}

    def substitute(match: re.Match[str]) -> str:
        article, word = match[1] or "", values[match[2]]
        return (f"{article.rstrip()}n " if article and word[:1].lower() in "aeiou" and word else article) + word

    return " ".join(re.sub(r"(\b[Aa] )?(\{V\}|\{noun\})", substitute, template).split())
