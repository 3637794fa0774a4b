"""Copy the samples of a dataset for which a rule on labels, provenance and scores is true."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from figureground.core.errors import FiguregroundError, RecipeError, join_names, plural
from figureground.core.files import parse_json, read_text
from figureground.core.locks import lock
from figureground.core.numerics import create_once
from figureground.core.registry import Registry
from figureground.curation import copying
from figureground.curation.rule import KnownNames, MissingValue, Name, Rule, RuleError, hint_nearest, spell_name
from figureground.curation.scores import Scores, fingerprints, read_scores
from figureground.data.objects import is_matched, without_background
from figureground.recipe.formats import FORMATS
from figureground.recipe.sample import Reject
from figureground.running.directory import claim_directory, describe_progress
from figureground.shards import index
from figureground.shards.claims import STAGES_LOCK
from figureground.shards.finished import FinishedDataset, refuse_overlap
from figureground.shards.formats.format import find_loadable
from figureground.shards.samples import Dropped, Encoded, Stored
from figureground.shards.shard import NUMERICS, Shard

DROPPED = "dropped by the rule"
"""Reject reason of samples that a rule dropped."""
CARRIED: Registry[Callable[[FinishedDataset, Path], None]] = Registry(
    "figureground.carried", "way of carrying facts about samples",
    {"labels": "figureground.annotation.carry_over:carry"},
    lambda name, found: None if callable(found) else "can't be called",
)  # fmt: skip
"""Further things that a finished copy gets from its source. Each function takes the source and the copy's directory,
and may be called again for the same copy."""


DROPPED_WITH_SET = "dropped with its matched set"
"""Reject reason of samples that the rule keeps, but not all others of their matched set."""


def curate(
    directory: Path,
    out: Path,
    keep: str,
    *,
    whole_sets: bool = False,
    evidence: Mapping[str, Any] | None = None,
    publish_rejects: bool = False,
    show_progress: bool = True,
) -> Path:
    """Copy a dataset without the samples for which a rule is false, or resume such a copy.

    The copy is a regular dataset with the same shards; dropped samples are counted as rejects. A first pass reads all
    samples without their images, so errors in the rule are reported before anything is written. A second pass copies
    the shards, comparing each with its marker.

    Args:
        directory: A finished dataset; it isn't changed.
        out: Directory of the copy: new, or one where the same copy was started.
        keep: The rule, such as `background != 'night' and scores.clip.margin > 0.2`; see `curation.rule`. Names are
            `foreground`, `background`, `split`, `key`, `prompt`, other columns, fields of the provenance (`seed`,
            `strength`, `guide.cutout`, `guide.box[0]`), and `scores.NAME.COLUMN`; see `curation.scores`.
        whole_sets: Whether the images of one object on all its backgrounds (`match: foreground`) stay together. Such a
            set is kept if the rule is true for all its images and none was rejected earlier, and dropped otherwise.
        evidence: What is known about the rule, for the lineage and the card, such as the share of wrong labels among
            what it keeps; JSON.
        publish_rejects: Whether to write dropped samples as a config `rejects`, with a column `reason`. Requires that
            the dataset has Parquet shards.
        show_progress: Whether to show a progress bar and notes.

    Returns:
        `out`.

    Raises:
        RuleError: The rule is invalid, compares values that some samples lack, or keeps nothing.
        RecipeError: Rejects can't be published, or the dataset has no matched sets.
        FiguregroundError: The dataset isn't finished or is damaged, scores can't be used, or `out` holds something
            else.
    """
    directory, out = Path(directory), Path(out)
    refuse_overlap(out, [directory])
    source = FinishedDataset(directory)
    _refuse_options(source, whole_sets, publish_rejects)
    scores = read_scores(directory)
    known_names = collect_names(source, scores)
    rule = Rule(keep, known_names)
    scan = apply_rule(source, rule, known_names, scores, whole_sets, show_progress)
    num_kept = scan.kept.total()
    step = {
        "did": "curate", "rule": rule.text, "from": source.lineage_entry(), "kept": num_kept,
        "dropped": source.samples - num_kept,
    }  # fmt: skip
    identity = {"rule": rule.text, "publish_rejects": publish_rejects, "scores": fingerprints(scores)}
    if whole_sets:  # absent otherwise, so that copies of earlier releases can be resumed
        identity["whole_sets"] = True
        step |= {"sets_kept": scan.num_whole_sets, "sets_dropped": len(scan.broken_sets)}
    if evidence:
        identity["evidence"] = dict(evidence)
        step |= evidence
    recipe = copying.make_recipe("curate", identity, step, [source])
    for split, facts in source.index["splits"].items():
        if facts["samples"] and not scan.kept[split]:
            copying.print_note(f"the rule keeps nothing of split {split!r}, so the copy lacks it.", show_progress)

    def results(shard: Shard) -> Iterator[Encoded | Reject]:
        source.verify(shard)
        yield from source.rejects(shard, images=publish_rejects)
        for stored in source.stored(shard):
            encoded = stored.encoded()
            if not rule(SampleValues(_to_row(stored), shard, source, scores)):
                yield Dropped(encoded.spec, DROPPED, encoded)
            elif _matched_set(stored.key) in scan.broken_sets:
                yield Dropped(encoded.spec, DROPPED_WITH_SET, encoded)
            else:
                yield encoded

    with claim_directory(out, recipe, lambda: describe_progress(out, source.shards)):
        copying.write_shards(
            out, recipe, source.shards, results, source.columns, formats=source.formats,
            image_format=source.image_format, version=source.version, publish_rejects=publish_rejects,
            show_progress=show_progress,
        )  # fmt: skip
        _copy_private_files(source, out, scores, scan)
        copying.copy_card_text(source, out)
        index.finish(
            out, source.shards, source.columns, source.index["card"]["recipe"],
            dataclasses.replace(source.facts, lineage=recipe["lineage"]),
            formats=source.formats, image_format=source.image_format, sha256=recipe["sha256"],
        )  # fmt: skip
        for _, carry in CARRIED.items():
            carry(source, out)
    return out


def _refuse_options(source: FinishedDataset, whole_sets: bool, publish_rejects: bool) -> None:
    """Raise RecipeError for an option of `curate` that the dataset doesn't allow."""
    if publish_rejects:
        source.columns.with_reason()
        kind = find_loadable(source.formats)
        if kind is None or not kind.PUBLISHES_REJECTS:
            titles = join_names(FORMATS[name].TITLE for name in source.formats)
            raise RecipeError(
                "--publish-rejects",
                f"{source.directory} has only {titles} files. Rejects are published as Parquet, and `load_dataset` "
                "reads all configs of a dataset in one format. Omit the flag; dropped samples are still counted.",
            )
    if whole_sets and not is_matched(source.recipe):
        raise RecipeError(
            "--whole-sets",
            f"{source.directory} has no matched sets: its recipe doesn't say match: foreground, or it was merged. "
            "Omit the flag.",
        )


