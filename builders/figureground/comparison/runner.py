"""The work of a comparison: makes images and trains classifiers, row by row."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figureground.comparison import tables
from figureground.comparison.generators import Generators
from figureground.comparison.rows import Row
from figureground.core.errors import FiguregroundError, join_names, plural
from figureground.core.terminal import print_note
from figureground.data.data_source import DataSource
from figureground.learn.preflight import read_request
from figureground.learn.settings import MASKS, Training

TRAINED_FOLDER = "train"
"""Folder of trained classifiers, one directory per row, or per row and seed."""


@dataclass(eq=False, kw_only=True)
class ComparisonRunner:
    """The work of one comparison in its output directory."""

    source: DataSource
    rows: Sequence[Row]
    seeds: Sequence[int]
    out: Path
    settings: Mapping[str, Training]
    generators: Generators
    device: str
    workers: int | None
    show_progress: bool
    on_row: Callable[[dict[str, Any]], None] | None = None

    def run(self, about: Mapping[str, Any]) -> dict[str, Any]:
        finished: list[dict[str, Any]] = []
        notes: list[str] = []
        comparison: dict[str, Any] = {}
        try:
            for row in self.rows:
                self._show_remark(f"{row.name} ({len(finished) + 1} of {len(self.rows)})")
                with _prefix_errors(row.name):
                    finished.append(self._run_row(row, notes))
                remaining = [row.name for row in self.rows[len(finished) :]]
                all_notes = [*notes, *self._list_notes(finished, remaining)]
                comparison = tables.summarise(about, self.seeds, finished, all_notes)
                tables.write(self.out, comparison)
                if self.on_row is not None:
                    self.on_row(comparison)
        except KeyboardInterrupt as stop:
            stop.add_note(
                f"{len(finished)} of {plural(len(self.rows), 'row')} of the comparison are finished. The same command "
                "resumes it."
            )
            raise
        return comparison

    def _show_remark(self, text: str) -> None:
        if self.show_progress:
            print_note(text)

    def _run_row(self, row: Row, notes: list[str]) -> dict[str, Any]:
        if row.generator is None:
            report = self._train(row.training, row.name, self.seeds)
            results = list(report["seeds"])
            notes += [note for note in report["notes"] if note not in notes]
        else:
            results = []
            for seed in self.seeds:
                record = self._make_images(row.generator, seed)
                name = f"{row.name}-seed-{seed}"
                report = self._train(row.training, name, [seed], [self.out / record["directory"]])
                added = {"added": report["images"]["added"], "made": record}
                results.append({**report["seeds"][0], **added})
                notes += [note for note in report["notes"] if note not in notes]
        uses = self.settings[row.training].uses(self.generators.train.attributes is not None)
        if row.generator and self.generators.uses_masks(row.generator):
            uses.append(MASKS)
        return tables.summarise_row(row, results, uses)

    def _train(self, method: str, name: str, seeds: Sequence[int], add: Sequence[Path] = ()) -> dict[str, Any]:
        from figureground.learn.training import train_request

        request = read_request(
            self.settings[method], self.source, self.out / TRAINED_FOLDER / name, add=add, seeds=seeds,
            device=self.device, workers=self.workers,
        )  # fmt: skip
        return train_request(request, self.show_progress)

    def _make_images(self, generator: str, seed: int) -> dict[str, Any]:
        """Generate images unless they exist; return their record as `Generators.make` does."""
        record = self.generators.read_record(generator, seed)
        if record is None:
            self._show_remark(f"making {generator}-seed-{seed}")
            with _prefix_errors(f"seed {seed}"):
                record = self.generators.make(generator, seed, self._train_erm)
        return record

    def _train_erm(self, seed: int) -> Path:
        """Return the folder of a seed's ERM classifier, training it if needed."""
        models = self.out / TRAINED_FOLDER / "erm"
        if not (models / f"seed-{seed}.json").exists():
            self._train("erm", "erm", self.seeds)
        return models / f"erm-seed-{seed}"

    def _list_notes(self, finished: Sequence[Mapping[str, Any]], remaining: Sequence[str]) -> Iterator[str]:
        if any(row["generator"] for row in finished):
            yield (
                "If images are added, the seed covers the whole pipeline: it also determines the images, not only the "
                "classifier."
            )
        if any(row["generator"] == "paste" for row in finished):
            yield self.generators.paste_note()
        yield from self._list_unused()
        yield from tables.notes_on_steps(finished)
        kind = "class" if self.generators.train.attributes is None else "group"
        yield from tables.notes_on_small_groups(finished, kind)
        if len(self.seeds) == 1:
            yield "With one seed, the spread over seeds is unknown."
        if remaining:
            yield f"Not done yet: {join_names(remaining)}."

    def _list_unused(self) -> Iterator[str]:
        """Yield a note on settings of added images if no row adds any.

        They aren't refused, because such rows may follow in the same directory, where a training keeps its settings.
        """
        names = dict.fromkeys(name for settings in self.settings.values() for name in settings.of_added_images)
        if names and not any(row.generator for row in self.rows):
            yield f"{' and '.join(names)} {'has' if len(names) == 1 else 'have'} no effect: no row adds images."


@contextlib.contextmanager
def _prefix_errors(name: str) -> Iterator[None]:
    """Prefix an error's text with a name."""
    try:
        yield
    except FiguregroundError as error:
        error.args = (f"{name}: {error}",)
        raise
