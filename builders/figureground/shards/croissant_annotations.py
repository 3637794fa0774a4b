"""Labels beside the data, in croissant.json: scores of models, and what people answered.

Both are annotations in the sense of Croissant 1.1. Scores are in files of their own, by key. People's answers stay with
the dataset's author; what is published are shares of right labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figureground.core.files import FileError, check_regular
from figureground.shards.card import QUESTION_TEXTS
from figureground.shards.directory import find_score_files
from figureground.shards.shard import SCORES

KEY = "key"
QUESTION_COLUMNS = {
    "foreground": "foreground", "background": "background", "label": "foreground", "class": "spurious_for",
    "feature": "feature",
}  # fmt: skip
"""Column that each question to people is about."""

_MIME = {".csv": "text/csv", ".parquet": "application/x-parquet"}


@dataclass(frozen=True)
class ScoreFile:
    """A file of scores, one row for each key."""

    path: str
    """Path in the dataset."""
    types: Mapping[str, str]
    """Croissant's type of each column, by name; one of them is `key`."""

    @property
    def name(self) -> str:
        return Path(self.path).stem

    @property
    def id(self) -> str:
        return f"scores_{self.name}"


def find_scores(directory: Path) -> list[ScoreFile]:
    """Return a dataset's score files with a column `key`; others can't be read, and are left out."""
    scores = []
    for path in find_score_files(directory):
        types = _read_types(path, directory)
        if KEY in types:
            scores.append(ScoreFile(f"{SCORES}/{path.name}", types))
    return scores


def _read_types(path: Path, directory: Path) -> dict[str, str]:
    """Return the type of each column; empty if the file can't be read."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    try:
        check_regular(path, root=directory)
        if path.suffix == ".parquet":
            schema = pyarrow.parquet.read_schema(path)
        else:
            with pyarrow.csv.open_csv(path) as file:
                schema = file.schema
    except (pa.ArrowException, OSError, FileError, ValueError):
        return {}

    def croissant_type(kind: Any) -> str:
        if pa.types.is_boolean(kind):
            return "sc:Boolean"
        if pa.types.is_integer(kind):
            return "sc:Integer"
        return "sc:Float" if pa.types.is_floating(kind) else "sc:Text"

    return {field.name: "sc:Text" if field.name == KEY else croissant_type(field.type) for field in schema}


def describe_files(scores: list[ScoreFile]) -> list[dict[str, Any]]:
    """Return the resources of scores: sets of one file, as files of a set need no hash and scores may change."""
    return [
        {
            "@type": "cr:FileSet", "@id": f"{score_file.id}_file", "name": f"{score_file.id}_file",
            "description": "Scores of the images, one row for each key.", "includes": [score_file.path],
            "encodingFormat": _MIME[Path(score_file.path).suffix],
        }
        for score_file in scores
    ]  # fmt: skip


def describe_records(scores: list[ScoreFile]) -> list[dict[str, Any]]:
    """Return the records of scores, which their key joins with the samples."""
    return [
        {
            "@type": "cr:RecordSet", "@id": score_file.id, "name": score_file.id,
            "description": f"Scores {score_file.name} of the images; default/key has the same keys.",
            "key": {"@id": f"{score_file.id}/{KEY}"},
            "field": [_describe_column(score_file, f"{score_file.id}/{column}", column) for column in score_file.types],
        }
        for score_file in scores
    ]  # fmt: skip


def annotate_samples(scores: list[ScoreFile]) -> list[dict[str, Any]]:
    """Return annotations of whole samples: their scores, by file."""
    return [
        {
            "@type": "cr:Field", "@id": f"default/{score_file.id}", "name": score_file.id,
            "description": f"Scores {score_file.name} of the image; {score_file.id} holds them by key.",
            "prov:wasAttributedTo": {"@type": ["prov:Agent", "prov:SoftwareAgent"], "prov:label": score_file.name},
            "subField": [
                _describe_column(score_file, f"default/{score_file.id}/{column}", column)
                for column in score_file.types if column != KEY
            ],
        }
        for score_file in scores
    ]  # fmt: skip


def _describe_column(scores: ScoreFile, id: str, column: str) -> dict[str, Any]:
    return {
        "@type": "cr:Field", "@id": id, "name": column, "dataType": scores.types[column],
        "source": {"fileSet": {"@id": f"{scores.id}_file"}, "extract": {"column": column}},
    }  # fmt: skip


def annotate_column(column: str, labels: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return annotations of a label column: the share of right labels among all images, by people's answers.

    Args:
        labels: What is known of the labels, in the shape of `index_shape.LABELS`.
    """
    annotations = []
    for share in labels.get("shares", ()):
        if QUESTION_COLUMNS.get(share["question"]) != column or "split" in share:
            continue
        people = share["people"]
        interval = f"{people['low']:.4f} to {people['high']:.4f}"
        question = QUESTION_TEXTS.get(share["question"], share["question"])
        annotations.append(
            {
                "@type": "cr:Field", "@id": f"default/{column}/{share['question']}_right",
                "name": f"{share['question']}_right", "dataType": "sc:Float", "value": people["value"],
                "description": f"Share of labels of which people say: {question} ({share['labels']:,} of "
                f"{share['images']:,} images looked at, 95 % interval {interval}).",
                "prov:wasAttributedTo": {"@type": "prov:Agent", "prov:label": _format_people(labels)},
            }
        )  # fmt: skip
    return annotations


def annotate_dataset(labels: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the vocabulary for responsible AI has about annotation: the protocol, and models that scored."""
    annotations: dict[str, Any] = {}
    if (people := labels.get("people")) is not None:
        annotations["rai:dataAnnotationProtocol"] = [
            f"{_format_people(labels)} looked at {people['images']:,} images and gave {people['answers']:,} answers "
            "(yes, no, unsure) to questions about their labels. figureground review asked them."
        ]
    if labels.get("scorers"):
        annotations["rai:machineAnnotationTools"] = list(dict.fromkeys(scorer["name"] for scorer in labels["scorers"]))
    return annotations


def _format_people(labels: Mapping[str, Any]) -> str:
    people = labels.get("people") or {"annotators": 0}
    return "1 person" if people["annotators"] == 1 else f"{people['annotators']:,} people"
