"""Score the labels of a finished dataset with scorers, and write the scores file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from figureground.annotation.labels import summarise
from figureground.core import signals
from figureground.core.batches import run_in_halves
from figureground.core.devices import check_device
from figureground.core.errors import (
    FiguregroundError,
    RecipeError,
    Stopped,
    UsageError,
    join_names,
    plural,
)
from figureground.core.hashing import digest
from figureground.core.local_paths import strip_local_paths
from figureground.core.locks import lock, remove_held
from figureground.core.names import as_names
from figureground.core.progress import Progress
from figureground.core.terminal import print_note
from figureground.data.objects import iterate_identities
from figureground.shards.finished import FinishedDataset
from figureground.shards.shard import PRIVATE
from figureground.verification.journal import ScoreJournal
from figureground.verification.quality import QualityScorer
from figureground.verification.questions import read_questions
from figureground.verification.requests import ScorerRequest, parse_scorers
from figureground.verification.safety import SafetyScorer
from figureground.verification.samples import Inventory, read_batches, take_inventory
from figureground.verification.scorer import SCORERS, Batch, Options, Scorer, Values
from figureground.verification.scores_file import FILE, SavedScores, read_saved, write_saved

BATCH_SIZE = 64
"""Images per batch."""
QUALITY, SAFETY = "quality", "safety"
LOCK = f"{PRIVATE}/.verify.lock"
"""Lock held while a dataset is scored."""
POCKET = "pocket"


@dataclass(frozen=True)
class Result:
    """Outcome of one scorer."""

    new: int
    """Number of images that were scored now."""
    missing: dict[str, int] = field(default_factory=dict)
    """By column, images without a value although the scorer knows their label, for example because it gave no
    answer."""
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    """By column of labels, labels that the scorer doesn't know, with their numbers of images."""
    agree: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By column of labels, the number of images whose own label is more probable than any other, or is answered by yes
    (p at least 0.5) where only that is asked; and the number of images that this can be said of."""


@dataclass(frozen=True)
class Verified:
    """Result of `verify`."""

    path: Path
    """The scores file."""
    images: int
    results: dict[str, Result]
    """By name of the scorer; `quality` and `safety` among them."""
    unreadable: dict[str, str]
    """By key, why an image couldn't be decoded."""


def verify(
    directory: Path | str,
    scorers: str | Sequence[str] = (),
    *,
    labels: Path | str | None = None,
    endpoint: str | None = None,
    ask_all: bool = False,
    safety: str | None = None,
    unsafe: Sequence[str] = (),
    device: str = "auto",
    batch_size: int = BATCH_SIZE,
    show_progress: bool = True,
) -> Verified:
    """Score how well each image shows its foreground and its background; write `_figureground/scores/verify.parquet`.

    The card then says what the scorers found. Blur and brightness are measured too. Images that have scores of the same
    scorer are not scored again; scores of other scorers stay. A run that was stopped goes on where it was.

    Args:
        directory: A finished dataset.
        scorers: `pocket`, `clip:ID`, `classifier:ID`, `vlm:ID`, `source[:ID]`, or a scorer of another package; with
            `NAME=` before it, its name in the file. One or several; default: `pocket` for data of the pocket model.
        labels: A CSV `label,classifier_label` with a classifier's names for labels.
        endpoint: URL of an OpenAI-compatible server that runs the model of `vlm`. The environment variable
            `FIGUREGROUND_API_KEY` holds its key, if it needs one.
        ask_all: Whether `vlm` asks about every label rather than the image's own.
        safety: A checkpoint with a safety checker, or an image classifier, for the column `safety`.
        unsafe: Names of that classifier's unsafe classes.
        device: auto, cpu, cuda, cuda:1 or mps.
        batch_size: Images per batch; halved if memory doesn't suffice.
        show_progress: Whether to show progress bars and notes.

    Raises:
        FiguregroundError: The dataset isn't finished or is damaged; a model can't be opened, knows no label, or gives
            numbers that aren't finite; a server doesn't answer; no image can be decoded; or another process scores the
            dataset.
        UsageError: A scorer or an option is unknown or doesn't apply.
        Stopped: A signal requested a stop; what was scored is kept.
    """
    if batch_size < 1:
        raise RecipeError("--batch-size", f"{batch_size} is not a whole number of at least 1.")
    check_device(device, "--device")
    directory = Path(directory)
    source = FinishedDataset(directory)
    requests = parse_scorers(as_names(scorers) or _choose_default(source))
    options = Options(None if labels is None else Path(labels), endpoint, ask_all, device)
    _refuse_unused(requests, options, safety, unsafe)
    questions = read_questions(source)
    scorers_by_name: dict[str, Scorer] = {QUALITY: QualityScorer("", questions, options)}
    if safety is not None:
        scorers_by_name[SAFETY] = SafetyScorer(safety, questions, options, unsafe)
    scorers_by_name |= {request.name: SCORERS[request.kind](request.id, questions, options) for request in requests}
    with _exclusive_access(directory):
        run = _Run(source, read_saved(directory), batch_size, show_progress)
        run.prepare(scorers_by_name)
        with signals.delay_to_checks():
            for name, scorer in scorers_by_name.items():
                run.score(name, scorer)
        if run.unreadable and len(run.unreadable) == len(run.inventory.keys):
            key, why = next(iter(run.unreadable.items()))
            raise FiguregroundError(
                f"{directory}: none of its {plural(len(run.unreadable), 'image')} can be decoded; the first is {key}: "
                f"{why}. figureground check {directory} gives details."
            )
    summarise(directory)
    return Verified(directory / FILE, len(run.inventory.keys), run.results, run.unreadable)


