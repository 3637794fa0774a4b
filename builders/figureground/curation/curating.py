"""Copy the samples of a dataset for which a rule on labels, provenance and scores is true."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from figureground.core.errors import FiguregroundError, RecipeError, listed
from figureground.core.files import parse_json, read_text
from figureground.core.locks import lock
from figureground.core.numerics import create_once
from figureground.core.registry import Registry
from figureground.curation import copying
from figureground.curation.rule import Known, MissingValue, Name, Rule, RuleError, nearest_name, spelled
from figureground.curation.scores import Scores, fingerprints, read_scores
from figureground.data.objects import is_matched, without_background
from figureground.recipe.formats import FORMATS
from figureground.recipe.sample import Reject
from figureground.running.directory import claim_directory, describe_progress
from figureground.shards import index
from figureground.shards.claiming import STAGES_LOCK
from figureground.shards.finished import FinishedDataset, refuse_overlap
from figureground.shards.formats.format import loaded_as
from figureground.shards.samples import Dropped, Encoded, Stored
from figureground.shards.shard import Shard

DROPPED = "dropped by the rule"
"""Reject reason of samples that a rule dropped."""
CARRIED: Registry[Callable[[FinishedDataset, Path], None]] = Registry(
    "figureground.carried", "way of carrying facts about samples", {"labels": "figureground.annotation.carrying:carry"},
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
    if publish_rejects:
        source.columns.of_rejects()
        kind = loaded_as(source.formats)
        if kind is None or not kind.PUBLISHES_REJECTS:
            raise RecipeError(
                "--publish-rejects",
                f"{directory} has only {listed(FORMATS[name].TITLE for name in source.formats)} files. Rejects are "
                "published as Parquet, and `load_dataset` reads all configs of a dataset in one format. Omit the flag; "
                "dropped samples are still counted.",
            )
    if whole_sets and not is_matched(source.recipe):
        raise RecipeError(
            "--whole-sets",
            f"{directory} has no matched sets: its recipe doesn't say match: foreground, or it was merged. Omit the "
            "flag.",
        )
    scores = read_scores(directory)
    known = known_names(source, scores)
    rule = Rule(keep, known)
    scan = apply_rule(source, rule, known, scores, whole_sets, show_progress)
    kept = scan.kept.total()
    step = {
        "did": "curate", "rule": rule.text, "from": source.told(), "kept": kept, "dropped": source.samples - kept,
    }  # fmt: skip
    identity = {"rule": rule.text, "publish_rejects": publish_rejects, "scores": fingerprints(scores)}
    if whole_sets:  # absent otherwise, so that copies of earlier releases can be resumed
        identity["whole_sets"] = True
        step |= {"sets_kept": scan.whole, "sets_dropped": len(scan.broken)}
    if evidence:
        identity["evidence"] = dict(evidence)
        step |= evidence
    recipe = copying.recipe_of("curate", identity, step, [source])
    for split, said in source.index["splits"].items():
        if said["samples"] and not scan.kept[split]:
            copying.say(f"the rule keeps nothing of split {split!r}, so the copy lacks it.", show_progress)

    def results(shard: Shard) -> Iterator[Encoded | Reject]:
        source.verify(shard)
        yield from source.rejects(shard, images=publish_rejects)
        for stored in source.stored(shard):
            encoded = stored.encoded()
            if not rule(SampleValues(_row(stored), shard, source, scores)):
                yield Dropped(encoded.spec, DROPPED, encoded)
            elif _set_of(stored.key) in scan.broken:
                yield Dropped(encoded.spec, DROPPED_WITH_SET, encoded)
            else:
                yield encoded

    with claim_directory(out, recipe, lambda: describe_progress(out, source.shards)):
        copying.write_shards(
            out, recipe, source.shards, results, source.columns, formats=source.formats,
            image_format=source.image_format, version=source.version, publish_rejects=publish_rejects,
            show_progress=show_progress,
        )  # fmt: skip
        with lock(out / STAGES_LOCK, wait=True):
            for name, some in scores.items():
                some.write(scan.kept_rows[name], out)
            numerics = directory / "_figureground" / "numerics.json"
            if numerics.exists():
                create_once(out / "_figureground" / "numerics.json", read_text(numerics, root=directory))
            copying.carry_files(source, out)
        copying.carry_card(source, out)
        index.finish(
            out, source.shards, source.columns, source.index["card"]["recipe"],
            dataclasses.replace(source.facts, lineage=recipe["lineage"]),
            formats=source.formats, image_format=source.image_format, sha256=recipe["sha256"],
        )  # fmt: skip
        for _, carry in CARRIED.items():
            carry(source, out)
    return out


def known_names(source: FinishedDataset, scores: Mapping[str, Scores]) -> Known:
    """Return the names that a rule may use."""
    classes = {**source.names, "split": tuple(source.index["splits"])}
    texts = ("key", "prompt", *source.columns.texts)
    return Known(classes, texts, {name: some.columns for name, some in scores.items()})


def _row(stored: Stored) -> dict[str, Any]:
    """Return a sample in the form that `Source.rows` yields."""
    return {
        "key": stored.key, "prompt": stored.prompt, "provenance": stored.provenance, **stored.labels, **stored.texts,
    }  # fmt: skip


def _parsed(row: Mapping[str, Any]) -> dict[str, Any]:
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
            return self.field(path)[1]
        if head == "scores":
            some = self._scores[str(path[1])]
            at = some.row(self._row["key"])
            return None if at is None else some.value(at, str(path[2]))
        if head == "split":
            return self._shard.split
        return self._names[head][self._row[head]] if head in self._names else self._row[head]

    def field(self, path: Name) -> tuple[bool, Any]:
        """Return whether the provenance has a field, and its value."""
        if self._provenance is None:
            self._provenance = _parsed(self._row)
        at: Any = self._provenance
        for part in path[1:]:
            inside = part in at if isinstance(at, dict) else isinstance(at, list) and part in range(len(at))
            if not inside:
                return False, None
            at = at[part]
        return True, at


@dataclass
class _Scan:
    """Result of applying a rule to all samples of a dataset."""

    kept: Counter[str]
    """Number of kept samples by split."""
    kept_rows: dict[str, np.ndarray]
    """By name of the scores, bool (rows of the file): whether the row's sample is kept."""
    broken: set[str] = field(default_factory=set)
    """Matched sets with an image that the rule drops or that was rejected earlier; empty without `whole_sets`."""
    whole: int = 0
    """Number of other matched sets."""

    def keep(self, split: str, rows: Mapping[str, int]) -> None:
        """Count a kept sample, with its row in each scores file that has one."""
        self.kept[split] += 1
        for name, at in rows.items():
            self.kept_rows[name][at] = True


