"""Let people review a dataset's labels: draw the sample, serve the page, and say what was saved."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figureground.annotation.answers import read_all
from figureground.annotation.labels import summarise
from figureground.annotation.sampling import ReviewSample, Wanted, draw, load, reference_keys, save
from figureground.core import signals
from figureground.core.errors import Stopped, plural
from figureground.core.terminal import print_result
from figureground.shards.finished import FinishedDataset

if TYPE_CHECKING:
    from figureground.annotation.assignment import Turns


@dataclass(frozen=True)
class Reviewed:
    """Outcome of a review."""

    saved: int
    """Answers saved by this run."""
    annotators: dict[str, int]
    """Number of answers that count, by annotator, of all runs."""
    replaced: int
    """Answers that their annotator replaced by a later one about the same image."""
    notes: list[str]


def review(
    directory: str | os.PathLike[str],
    *,
    images: int | None = None,
    margin: float | None = None,
    per: str | None = None,
    expected: float | None = None,
    overlap: float | None = None,
    splits: Sequence[str] | None = None,
    seed: int | None = None,
    port: int | None = None,
    ready: Callable[[str], None] | None = None,
) -> Reviewed:
    """Serve the review page of a dataset on this machine until Ctrl-C, or until `KeyboardInterrupt` is raised.

    The sample is the one of the last review, changed by what is given here; see `annotation.sampling.Wanted` for its
    fields and their defaults. Answers to images that a new sample lacks are kept. At the end, `labels.json` and the
    card say what all answers show.

    Args:
        directory: A finished dataset.
        images: Number of images; None: as many as the interval needs.
        margin: Half the width of the 95 % interval of the share of right labels.
        per: What each interval is about: `dataset`, `split`, `foreground`, `background` or `cell`.
        expected: The share of right labels that is expected.
        overlap: Share of the images that every annotator is asked about.
        splits: Splits to sample from; empty: all.
        seed: Seed of the sample.
        port: The port; None: 8377, or a free one if that is in use.
        ready: Called with the page's address once it is served; None: print it.

    Raises:
        FiguregroundError: There is no finished dataset, or a file of answers belongs to another one or is damaged.
        UsageError: An option about the sample is invalid, or the port can't be used.
    """
    from figureground.annotation.assignment import Turns
    from figureground.annotation.server import Server

    dataset = FinishedDataset(Path(directory))
    changes = {
        "images": images, "margin": margin, "per": per, "expected": expected, "overlap": overlap, "splits": splits,
        "seed": seed,
    }  # fmt: skip
    sample = choose_sample(dataset, {name: each for name, each in changes.items() if each is not None})
    turns = Turns(dataset, sample)
    with Server(turns, port) as server:
        save(dataset, sample)
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="review", daemon=True)
        thread.start()
        try:
            (ready or _print_address)(server.url)
            while thread.is_alive():
                signals.check()
                thread.join(0.2)
        except KeyboardInterrupt as stop:  # the usual end of a review, unless it was SIGTERM
            if isinstance(stop, Stopped) and stop.signal != signal.SIGINT:
                raise
        finally:
            server.shutdown()
    summarise(dataset.directory)
    return _summarise_review(dataset, turns)


def choose_sample(dataset: FinishedDataset, changes: Mapping[str, Any]) -> ReviewSample:
    """Return the sample that was saved, unless it is to change; then draw a new one, which isn't saved yet.

    Args:
        dataset: The dataset.
        changes: Fields of `Wanted` that are to differ from those of the saved sample, or from the defaults.

    Raises:
        FileError: The saved sample is damaged or about another dataset.
        UsageError: See `sampling.draw`.
    """
    saved = load(dataset)
    previous = saved.settings if saved else Wanted()
    fields = {**changes, **({"splits": tuple(changes["splits"])} if "splits" in changes else {})}
    if {"margin", "per", "expected"} & fields.keys():
        fields.setdefault("images", None)  # an interval is wanted now
    settings = dataclasses.replace(previous, **fields)
    if saved is not None and settings == previous:
        return saved
    return draw(dataset, settings, reference_keys(dataset))


def describe(dataset: FinishedDataset, sample: ReviewSample) -> str:
    """Return a line about a sample and the interval that it is for."""
    settings, num_references = sample.settings, len(sample.keys) - sample.num_generated
    text = f"{sample.num_generated:,} of {plural(dataset.samples, 'image')}"
    if settings.images is None:
        per = "" if settings.per == "dataset" else f" of each {settings.per}"
        margin, expected = f"{100 * settings.margin:.1f}", f"{100 * settings.expected:.0f}"
        text += f": a 95 % interval of ±{margin} points{per} if {expected} % of the labels are correct"
    if num_references:
        text += f"; {plural(num_references, 'reference')} mixed in"
    return f"{text}. {100 * settings.overlap:.0f} % of them are shown to every annotator."


def _print_address(url: str) -> None:
    print_result(f"Open {url}")
    print_result("Everybody who knows this address can answer, on this machine only. Ctrl-C ends the review.")
    sys.stdout.flush()


def _summarise_review(dataset: FinishedDataset, turns: Turns) -> Reviewed:
    all_answers = read_all(dataset.directory, dataset.identity())
    notes = [note for answers in all_answers for note in answers.notes]
    notes += [
        f"{answers.annotator}: the clock was set back {plural(answers.clock_ran_back, 'time')}; answers count in the "
        "order in which they were given."
        for answers in all_answers if answers.clock_ran_back
    ]  # fmt: skip
    if turns.missing:
        notes.append(f"{plural(turns.missing, 'image')} of the sample can't be shown, because the files are missing.")
    return Reviewed(
        turns.saved, {answers.annotator: len(list(answers.iter_current())) for answers in all_answers},
        sum(answers.replaced for answers in all_answers), notes,
    )  # fmt: skip
