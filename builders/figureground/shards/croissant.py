"""croissant.json: description of the dataset's files and records in the Croissant format (version 1.1)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from figureground.core.files import replace_if_changed
from figureground.recipe.formats import DEFAULT_FORMATS
from figureground.shards import card, card_file, croissant_annotations, croissant_origin
from figureground.shards.card_context import CardContext
from figureground.shards.columns import Columns
from figureground.shards.croissant_annotations import ScoreFile, find_scores
from figureground.shards.formats.format import Format, find_columnar, load_formats
from figureground.shards.formats.parquet import Parquet
from figureground.shards.shard import PUBLISHED_REJECTS

CROISSANT = "croissant.json"

_SPDX = {
    "apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause",
    "cc0-1.0": "CC0-1.0", "cc-by-3.0": "CC-BY-3.0", "cc-by-4.0": "CC-BY-4.0", "cc-by-sa-3.0": "CC-BY-SA-3.0",
    "cc-by-sa-4.0": "CC-BY-SA-4.0", "cc-by-nc-4.0": "CC-BY-NC-4.0", "cc-by-nc-sa-4.0": "CC-BY-NC-SA-4.0",
    "cc-by-nd-4.0": "CC-BY-ND-4.0", "cc-by-nc-nd-4.0": "CC-BY-NC-ND-4.0", "odc-by": "ODC-By-1.0",
    "odbl": "ODbL-1.0", "pddl": "PDDL-1.0", "gpl-3.0": "GPL-3.0-only",
}  # fmt: skip
"""Licence names of the Hub, mapped to those of spdx.org, whose pages Croissant links to."""

_CROISSANT_TERMS = (
    "annotation", "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "excludes", "extract", "field",
    "fileProperty", "fileObject", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5",
    "parentField", "path", "readLines", "recordSet", "references", "regex", "repeated", "replace", "samplingRate",
    "sdVersion", "separator", "source", "subField", "transform", "unArchive", "value",
)  # fmt: skip
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "prov": "http://www.w3.org/ns/prov#",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{term: f"cr:{term}" for term in _CROISSANT_TERMS},
}


def write(
    directory: Path,
    columns: Columns,
    index: Mapping[str, Any],
    facts: CardContext,
    *,
    formats: Sequence[str] = DEFAULT_FORMATS,
) -> None:
    """Write croissant.json, with the licence set in the card.

    Raises:
        ShardError: The existing README.md can't be parsed.
    """
    license = card_file.read_license(directory)
    document = describe(columns, index, facts, formats=formats, license=license, scores=find_scores(directory))
    path, text = directory / CROISSANT, json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    replace_if_changed(path, text, root=directory)


def describe(
    columns: Columns,
    index: Mapping[str, Any],
    facts: CardContext,
    *,
    formats: Sequence[str],
    license: str | None = None,
    scores: list[ScoreFile] | None = None,
) -> dict[str, Any]:
    """Describe the dataset as JSON-LD: its files with sizes and SHA-256, and the records in its tables.

    All paths are relative to the dataset directory. For a dataset in no columnar format, files and labels are listed
    but no records: Croissant readers unpack tars, for example, into a cache by relative name, where tars of another
    dataset may already exist.

    Args:
        columns: Columns of each sample.
        index: Index from `index.summarise`.
        facts: Facts on the card.
        formats: Formats of the shards.
        license: Licence in the card's YAML; None if unknown.
        scores: Files of scores.
    """
    splits = [name for name, split in index["splits"].items() if split["samples"]]
    files = [_describe_file(path, file) for shard in index["shards"] for path, file in shard["files"].items()]
    distribution = [file for file in files if file is not None]
    records = [_describe_splits(splits)] if splits else []
    records += [_describe_labels(name, names) for name, names in columns.classes.items()]
    if (kind := find_columnar(formats)) is not None and splits:
        distribution.insert(
            0,
            _describe_file_set(kind, [glob for split in splits for glob in card.make_split_globs(index, split, kind)]),
        )
        records.append(_describe_samples(kind, columns, splits, facts.labels, scores or []))
    distribution += croissant_annotations.describe_files(scores or [])
    records += croissant_annotations.describe_records(scores or [])
    document = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": facts.title,
        "description": " ".join(facts.summary.split()),
        # Each extension adds samples and changes none.
        "version": f"1.{max((shard['part'] for shard in index['shards']), default=0)}.0",
        "license": _make_license_url(license) if license else None,
        "creator": {"@type": "sc:Organization", "name": "figureground"},
        "keywords": [*card.TAGS, facts.builder],
        "citeAs": facts.citation.strip(),
        "usageInfo": croissant_origin.describe_licenses(facts),
        **croissant_origin.describe_provenance(facts, index.get("recipe_sha256")),
        **croissant_annotations.annotate_dataset(facts.labels),
        "rai:dataUseCases": list(facts.uses),
        "rai:dataLimitations": [*facts.limits, *facts.misuses],
        "distribution": distribution,
        "recordSet": records,
    }
    return {name: value for name, value in document.items() if value}


def _make_license_url(license: str) -> str:
    name = _SPDX.get(license.lower())
    return f"https://spdx.org/licenses/{name}.html" if name else license


def _describe_file(path: str, file: Mapping[str, Any]) -> dict[str, Any] | None:
    types = {kind.FOLDER: kind.MIME for kind in load_formats().values()} | {PUBLISHED_REJECTS: Parquet.MIME}
    folder = path.split("/")[0]
    if folder not in types:
        return None  # the list of rejects is internal
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": path.rpartition("/")[2],
        "contentUrl": path,
        "contentSize": f"{file['bytes']} B",
        "encodingFormat": types[folder],
        "sha256": file["sha256"],
    }


def _describe_file_set(kind: Format, globs: Sequence[str]) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": kind.NAME,
        "name": kind.NAME,
        "description": f"The {kind.TITLE} files of all splits; each is also listed with its hash.",
        "includes": list(globs),
        "encodingFormat": kind.MIME,
    }


def _describe_splits(splits: Sequence[str]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "splits",
        "name": "splits",
        "description": "The splits of the dataset.",
        "dataType": "cr:Split",
        "key": {"@id": "splits/name"},
        "field": [_describe_field("splits", "name", "sc:Text")],
        "data": [{"splits/name": split} for split in splits],
    }


def _describe_labels(column: str, names: Sequence[str]) -> dict[str, Any]:
    record_set = f"{column}_names"
    return {
        "@type": "cr:RecordSet",
        "@id": record_set,
        "name": record_set,
        "description": f"Names of the labels in {column}.",
        "dataType": "sc:Enumeration",
        "key": {"@id": f"{record_set}/label"},
        "field": [_describe_field(record_set, "label", "sc:Integer"), _describe_field(record_set, "name", "sc:Text")],
        "data": [{f"{record_set}/label": label, f"{record_set}/name": name} for label, name in enumerate(names)],
    }


def _describe_samples(
    kind: Format, columns: Columns, splits: Sequence[str], labels: Mapping[str, Any], scores: list[ScoreFile]
) -> dict[str, Any]:
    descriptions = {
        "image": "The image.",
        **{name: f"A label; {name}_names holds its name." for name in columns.classes},
        "prompt": "The prompt of the diffusion model.",
        "key": "The name of the image.",
        "provenance": "JSON: how the image was made.",
        **{name: "Text." for name in columns.texts},
        "guide": "The image that generation started from.",
        "mask": "The mask of the foreground in the guide.",
    }
    datatypes = {
        **dict.fromkeys(("image", *columns.images), "sc:ImageObject"),
        **dict.fromkeys(columns.classes, "sc:Integer"),
        **dict.fromkeys(("prompt", "key", "provenance", *columns.texts), "sc:Text"),
    }
    # The pattern matches a path and also the bare split name, which mlcroissant looks up when it joins.
    split = {
        "extract": {"fileProperty": "fullpath"},
        "transform": {"regex": rf"^(?:{kind.FOLDER}/)?({'|'.join(splits)})(?:-.+{re.escape(kind.SUFFIX)})?$"},
    }
    fields = [
        {
            **_describe_field("default", "split", "sc:Text", "The split that the sample belongs to."),
            "source": {"fileSet": {"@id": kind.NAME}, **split},
            # Labels refer to their names only in words: with a second join, mlcroissant can't filter by split.
            "references": {"field": {"@id": "splits/name"}},
        }
    ]
    for name, datatype in datatypes.items():
        source: dict[str, Any] = {"fileSet": {"@id": kind.NAME}, "extract": {"column": name}}
        if datatype == "sc:ImageObject":
            source["transform"] = {"jsonPath": "bytes"}  # the column holds bytes and a file's name
        field = {**_describe_field("default", name, datatype, descriptions[name]), "source": source}
        if annotations := croissant_annotations.annotate_column(name, labels):
            field["annotation"] = annotations
        fields.append(field)
    annotations = croissant_annotations.annotate_samples(scores)
    return {
        "@type": "cr:RecordSet",
        "@id": "default",
        "name": "default",
        "description": "The samples of all splits.",
        "key": {"@id": "default/key"},
        "field": fields,
        **({"annotation": annotations} if annotations else {}),
    }


def _describe_field(records: str, name: str, kind: str, description: str = "") -> dict[str, Any]:
    optional = {"description": description} if description else {}
    return {"@type": "cr:Field", "@id": f"{records}/{name}", "name": name, **optional, "dataType": kind}