def apply_rule(
    source: FinishedDataset,
    rule: Rule,
    known: Known,
    scores: Mapping[str, Scores],
    whole_sets: bool,
    show_progress: bool,
) -> _Scan:
    """Apply a rule to all samples, without their images.

    Args:
        whole_sets: Whether matched sets are kept or dropped together.

    Raises:
        RuleError: A compared value is missing or not comparable, or the rule keeps nothing.
        FiguregroundError: Scores have keys that the dataset lacks.
    """
    scan = _Scan(Counter(), {name: np.zeros(len(some), bool) for name, some in scores.items()})
    seen = {name: np.zeros(len(some), bool) for name, some in scores.items()}
    missing: dict[str, list[str]] = {}
    unmet = {path for path in rule.names if path[0] == "provenance"}
    fields: list[str] = []
    kept: dict[str, list[tuple[str, Mapping[str, int]]]] = {}
    for shard in copying.read_all(source, show_progress):
        if whole_sets:
            scan.broken |= {_set_of(reject.spec.key) for reject in source.rejects(shard)}
        for row in source.rows(shard):
            sample = SampleValues(row, shard, source, scores)
            rows = {name: at for name, some in scores.items() if (at := some.row(row["key"])) is not None}
            for name, at in rows.items():
                seen[name][at] = True
            if unmet:
                unmet = {path for path in unmet if not sample.field(path)[0]}
                fields = fields or _fields(_parsed(row))
            try:
                keeps = rule(sample)
            except MissingValue as error:
                missing.setdefault(error.name, []).append(row["key"])
                continue
            except RuleError as error:
                error.args = (f"{error}\n  first occurs in sample {row['key']}",)
                raise
            if keeps and whole_sets:
                kept.setdefault(_set_of(row["key"]), []).append((shard.split, rows))
            elif keeps:
                scan.keep(shard.split, rows)
            elif whole_sets:
                scan.broken.add(_set_of(row["key"]))
    for name in set(kept) - scan.broken:
        scan.whole += 1
        for split, at_rows in kept[name]:
            scan.keep(split, at_rows)
    for name, some in scores.items():
        if not seen[name].all():
            raise FiguregroundError(
                f"{some.shown} has {(~seen[name]).sum():,} keys that {source.directory} doesn't have: "
                f"{listed(some.keys(~seen[name]), 3)}. Remove the file or those rows."
            )
    if unmet:
        path = min(unmet, key=spelled)
        raise RuleError(f"no sample has {spelled(path)!r}{nearest_name(path, known, fields)}")
    for name, keys in missing.items():
        files = [some.shown for some in scores.values() if name.startswith(f"scores.{some.name}.")]
        complete = f"; or complete {files[0]}" if files else ""
        raise RuleError(
            f"{name} is missing for {len(keys):,} of {source.samples:,} samples ({listed(keys, 3)}). Handle them in "
            f"the rule: '{name} is None or …' keeps them, '{name} is not None and …' drops them{complete}."
        )
    if not scan.kept and kept:
        raise RuleError(
            f"the rule keeps no whole set: each matched set has an image for which {rule.text} is false, or one that "
            "was rejected earlier. Omit --whole-sets to keep the others."
        )
    if not scan.kept:
        raise RuleError(f"the rule keeps nothing: {rule.text} is true for none of the {source.samples:,} samples.")
    return scan


def _set_of(key: str) -> str:
    """Return the name of a sample's matched set, or its key if it has none."""
    return without_background(key) or key


def _fields(provenance: Mapping[str, Any], above: str = "") -> list[str]:
    """Return the names of all fields, with dots for nested ones."""
    names = []
    for name, value in provenance.items():
        names.append(f"{above}{name}")
        if isinstance(value, Mapping):
            names += _fields(value, f"{above}{name}.")
    return names