def _choose_default(source: FinishedDataset) -> list[str]:
    """Return the scorer of a pocket dataset, which needs no download."""
    if all(identity.get("checkpoint") == POCKET for _, identity in iterate_identities(source.recipe)):
        return [POCKET]
    raise UsageError(
        f"--scorer: name one for {source.directory}: {join_names(f'{name}' for name in SCORERS.names())}; the scorer "
        f"{POCKET!r} knows drawn images only."
    )


def _refuse_unused(
    requests: Sequence[ScorerRequest], options: Options, safety: str | None, unsafe: Sequence[str]
) -> None:
    """Refuse options that no scorer would use."""
    uses = frozenset[str]().union(*(SCORERS[each.kind].USES for each in requests))
    for flag, name in (("--labels", "label_table"), ("--endpoint", "endpoint"), ("--ask-all", "ask_all")):
        if getattr(options, name) not in (None, False) and name not in uses:
            users = join_names(kind for kind, each in SCORERS.items() if name in each.USES)
            raise UsageError(f"{flag} applies only to the scorer {users}, which --scorer doesn't name.")
    if unsafe and safety is None:
        raise UsageError("--unsafe names classes of the classifier that --safety gives.")


@contextmanager
def _exclusive_access(directory: Path) -> Iterator[None]:
    """Refuse a second process: both would score the same images."""
    with lock(directory / LOCK) as held:
        if not held:
            raise FiguregroundError(
                f"{directory}: another process is scoring this dataset. Wait until it has finished."
            )
        try:
            yield
        finally:
            remove_held(directory / LOCK)


