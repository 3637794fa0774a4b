"""`figureground compare`: compare bias-mitigation methods on one data set by worst-group accuracy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from figureground.comparison import tables
from figureground.comparison.generators import Generators, PasteSettings
from figureground.comparison.preflight import Preflight
from figureground.comparison.rows import PASTE, list_generators, parse_methods
from figureground.comparison.runner import ComparisonRunner
from figureground.core import disk
from figureground.core.devices import check_device
from figureground.core.differences import describe_differences
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.core.files import replace_text
from figureground.core.values import FieldsOf
from figureground.data.data_source import DataSource
from figureground.data.layouts import read_data
from figureground.learn.preflight import INPUTS as TRAINING_INPUTS
from figureground.learn.preflight import check_workers, list_seeds
from figureground.learn.settings import Training
from figureground.learn.training_data import gather
from figureground.learn.way import WAYS
from figureground.recipe import document as recipes
from figureground.tracking.reporting import begin, tracked
from figureground.tracking.tracker import check_tracker
from figureground.training.work_directory import (
    Work,
    has_results,
    hold,
    read_inputs,
    refuse_changed_inputs,
    refuse_other_content,
    remove_drafts,
)

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
        data: As for `train`; likewise `layout`, `root`, `y`, `a`, `file` and `split_column`.
        methods: Training methods (erm, reweight, jtt, groupdro, dfr), generators of added images (paste, scgs, ddb),
            which are combined with erm, and `GENERATOR+METHOD`.
        seeds: Number of seeds, from 0; or the seeds themselves.
        out: A directory that is new, empty, or holds a comparison on the same data.
        training: Settings of `Training` shared by all methods, such as `backbone` and `epochs`. Classifiers
            trained by generators share most of them.
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
    runner = ComparisonRunner(
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
    recorded = {"data": identity["data"], "methods": {}, "generators": {}}
    if path.exists():
        previous = read_inputs(path)
        if not isinstance(previous, Mapping) or not recorded.keys() <= previous.keys():
            raise FiguregroundError(f"{path} wasn't written by compare, and was left as it is. Give another --out.")
        if has_results(out, INPUTS, TRAINING_INPUTS):  # otherwise, the run that wrote it failed before
            recorded = dict(previous)
    changed = describe_differences(recorded["data"], identity["data"], "data")
    for kind in ("methods", "generators"):
        for name, inputs in identity[kind].items():
            changed += describe_differences(recorded[kind].setdefault(name, inputs), inputs, name)
    refuse_changed_inputs(out, "comparison", changed)
    remove_drafts(out)
    replace_text(path, json.dumps(recorded, indent=2, ensure_ascii=False) + "\n")
