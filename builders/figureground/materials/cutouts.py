"""The command `cutouts`: from photographs in class folders to cut-outs that D3S pastes.

Each photograph is cut once, which takes the time, and a line of the journal says what is known of it. Only then do
gates and people's marks decide what is kept, so that other gates or marks cost nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from figureground.core import disk
from figureground.core.devices import check_device
from figureground.core.errors import UsageError, plural
from figureground.core.files import replace_bytes
from figureground.core.hashing import content_hash, digest
from figureground.core.owned import encode_png, is_ours, refuse_foreign_files, refuse_occupied, refuse_within
from figureground.core.progress import Progress
from figureground.materials.cutting import cut, read_photograph
from figureground.materials.decisions import Decision, count_by_class, decide
from figureground.materials.fetching import format_fetch_help
from figureground.materials.journal import CUT, NOTHING, UNREADABLE, CutoutJournal, CutoutRow
from figureground.materials.lists import write_lists
from figureground.materials.marks import read_marks
from figureground.materials.page import write_page
from figureground.materials.photographs import (
    ListedPhotograph,
    find_without_outline,
    list_photographs,
    read_phrases,
    to_phrase,
)
from figureground.materials.settings import IDENTITY, Cutting
from figureground.materials.sheet import draw_sheet, draw_thumbnail, encode_thumbnail, thumbnail_path
from figureground.models.needs import refuse_absent_segmenter
from figureground.models.segmenter_files import find_kind, format_public_name, identify_models
from figureground.sources.images import MASK_SUFFIX, UnreadableImage
from figureground.sources.mask import find_mask
from figureground.training.work_directory import Work, hold

if TYPE_CHECKING:
    from PIL import Image

    from figureground.vision.segmentation import Segmenter

PRIVATE = ".cutouts"
"""Hidden folder of the output, so that it is no class folder."""
JOURNAL, LEFT_OUT = "journal.jsonl", "left"
WORK = Work((f"{PRIVATE}/{JOURNAL}",), f"{PRIVATE}/lock", "is writing cut-outs there", recognise=is_ours)
"""Cutting out into a directory."""
SHEET = "cutouts.png"
VERSION = 1
"""Raised when the code cuts other pixels; earlier cut-outs are then made again."""


@dataclass(frozen=True)
class Cutouts:
    """Result of `cutouts`."""

    out: Path
    decisions: list[Decision]
    """One for each photograph, by class and name."""
    counts: Mapping[str, Mapping[str, int]]
    """By class folder: `photographs`, `kept`, and numbers by reason."""

    @property
    def kept(self) -> int:
        return sum(each.is_kept for each in self.decisions)


def cutouts(
    photographs: str | os.PathLike[str],
    out: str | os.PathLike[str],
    segmenter: str | None = None,
    *,
    settings: Cutting | Mapping[str, Any] | None = None,
    folders: Sequence[str] | None = None,
    phrases: str | os.PathLike[str] | Mapping[str, str] | None = None,
    marks: str | os.PathLike[str] | None = None,
    device: str = "auto",
    show_progress: bool = True,
) -> Cutouts:
    """Cut objects out of photographs, `<photographs>/<class>/*`, into `<out>/<class>/*.png`, or resume a stopped run.

    A photograph with a mask (`NAME.mask.png`) or transparency is cut along it. Everything that is left out is listed in
    `cutouts.csv`, with the reason, and shown in `cutouts.html`.

    Args:
        photographs: Directory with a folder for each class.
        out: Directory of the cut-outs: new, empty, or of an earlier run.
        segmenter: Name for `open_segmenter`, such as `onnx:u2netp.onnx`; not needed if every photograph has a mask or
            transparency.
        settings: How objects are cut, and when they are left out, by the names that `figureground cutouts --help`
            lists, such as `most_cut`.
        folders: Names of the class folders to use; default: all.
        phrases: What the segmenter looks for, by class folder, or a CSV `class,phrase`; default: the folder's name.
        marks: CSV `file,mark` with people's marks, `keep` or `leave`.
        device: auto, cpu, cuda, cuda:1 or mps.
        show_progress: Whether to show progress.

    Raises:
        UsageError: No segmenter is given, and a photograph needs one; or phrases or marks don't fit.
        FiguregroundError: There are no photographs, the segmenter can't be used, or `out` holds something else.
    """
    source, directory, cutting = Path(photographs), Path(out), _to_settings(settings)
    check_device(device, "--device")
    if segmenter is not None:
        refuse_absent_segmenter("--segmenter", segmenter)
    refuse_within(directory, source, "PHOTOS")
    refuse_occupied(directory, directory / PRIVATE / JOURNAL, "cutouts")
    entries, non_files = list_photographs(source, folders)
    if segmenter is None and (without := find_without_outline(entries)):
        needed = f"{len(without):,} of {plural(len(entries), 'photograph')} have neither a mask nor transparency"
        raise UsageError(format_fetch_help(str(photographs), str(out), f"{needed}, such as {without[0].name}"))
    class_folders = list(dict.fromkeys(entry.folder for entry in entries))
    if phrases is not None and not isinstance(phrases, Mapping):
        phrases = read_phrases(Path(phrases), class_folders)
    phrases_by_folder = {folder: to_phrase(folder) for folder in class_folders} | dict(phrases or {})
    marks_by_file = {} if marks is None else read_marks(Path(marks), {entry.name for entry in entries})
    identity = cutting_identity(segmenter, cutting)
    with disk.explained(directory), hold(directory, WORK):
        journal = CutoutJournal(directory / PRIVATE / JOURNAL, digest(identity))
        lazy_segmenter = _LazySegmenter(segmenter, phrases_by_folder, device)
        _cut_all(directory, journal, entries, cutting, lazy_segmenter, show_progress)
        rows = [journal.rows[entry.name] for entry in entries]
        rows += [CutoutRow(name, "", "", UNREADABLE, reason) for name, reason in non_files]
        rows.sort(key=lambda row: row.file.split("/", 1))
        decisions = [decide(row, cutting, marks_by_file.get(row.file, "")) for row in rows]
        result = Cutouts(directory, decisions, count_by_class(decisions))
        for decision in decisions:
            _move_cutout(directory, decision)
        facts = {"segmenter": segmenter and format_public_name(segmenter), **asdict(cutting)}
        write_lists(directory, decisions, result.counts, source, facts)
        replace_bytes(directory / SHEET, encode_png(draw_sheet(directory / PRIVATE, decisions)))
        write_page(directory, directory / PRIVATE, decisions, result.counts)
    return result


def _to_settings(settings: Cutting | Mapping[str, Any] | None) -> Cutting:
    return settings if isinstance(settings, Cutting) else Cutting(**settings or {})


def cutting_identity(segmenter: str | None, settings: Cutting) -> dict[str, Any]:
    """Return what decides the pixels of cut-outs, besides photographs and phrases; JSON-able."""
    deciding_settings = {name: getattr(settings, name) for name in IDENTITY}
    return {"version": VERSION, "segmenter": segmenter and identify_models(segmenter), **deciding_settings}


class _LazySegmenter:
    """A segmenter with the phrases of classes, opened when the first photograph needs it; None for no segmenter."""

    def __init__(self, name: str | None, phrases: Mapping[str, str], device: str):
        self._name, self._phrases, self._device = name, phrases, device
        self._reads_phrases = name is not None and find_kind(name)[0].READS_PHRASES
        self._segmenter: Segmenter | None = None

    def inputs(self, entry: ListedPhotograph) -> str:
        """Return the hash of what decides a photograph's cut-out.

        Raises:
            UnreadableImage: A file can't be read.
        """
        mask = find_mask(entry.path)
        phrase = self._phrases[entry.folder] if self._reads_phrases else None
        return digest([content_hash(entry.path), mask and content_hash(mask), phrase])

    def segment(self, image: Image.Image, entry: ListedPhotograph) -> np.ndarray:
        """Return the probability that a pixel shows the object, float32 (height, width).

        Raises:
            UsageError: There is no segmenter.
        """
        if self._name is None:
            raise UsageError(
                f"--segmenter: none is given, and {entry.name} has neither a mask nor transparent pixels. Give a "
                f"segmenter, or a mask beside it, {entry.path.stem}{MASK_SUFFIX}."
            )
        if self._segmenter is None:
            self._segmenter = _open_segmenter(self._name, self._device)
        (probability,) = self._segmenter([image], [self._phrases[entry.folder]])
        return probability


def _open_segmenter(name: str, device: str) -> Segmenter:
    kind, location = find_kind(name)
    if device == "auto" and not kind.READS_PHRASES:
        device = "cpu"  # no torch is loaded to look for another
    elif kind.READS_PHRASES:
        from figureground.core.accelerator import choose_device

        device = str(choose_device(device))
    segmenter: Segmenter = kind.open(location, device)
    return segmenter


# Cutting


def _cut_all(
    directory: Path,
    journal: CutoutJournal,
    entries: Sequence[ListedPhotograph],
    settings: Cutting,
    segmenter: _LazySegmenter,
    show: bool,
) -> None:
    """Cut every photograph whose cut-out isn't there yet; drop those of photographs that are gone or named anew."""
    cutout_of = {entry.name: f"{entry.folder}/{entry.cutout}" for entry in entries}
    outdated = [*journal.outdated, *(row for name, row in journal.rows.items() if row.cutout != cutout_of.get(name))]
    for row in outdated:
        journal.rows.pop(row.file, None)
        _remove(directory, row)
    journal.start()
    with Progress.stoppable(len(entries), unit="photograph", desc="cut-outs", show=show) as bar:
        for entry in bar.track(entries):
            _cut_one(directory, journal, entry, settings, segmenter)


