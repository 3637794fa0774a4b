"""Lists of spurious features and the classes that they fool classifiers into, from CSV files or a recipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from figureground.core.errors import RecipeError, join_names, suggest, suggest_or_list
from figureground.core.names import RULE, describe_same_names, find_same_names, name_key, short_hash, slug
from figureground.recipe.classes import ClassEntry, find_list, open_table

KIND = "features"
COLUMNS = ("class", "noun", "feature", "component")


@with_config(
    ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
)  # `read_features` names the nearest known name
class FeatureEntry(TypedDict, total=False):
    """A recipe's entry for a class's feature, if it gives more than the noun."""

    noun: str
    feature: str | None
    component: str | int | list[int] | None


@dataclass(frozen=True)
class Feature:
    """The spurious feature of one class."""

    name: str
    """Name of the class in the list; `find_labels` replaces it with the classifier's name."""
    noun: str
    """The object shown, in one or a few words; used in prompts and as the foreground label."""
    text: str
    """Description of the feature for readers."""
    components: tuple[int, ...] = ()
    """Class-wise neural-PCA components that show it (Neuhaus et al. 2023); empty if unknown."""
    label: int = -1
    """Position of the class in the classifier's logits; -1 before `find_labels`."""
    aliases: tuple[str, ...] = ()
    """Other names that its folder may have."""

    slug_suffix: str = ""
    """Suffix of the slug that distinguishes it from another class's in the list."""

    @property
    def slug(self) -> str:
        """Name of the class's split, folder and concept, from its first synonym: `great_white_shark`."""
        return f"{slug(self._first_name)}{self.slug_suffix}"

    @property
    def _first_name(self) -> str:
        return next((part.strip() for part in self.name.split(",") if part.strip()), self.name)


def read_features(value: Any, classes: Any) -> list[Feature]:
    """Resolve a recipe's `features`, and select those of `classes`.

    Args:
        value: The name of a file in `prompts/features/`, the path of a CSV `class,noun[,feature][,component]`, or a
            mapping of classes to nouns, or to mappings of `noun`, `feature` and `component`.
        classes: Names to select, in this order; None selects all.

    Raises:
        RecipeError: The file doesn't exist, a column or value is missing, a component isn't a number, or a class is
            named twice or isn't in the list; with file and line.
    """
    if isinstance(value, Mapping):
        features = [_from_mapping(str(name), entry) for name, entry in value.items()]
        source = "the recipe"
    elif isinstance(value, str):
        path = find_list(KIND, value, KIND)
        features, source = _read_csv(path), path.name
    else:
        raise RecipeError(KIND, f"{value!r} is neither a file nor a mapping of classes to nouns.")
    if not features:
        raise RecipeError(KIND, "the list is empty.")
    features = _make_slugs_unique(features)
    return features if classes is None else _select_features(features, classes, source)


def _from_mapping(name: str, entry: Any) -> Feature:
    if isinstance(entry, str):
        entry = {"noun": entry}
    if not isinstance(entry, Mapping):
        raise RecipeError(f"{KIND}.{name}", f"{entry!r} is not a noun, such as flower.")
    for key in entry:
        if key not in COLUMNS[1:]:
            raise RecipeError(f"{KIND}.{name}", f"there is no {key!r}{suggest_or_list(str(key), COLUMNS[1:])}")
    components = entry.get("component", "")
    if isinstance(components, Sequence) and not isinstance(components, str):
        components = " ".join(map(str, components))
    return _make_feature(name, entry.get("noun"), entry.get("feature"), components, f"{KIND}.{name}")


def _make_feature(name: Any, noun: Any, text: Any, components: Any, where: str) -> Feature:
    """Create a feature from a row; raise RecipeError for missing or invalid values."""
    name, noun, text = (" ".join(str(part or "").split()) for part in (name, noun, text))
    if not name:
        raise RecipeError(KIND, f"{where}: the class is empty.")
    if not noun:
        raise RecipeError(KIND, f"{where}: {name!r} has no noun. Name the object in one or a few words.")
    numbers = str(components if components is not None else "").replace(",", " ").split()
    if bad := [number for number in numbers if not number.isdigit()]:
        raise RecipeError(KIND, f"{where}: the component {bad[0]!r} is not a whole number.")
    return Feature(name, noun, text or noun, tuple(map(int, numbers)))


