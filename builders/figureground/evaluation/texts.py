"""Classes of a zero-shot classifier, and the texts that stand for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from figureground.core.errors import UsageError
from figureground.core.names import name_key
from figureground.core.resources import find_resource
from figureground.data.images import DatasetImages
from figureground.data.label_matching import match_labels
from figureground.data.words import make_words, read_words, with_article
from figureground.models.needs import ZERO_SHOT
from figureground.recipe.classes import ClassEntry, read_nouns
from figureground.recipe.prompts import Template, fill, read_templates


def read_prompts(file: Path | str | None) -> tuple[Template, ...]:
    """Read a file of templates; None for the ones that come with this package.

    Raises:
        UsageError: The file doesn't exist or has no template, or a line has no {class}, or another placeholder than
            {class} and {definition}.
    """
    path = find_resource("prompts/zero_shot/default.txt") if file is None else Path(file)
    if path.suffix != ".txt":
        raise UsageError(f"--prompts {path}: give a .txt file with one text a line, such as: a photo of a {{class}}")
    try:
        templates = read_templates(str(path))
    except UsageError as error:
        raise UsageError(f"--prompts {str(error).partition(': ')[2]}") from None
    for template in templates:
        if "{class}" not in template.text or "{background}" in template.text:
            raise UsageError(
                f"--prompts {template.where}: {template.text!r} must contain {{class}}, and may contain {{definition}}."
            )
    return templates


def list_classes(images: DatasetImages, candidates: str | None) -> list[ClassEntry]:
    """Return the classes that a zero-shot classifier chooses from, with their words: the dataset's labels first.

    Args:
        images: The dataset; a spurious set's labels are the classes k.
        candidates: Further classes: a list in `prompts/classes`, such as `imagenet`, or a CSV `name[,definition]`;
            those that match a label by name, or by a synonym, are left out.

    Raises:
        UsageError: The list doesn't exist.
    """
    words = read_words(images.source.recipe, "classes")
    classes = [words.get(name_key(label)) or make_words(label) for label in images.labels]
    own = [ClassEntry(label, entry.text, entry.definition) for label, entry in zip(images.labels, classes, strict=True)]
    if candidates is None:
        return own
    extra = read_nouns("--candidates", candidates, "classes", candidates)
    positions = match_labels([entry.name for entry in extra], images.labels)
    return own + [entry for entry, position in zip(extra, positions.tolist(), strict=True) if position < 0]


def write_texts(classes: Sequence[ClassEntry], templates: Sequence[Template]) -> list[list[str]]:
    """Return the texts of each class; templates that give the same text count once."""
    return [
        list(dict.fromkeys(with_article(fill(template, entry, None)) for template in templates)) for entry in classes
    ]


def default_prompts(name: str, prompts: Path | str | None) -> Path | str | None:
    """Return the file of templates for a classifier: the pocket's model knows few words, so it has its own."""
    pocket = name == f"{ZERO_SHOT}pocket" and prompts is None
    return find_resource("prompts/scorers/pocket-foreground.txt") if pocket else prompts