def _cut_one(
    directory: Path, journal: CutoutJournal, entry: ListedPhotograph, settings: Cutting, segmenter: _LazySegmenter
) -> None:
    cutout, inputs = f"{entry.folder}/{entry.cutout}", ""
    try:
        inputs = segmenter.inputs(entry)
        previous = journal.rows.get(entry.name)
        if (
            previous is not None
            and (previous.inputs, previous.cutout) == (inputs, cutout)
            and _cutout_exists(directory, previous)
        ):
            return
        photograph = read_photograph(entry.path, settings.max_edge)
    except UnreadableImage as error:
        journal.add(CutoutRow(entry.name, cutout, inputs, UNREADABLE, error.reason))
        return
    except OSError as error:
        journal.add(CutoutRow(entry.name, cutout, inputs, UNREADABLE, error.strerror or str(error)))
        return
    probability = None if photograph.alpha is not None else segmenter.segment(photograph.image, entry)
    result = cut(photograph, probability, settings)
    thumbnail = encode_thumbnail(draw_thumbnail(photograph.image, None if result is None else result.image))
    replace_bytes(thumbnail_path(directory / PRIVATE, cutout), thumbnail)
    row = CutoutRow(entry.name, cutout, inputs, NOTHING, "", photograph.outline_source, photograph.image.size)
    if result is not None:
        replace_bytes(directory / PRIVATE / LEFT_OUT / cutout, encode_png(result.image, smallest=False))
        row = CutoutRow(
            entry.name,
            cutout,
            inputs,
            CUT,
            "",
            photograph.outline_source,
            photograph.image.size,
            result.box,
            result.measures,
        )
    journal.add(row)