def _read_csv(path: Path) -> list[Feature]:
    with open_table(path, KIND, *COLUMNS[:2]) as table:
        return [
            _make_feature(
                row["class"], row["noun"], row.get("feature"), row.get("component"), f"{table.name}, line {line}"
            )
            for line, row in table.records()
        ]


def _make_slugs_unique(features: Sequence[Feature]) -> list[Feature]:
    """Return the features with unique slugs.

    Raises:
        RecipeError: Two features have the same name.
    """
    duplicates = [name for name, n in Counter(feature.name for feature in features).items() if n > 1]
    if duplicates:
        raise RecipeError(KIND, f"named twice: {join_names(duplicates)}. A class has one feature.")
    if same := find_same_names(feature.name for feature in features):
        raise RecipeError(KIND, f"{describe_same_names(same)}. {RULE}. A class has one feature.")
    plain = [replace(feature, slug_suffix="") for feature in features]
    # The first synonym gives the slug; if two classes share it, a hash of the whole name distinguishes them.
    shared = {slug_text for slug_text, n in Counter(feature.slug for feature in plain).items() if n > 1}
    ambiguous = [feature.name for feature in plain if feature.slug in shared]
    return [
        replace(feature, slug_suffix=f"_{short_hash(feature.name)}") if feature.name in ambiguous else feature
        for feature in plain
    ]


def _select_features(features: Sequence[Feature], classes: Any, source: str) -> list[Feature]:
    if not isinstance(classes, list | tuple) or not classes:
        raise RecipeError("classes", f"{classes!r} is not a list of names, such as [hummingbird, bee].")
    by_name = {name_key(feature.name): feature for feature in features} | {
        feature.slug: feature for feature in features
    }
    names = [str(name) for name in classes]
    unknown = [name for name in names if name_key(name) not in by_name]
    if unknown:
        available = [feature.name for feature in features]
        raise RecipeError(
            "classes",
            f"{len(unknown)} of {len(names)} have no feature in {source}: {join_names(unknown, 5)}"
            f"{suggest_or_list(unknown[0], available)} For features of your own, give features: a CSV, or a mapping of "
            "classes to nouns.",
        )
    if same := find_same_names(names):
        raise RecipeError("classes", f"{describe_same_names(same)}. {RULE}: use one of each.")
    selected = [by_name[name_key(name)] for name in names]
    duplicates = [name for name, n in Counter(feature.name for feature in selected).items() if n > 1]
    if duplicates:
        raise RecipeError("classes", f"named twice: {join_names(duplicates)}.")
    return selected


def find_labels(features: Sequence[Feature], labels: Sequence[ClassEntry]) -> list[Feature]:
    """Return the features with the classifier's names for their classes, and their positions in its logits.

    Names are compared by `core.names.name_key`. ImageNet's comma-separated synonyms match too.

    Args:
        features: The features, with the list's names for their classes.
        labels: The classifier's classes in the order of its logits.

    Raises:
        RecipeError: Classes are missing from the classifier's.
    """
    places: dict[str, int] = {}
    for get_names in (_full_names, _synonyms):
        for i, label in enumerate(labels):
            for name in get_names(label):
                places.setdefault(name_key(name), i)
    unknown = [feature.name for feature in features if name_key(feature.name) not in places]
    if unknown:
        near = suggest(unknown[0], [label.name for label in labels])
        raise RecipeError(
            "labels",
            f"{len(unknown)} of {len(features)} classes are none of the classifier's {len(labels):,}: "
            f"{join_names(unknown, 5)}{near or '.'} Give the labels of the classifier to be fooled.",
        )
    labelled = []
    for feature in features:
        place = places[name_key(feature.name)]
        aliases = tuple(dict.fromkeys([feature.name, *labels[place].aliases]))
        labelled.append(replace(feature, name=labels[place].name, label=place, aliases=aliases))
    return _make_slugs_unique(labelled)


def _full_names(label: ClassEntry) -> Sequence[str]:
    return label.name, *label.aliases


def _synonyms(label: ClassEntry) -> Sequence[str]:
    return [part for part in label.name.split(",") if part.strip()]