class _Run:
    """The scoring of one dataset.

    Args:
        source: The dataset.
        saved: Earlier scores.
        batch_size: Images per batch.
        show_progress: Whether to show progress bars and notes.
    """

    def __init__(self, source: FinishedDataset, saved: SavedScores, batch_size: int, show_progress: bool):
        self._source, self._saved, self._batch_size, self._show = source, saved, batch_size, show_progress
        self._identified: dict[str, dict[str, Any]] = {}
        self.inventory: Inventory
        self.results: dict[str, Result] = {}
        self.unreadable: dict[str, str] = {}

    def prepare(self, scorers: Mapping[str, Scorer]) -> None:
        """Identify all scorers, so that errors come before the first is run, and put earlier scores into order."""
        for name, scorer in scorers.items():
            self._identified[name] = self._identify(name, scorer)
        saved, num_before = self._saved, len(self._saved.keys)
        self.inventory = take_inventory(self._source, self._show)
        earlier_pairs = set(zip(saved.keys, saved.image_hashes, strict=True))
        num_same = sum(
            pair in earlier_pairs for pair in zip(self.inventory.keys, self.inventory.image_hashes, strict=True)
        )
        self._changed = (saved.keys, saved.image_hashes) != (self.inventory.keys, self.inventory.image_hashes)
        if num_before and self._changed:
            num_new, num_removed = len(self.inventory.keys) - num_same, num_before - num_same
            self._print_note(
                f"the dataset has changed since it was scored: {plural(num_new, 'image')} new or different, "
                f"{num_removed:,} gone."
            )
        saved.align(self.inventory.keys, self.inventory.image_hashes)
        identity = self._source.identity()
        self._changed |= saved.dataset != identity
        saved.dataset = identity

    def _identify(self, name: str, scorer: Scorer) -> dict[str, Any]:
        """Return a scorer's facts; forget the scores of an earlier state of it.

        Raises:
            FiguregroundError: The file has scores of another model under this name.
        """
        identity = scorer.identify()
        facts = {
            "kind": scorer.KIND, "id": strip_local_paths(scorer.id), "version": scorer.VERSION,
            "fingerprint": digest({"kind": scorer.KIND, "version": scorer.VERSION, **identity}),
            **{key: value for key, value in identity.items() if isinstance(value, str | bool | int)},
            "left_out": {what: names for what, names in scorer.left_out.items() if names},
        }  # fmt: skip
        earlier = self._saved.facts().get(name)
        if earlier is None or earlier["fingerprint"] == facts["fingerprint"]:
            return facts
        if (earlier["kind"], earlier["id"]) != (facts["kind"], facts["id"]) and name != SAFETY:
            raise FiguregroundError(
                f"{FILE} has scores of {earlier['kind']}:{earlier['id']} under the name {name!r}. Give this scorer "
                f"another name: --scorer other={scorer.KIND}:{scorer.id}"
            )
        self._print_note(
            f"the scorer {name} differs from that of the earlier scores (model, labels or settings): they are computed "
            "again."
        )
        for column in earlier["columns"]:
            self._saved.columns.pop(column, None)
            self._saved.kinds.pop(column, None)
        return facts

    def score(self, name: str, scorer: Scorer) -> None:
        """Score all images that lack a score, and write the file."""
        facts, saved, inventory = self._identified[name], self._saved, self.inventory
        prefix = name if name not in (QUALITY, SAFETY) else ""
        kinds = {f"{prefix}_{c}" if prefix else c: kind for c, kind in scorer.columns().items()}
        for column, kind in kinds.items():
            saved.columns.setdefault(column, [None] * len(inventory.keys))
            saved.kinds[column] = kind
        expected = scorer.expected(inventory.labels, inventory.guided)
        expected = {f"{prefix}_{column}" if prefix else column: rows for column, rows in expected.items()}
        with ScoreJournal(self._source.directory, name, facts["fingerprint"], list(kinds)) as journal:
            resumed = self._restore(journal.read(), list(kinds))
            rows = np.flatnonzero(_find_missing(saved, expected))
            unreadable: dict[str, str] = {}
            if len(rows):
                try:
                    scorer.open()
                    unreadable = self._score_batches(name, scorer, rows, list(kinds), journal)
                except Stopped as stop:
                    num_done = len(inventory.keys) - int(_find_missing(saved, expected).sum())
                    stop.add_note(f"{name}: {num_done:,} of {len(inventory.keys):,} images have scores; they are kept.")
                    raise
                finally:
                    scorer.close()
            facts |= {"columns": list(kinds), "unreadable": sorted(unreadable)}
            facts_by_name = saved.quality if name in (QUALITY, SAFETY) else saved.scorers
            num_new = len(rows) - len(unreadable) + resumed
            if num_new or self._changed or facts_by_name.get(name) != facts:
                facts_by_name[name] = facts
                write_saved(self._source.directory, saved)
                self._changed = False
            journal.remove()
        self.unreadable |= unreadable
        self.results[name] = self._summarise(scorer, prefix, expected, num_new)

    def _restore(self, entries: Mapping[tuple[str, str], Sequence[Any]], columns: Sequence[str]) -> int:
        """Take over a journal's values; return the number of rows."""
        num_restored = 0
        for row, pair in enumerate(zip(self.inventory.keys, self.inventory.image_hashes, strict=True)):
            if (values := entries.get(pair)) is not None:
                num_restored += 1
                for column, value in zip(columns, values, strict=True):
                    self._saved.columns[column][row] = value
        return num_restored

    def _score_batches(
        self, name: str, scorer: Scorer, rows: np.ndarray, columns: Sequence[str], journal: ScoreJournal
    ) -> dict[str, str]:
        """Score images batch by batch; return why some can't be decoded, by key."""
        inventory = self.inventory
        unreadable: dict[str, str] = {}
        bar = Progress(len(rows), unit="image", desc=f"{name} on {self._source.name}", show=self._show)
        with bar:
            batches = read_batches(self._source, inventory, rows, self._batch_size, scorer.NEEDS_GUIDES)
            for batch_rows, batch, batch_unreadable in batches:
                signals.check()
                unreadable |= batch_unreadable
                if len(batch_rows):
                    scores = score_in_halves(scorer, batch)
                    values = [scores[column] for column in scorer.columns()]
                    journal.append(batch.keys, [inventory.image_hashes[row] for row in batch_rows], values)
                    for column, column_values in zip(columns, values, strict=True):
                        for row, value in zip(batch_rows.tolist(), column_values, strict=True):
                            self._saved.columns[column][row] = value
                bar.update(len(batch_rows) + len(batch_unreadable))
        return unreadable

    def _summarise(self, scorer: Scorer, prefix: str, expected: Mapping[str, np.ndarray], new: int) -> Result:
        saved, missing, left_out, agree = self._saved, {}, {}, {}
        for column, rows in expected.items():
            num_missing = int((rows & _find_empty(saved.columns[column])).sum())
            if num_missing:
                missing[column] = num_missing
        for question in scorer.questions if prefix else ():
            column, labels = question.what, self.inventory.labels[question.what]
            counts = np.bincount(labels, minlength=len(question.labels))
            unknown = {name: int(counts[question.labels.index(name)]) for name in scorer.left_out.get(column, ())}
            if unknown := {name: count for name, count in unknown.items() if count}:
                left_out[column] = unknown
            if (p := saved.columns.get(f"{prefix}_{column}_p")) is not None:
                ranks = saved.columns.get(f"{prefix}_{column}_rank")
                margins = saved.columns.get(f"{prefix}_{column}_margin", [None] * len(p))
                # Of equally probable labels, each has the rank 1, but none is the most probable.
                agrees = [value >= 0.5 for value in p if value is not None] if ranks is None else [
                    rank == 1 and (margin is None or margin > 0)
                    for rank, margin in zip(ranks, margins, strict=True) if rank is not None
                ]  # fmt: skip
                agree[column] = sum(agrees), len(agrees)
        return Result(new, missing, left_out, agree)

    def _print_note(self, text: str) -> None:
        if self._show:
            print_note(f"{self._source.name}: {text}")


def score_in_halves(scorer: Scorer, batch: Batch) -> Values:
    """Score a batch; if memory doesn't suffice, in halves.

    Raises:
        OutOfMemory: A single image doesn't fit.
        Stopped: A signal requested a stop.
    """
    sizes = [image.size for image in batch.images]
    model = f"The scorer {scorer.KIND} {scorer.id}"
    parts = run_in_halves(lambda rows: scorer.score(batch.part(rows.start, rows.stop)), sizes, model)
    return {column: [value for part in parts for value in part[column]] for column in parts[0]}


def _find_empty(values: Sequence[Any]) -> np.ndarray:
    return np.array([value is None for value in values], bool)


def _find_missing(saved: SavedScores, expected: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return which images lack a value that they must have, bool (n,)."""
    missing = np.zeros(len(saved.keys), bool)
    for column, rows in expected.items():
        missing |= rows & _find_empty(saved.columns[column])
    return missing
