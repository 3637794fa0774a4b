"""`figureground compare`: compare bias-mitigation methods on one data set by worst-group accuracy."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from figureground.comparison import tables
from figureground.comparison.generators import Generators, PasteSettings
from figureground.comparison.preflight import Preflight
from figureground.comparison.rows import PASTE, Row, list_generators, parse_methods
from figureground.core import disk
from figureground.core.devices import check_device
from figureground.core.differences import describe_differences
from figureground.core.errors import FiguregroundError, RecipeError, join_names, plural
from figureground.core.files import replace_text
from figureground.core.terminal import print_note
from figureground.core.values import FieldsOf
from figureground.data.data_source import DataSource
from figureground.data.layouts import read_data
from figureground.learn.preflight import check_workers, list_seeds, read_request
from figureground.learn.settings import MASKS, Training
from figureground.learn.training_data import gather
from figureground.learn.way import WAYS
from figureground.recipe import document as recipes
from figureground.tracking.reporting import begin, tracked
from figureground.tracking.tracker import check_tracker
from figureground.training.work_directory import (
    Work,
    hold,
    read_inputs,
    refuse_changed_inputs,
    refuse_other_content,
    remove_drafts,
)

TRAINED_FOLDER = "train"
"""Folder of trained classifiers, one directory per row, or per row and seed."""

INPUTS = "compare.json"
"""Record of the compared methods and data; it marks the directory as ours."""
WORK = Work((INPUTS,), ".compare.lock", "is at work there (compare)")
"""Comparing in a directory."""


def parse_overrides(settings: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Parse settings of single methods and generators: `jtt.upweight=20`, `ddb.strength=0.9`.

    Raises:
        UsageError: A setting isn't of this form.
    """
    settings = list(settings)
    names = {recipes.parse_setting(text)[0][0] for text in settings}
    types = {name: settings_type for name in names if (settings_type := _find_settings_type(name)) is not None}
    overrides = recipes.apply_settings({}, settings, {}, types)
    for name, fields in overrides.items():
        if not isinstance(fields, Mapping):
            raise RecipeError("--set", f"{name!r} lacks its method: write it as jtt.upweight=20.")
    return overrides


def _find_settings_type(name: str) -> Any:
    """Return the type of a method's or generator's settings, or None for an unknown name."""
    if name in WAYS:
        return Annotated[dict[str, Any], FieldsOf(Training)]
    if name == PASTE:
        return PasteSettings
    if name not in list_generators():
        return None
    from figureground.methods.registry import method_class

    method_type = method_class(name)
    return Annotated[dict[str, Any], FieldsOf(type(method_type.CONFIGS[method_type.DEFAULT]))]