# Files


def _cutout_paths(directory: Path, cutout: str) -> tuple[Path, Path]:
    """Return where a cut-out lies if it is kept, and if it is left out."""
    return directory / cutout, directory / PRIVATE / LEFT_OUT / cutout


def _cutout_exists(directory: Path, row: CutoutRow) -> bool:
    return row.state != CUT or any(path.is_file() for path in _cutout_paths(directory, row.cutout))


def _move_cutout(directory: Path, decision: Decision) -> None:
    """Move a cut-out to where it belongs. A new one lies among those left out."""
    row = decision.row
    if row.state != CUT:
        if row.cutout:
            _remove(directory, row, thumbnail=row.state == UNREADABLE)
        return
    kept, left = _cutout_paths(directory, row.cutout)
    if decision.is_kept and left.is_file():
        refuse_foreign_files(kept)
        kept.parent.mkdir(parents=True, exist_ok=True)
        os.replace(left, kept)
    elif not decision.is_kept and os.path.lexists(kept):
        if left.is_file():
            _unlink(kept)
        elif is_ours(kept):
            left.parent.mkdir(parents=True, exist_ok=True)
            os.replace(kept, left)
            _remove_empty(kept.parent)


def _remove(directory: Path, row: CutoutRow, *, thumbnail: bool = True) -> None:
    """Remove what an earlier run made of a photograph."""
    for path in _cutout_paths(directory, row.cutout) if row.cutout else ():
        _unlink(path)
    if thumbnail and row.cutout:
        thumbnail_path(directory / PRIVATE, row.cutout).unlink(missing_ok=True)


def _unlink(path: Path) -> None:
    if is_ours(path):
        path.unlink()
        _remove_empty(path.parent)


def _remove_empty(folder: Path) -> None:
    """Remove a class folder without cut-outs, which D3S would refuse."""
    with suppress(OSError):
        folder.rmdir()