def _copy_private_files(source: FinishedDataset, out: Path, scores: Mapping[str, Scores], scan: Scan) -> None:
    """Copy scores, numerics, and files that users added, such as LICENSE."""
    with lock(out / STAGES_LOCK, wait=True):
        for name, file_scores in scores.items():
            file_scores.write(scan.kept_rows[name], out)
        numerics = source.directory / NUMERICS
        if numerics.exists():
            create_once(out / NUMERICS, read_text(numerics, root=source.directory))
        copying.copy_files(source, out)


def collect_names(source: FinishedDataset, scores: Mapping[str, Scores]) -> KnownNames:
    """Return the names that a rule may use."""
    classes = {**source.names, "split": tuple(source.index["splits"])}
    texts = ("key", "prompt", *source.columns.texts)
    return KnownNames(classes, texts, {name: file_scores.columns for name, file_scores in scores.items()})


def _to_row(stored: Stored) -> dict[str, Any]:
    """Return a sample in the form that `FinishedDataset.rows` yields."""
    return {
        "key": stored.key, "prompt": stored.prompt, "provenance": stored.provenance, **stored.labels, **stored.texts,
    }  # fmt: skip


def _parse_provenance(row: Mapping[str, Any]) -> dict[str, Any]:
    return parse_json(row["provenance"], f"{row['key']}: its provenance")


class SampleValues:
    """Look up a rule's names in one sample.

    Args:
        row: The sample's columns, as `FinishedDataset.rows` yields them.
    """

    def __init__(self, row: Mapping[str, Any], shard: Shard, source: FinishedDataset, scores: Mapping[str, Scores]):
        self._row, self._shard, self._names, self._scores = row, shard, source.names, scores
        self._provenance: dict[str, Any] | None = None

    def __call__(self, path: Name) -> Any:
        """Return the sample's value for a name, or None."""
        head = str(path[0])
        if head == "provenance":
            return self.find_field(path)[1]
        if head == "scores":
            file_scores = self._scores[str(path[1])]
            row = file_scores.find_row(self._row["key"])
            return None if row is None else file_scores.value(row, str(path[2]))
        if head == "split":
            return self._shard.split
        return self._names[head][self._row[head]] if head in self._names else self._row[head]

    def find_field(self, path: Name) -> tuple[bool, Any]:
        """Return whether the provenance has a field, and its value."""
        if self._provenance is None:
            self._provenance = _parse_provenance(self._row)
        value: Any = self._provenance
        for part in path[1:]:
            exists = part in value if isinstance(value, dict) else isinstance(value, list) and part in range(len(value))
            if not exists:
                return False, None
            value = value[part]
        return True, value


@dataclass
class Scan:
    """Result of applying a rule to all samples of a dataset."""

    kept: Counter[str]
    """Number of kept samples by split."""
    kept_rows: dict[str, np.ndarray]
    """By name of the scores, bool (rows of the file): whether the row's sample is kept."""
    broken_sets: set[str] = field(default_factory=set)
    """Matched sets with an image that the rule drops or that was rejected earlier; empty without `whole_sets`."""
    num_whole_sets: int = 0
    """Number of other matched sets."""

    def add(self, split: str, rows: Mapping[str, int]) -> None:
        """Count a kept sample, with its row in each scores file that has one."""
        self.kept[split] += 1
        for name, row in rows.items():
            self.kept_rows[name][row] = True