def compare(
    data: Path | str,
    methods: Sequence[str],
    seeds: int | Sequence[int],
    out: Path | str,
    *,
    training: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    config: str | None = None,
    layout: str | None = None,
    root: Path | str | None = None,
    y: str | None = None,
    a: str | None = None,
    file: str | None = None,
    split_column: str | None = None,
    device: str = "auto",
    workers: int | None = None,
    show_progress: bool = True,
    on_row: Callable[[dict[str, Any]], None] | None = None,
    track: str | None = None,
) -> dict[str, Any]:
    """Compare methods, or resume a comparison; finished work is kept, and methods and seeds may be added.

    For a method that adds images, a seed covers the whole pipeline: generating the images, pruning them if the
    generator prunes, and training the classifier. Settings and data are checked before anything is trained or
    generated.

    Args:
        data: As for `read_groups`, like `layout`, `root`, `y`, `a`, `file` and `split_column`.
        methods: Names of `way.WAYS` and `rows.list_generators`, and `GENERATOR+METHOD`. A generator alone is
            combined with erm.
        seeds: Number of seeds, from 0; or the seeds themselves.
        out: A directory that is new, empty, or holds a comparison on the same data.
        training: Settings of `Training` shared by all methods; names from `preflight.SHARED`. Classifiers trained by
            generators share them too, except those in `generators.UNSHARED`.
        overrides: Settings by method or generator. For paste: `masks` (`attended` or `true`), `quantile` and
            `count_per_class` (default: the mean number of training images per class).
        config: Config of the methods scgs and ddb; default `pocket` for small images, `photographs` for others.
        device: auto, cpu, cuda, cuda:1 or mps.
        workers: Threads that decode images; no effect on results.
        on_row: Called with the comparison so far after each row, so that it is available if a later row fails.
        track: The tracker to report to: trackio, tensorboard, wandb, or one of another package; None reports nothing.

    Returns:
        The comparison, as stored in `comparison.json`.

    Raises:
        FiguregroundError: Data, backbone or directory can't be used, or a method doesn't support the data.
        RecipeError: A method or a setting is invalid.
        Stopped: A signal requested a stop.
    """
    out, rows, seed_list = Path(out), parse_methods(methods), list_seeds(seeds)
    check_workers(workers)
    check_device(device, "--device")
    check_tracker(track)
    refuse_other_content(out, WORK)
    training, overrides = training or {}, overrides or {}
    source = DataSource.of(data, layout, root=root, y=y, a=a, file=file, split_column=split_column)
    groups = read_data(source)
    preflight = Preflight(groups, gather(groups), training, overrides)
    settings = preflight.check_trainings(rows)
    generators = Generators(
        source=source, train=groups.of_split(0), out=out, overrides=overrides, training=training,
        config=config or preflight.config, device=device, show_progress=show_progress,
        has_user_config=config is not None,
    )  # fmt: skip
    generator_inputs = preflight.check_generators(rows, generators, seed_list[0])
    preflight.open_backbones(settings)
    if "paste" in generator_inputs:
        generators.check_paste(preflight.backbone)
    identity = {"data": groups.fingerprint, "methods": preflight.identities, "generators": generator_inputs}
    runner = _Runner(
        source=source, rows=rows, seeds=seed_list, out=out, settings=settings, generators=generators, device=device,
        workers=workers, show_progress=show_progress, on_row=on_row,
    )  # fmt: skip
    tracked_config = {"data": groups.name, "methods": list(methods), "seeds": seed_list, **training, **overrides}
    with disk.explained(out), hold(out, WORK), tracked(track, out, tracked_config):
        _record_inputs(out, json.loads(json.dumps(identity)))
        for name, rule in preflight.rules.items():  # checked again: another comparison may have pruned meanwhile
            generators.refuse_other_pruning(name, rule)
        comparison = runner.run(preflight.describe())
        begin("comparison").table("comparison", *tables.make_tracker_table(comparison))
        return comparison


def _record_inputs(out: Path, identity: dict[str, Any]) -> None:
    """Record the compared methods and data; raise FiguregroundError if an earlier record differs."""
    path = out / INPUTS
    recorded = read_inputs(path) if path.exists() else {"data": identity["data"], "methods": {}, "generators": {}}
    changed = describe_differences(recorded["data"], identity["data"], "data")
    for kind in ("methods", "generators"):
        for name, inputs in identity[kind].items():
            changed += describe_differences(recorded[kind].setdefault(name, inputs), inputs, name)
    refuse_changed_inputs(out, "comparison", changed)
    remove_drafts(out)
    replace_text(path, json.dumps(recorded, indent=2, ensure_ascii=False) + "\n")


# The work


@dataclass(eq=False, kw_only=True)
class _Runner:
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
        yield from tables.notes_on_steps(finished)
        kind = "class" if self.generators.train.attributes is None else "group"
        yield from tables.notes_on_small_groups(finished, kind)
        if len(self.seeds) == 1:
            yield "With one seed, the spread over seeds is unknown."
        if remaining:
            yield f"Not done yet: {join_names(remaining)}."


@contextlib.contextmanager
def _prefix_errors(name: str) -> Iterator[None]:
    """Prefix an error's text with a name."""
    try:
        yield
    except FiguregroundError as error:
        error.args = (f"{name}: {error}",)
        raise