def apply_rule(
    source: FinishedDataset,
    rule: Rule,
    known_names: KnownNames,
    scores: Mapping[str, Scores],
    whole_sets: bool,
    show_progress: bool,
    splits: Collection[str] | None = None,
) -> Scan:
    """Apply a rule to all samples, without their images.

    Args:
        whole_sets: Whether matched sets are kept or dropped together.
        splits: The splits to which it is applied; default: all.

    Raises:
        RuleError: A compared value is missing or not comparable, or the rule keeps nothing.
        FiguregroundError: Scores have keys that the dataset lacks.
    """
    scan = Scan(Counter(), {name: np.zeros(len(file_scores), bool) for name, file_scores in scores.items()})
    has_sample = {name: np.zeros(len(file_scores), bool) for name, file_scores in scores.items()}
    missing: dict[str, list[str]] = {}
    unmatched = {path for path in rule.names if path[0] == "provenance"}
    fields: list[str] = []
    kept_by_set: dict[str, list[tuple[str, Mapping[str, int]]]] = {}
    for shard in copying.read_all(source, show_progress):
        applies = splits is None or shard.split in splits
        if whole_sets and applies:
            scan.broken_sets |= {_matched_set(reject.spec.key) for reject in source.rejects(shard)}
        for row in source.rows(shard):
            sample = SampleValues(row, shard, source, scores)
            score_rows = {
                name: score_row for name, file_scores in scores.items()
                if (score_row := file_scores.find_row(row["key"])) is not None
            }  # fmt: skip
            for name, score_row in score_rows.items():
                has_sample[name][score_row] = True
            if not applies:
                continue
            if unmatched:
                unmatched = {path for path in unmatched if not sample.find_field(path)[0]}
                fields = fields or _list_fields(_parse_provenance(row))
            try:
                is_kept = rule(sample)
            except MissingValue as error:
                missing.setdefault(error.name, []).append(row["key"])
                continue
            except RuleError as error:
                error.args = (f"{error}\n  first occurs in sample {row['key']}",)
                raise
            if is_kept and whole_sets:
                kept_by_set.setdefault(_matched_set(row["key"]), []).append((shard.split, score_rows))
            elif is_kept:
                scan.add(shard.split, score_rows)
            elif whole_sets:
                scan.broken_sets.add(_matched_set(row["key"]))
    for name in set(kept_by_set) - scan.broken_sets:
        scan.num_whole_sets += 1
        for split, set_rows in kept_by_set[name]:
            scan.add(split, set_rows)
    _refuse_foreign_keys(source, scores, has_sample)
    if unmatched:
        path = min(unmatched, key=spell_name)
        raise RuleError(f"no sample has {spell_name(path)!r}{hint_nearest(path, known_names, fields)}")
    _refuse_missing(source, scores, missing)
    if not scan.kept and kept_by_set:
        raise RuleError(
            f"the rule keeps no whole set: each matched set has an image for which {rule.text} is false, or one that "
            "was rejected earlier. Omit --whole-sets to keep the others."
        )
    if not scan.kept:
        raise RuleError(f"the rule keeps nothing: {rule.text} is true for no sample.")
    return scan


def _refuse_foreign_keys(
    source: FinishedDataset, scores: Mapping[str, Scores], has_sample: Mapping[str, np.ndarray]
) -> None:
    """Raise FiguregroundError if scores have rows without a sample.

    Args:
        has_sample: By name of the scores, bool (rows of the file).
    """
    for name, file_scores in scores.items():
        if not has_sample[name].all():
            raise FiguregroundError(
                f"{file_scores.path_in_dataset} has {plural(int((~has_sample[name]).sum()), 'key')} that "
                f"{source.directory} doesn't have: {join_names(file_scores.keys(~has_sample[name]), 3)}. Remove the "
                "file or those rows."
            )


def _refuse_missing(
    source: FinishedDataset, scores: Mapping[str, Scores], missing: Mapping[str, Sequence[str]]
) -> None:
    """Raise RuleError if a compared value is missing.

    Args:
        missing: By name in the rule, keys of the samples without a value.
    """
    for name, keys in missing.items():
        files = [
            file_scores.path_in_dataset
            for file_scores in scores.values()
            if name.startswith(f"scores.{file_scores.name}.")
        ]
        complete = f"; or complete {files[0]}" if files else ""
        raise RuleError(
            f"{name} is missing for {len(keys):,} of {source.samples:,} samples ({join_names(keys, 3)}). Handle them "
            f"in the rule: '{name} is None or …' keeps them, '{name} is not None and …' drops them{complete}."
        )


def _matched_set(key: str) -> str:
    """Return the name of a sample's matched set, or its key if it has none."""
    return without_background(key) or key


def _list_fields(provenance: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the names of all fields, with dots for nested ones."""
    names = []
    for name, value in provenance.items():
        names.append(f"{prefix}{name}")
        if isinstance(value, Mapping):
            names += _list_fields(value, f"{prefix}{name}.")
    return names
