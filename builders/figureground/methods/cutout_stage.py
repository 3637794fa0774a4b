"""The stage of D3S that cuts objects out of photographs, `cutouts: {from: DIR, segmenter: NAME}`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError, RecipeError, plural
from figureground.core.hashing import content_hash, digest
from figureground.materials.cutouts import cutouts, cutting_identity
from figureground.materials.decisions import count_reasons
from figureground.materials.journal import UNREADABLE
from figureground.materials.page import PAGE
from figureground.materials.photographs import find_without_outline, list_photographs
from figureground.materials.settings import FromPhotographs, read_cutting
from figureground.models.need import Need
from figureground.models.needs import missing_segmenter, refuse_absent_segmenter
from figureground.models.segmenter_files import find_kind, format_public_name
from figureground.recipe.classes import ClassEntry
from figureground.shards.stages import read_marker
from figureground.sources.guide import match_folders
from figureground.sources.mask import find_mask

CUTOUTS = "cutouts"
"""Name of the stage."""


class CutStage:
    """Cuts objects out of photographs, and knows the result.

    Args:
        value: The recipe's `cutouts`.

    Raises:
        RecipeError: A setting is unknown, missing or doesn't fit.
    """

    def __init__(self, value: FromPhotographs):
        self._directory, self.segmenter, self._marks, self._settings = read_cutting(CUTOUTS, value)
        self._folder: Path | None = None
        self._facts: dict[str, Any] = {}

    @property
    def photographs(self) -> Path:
        """Directory of the photographs.

        Raises:
            RecipeError: It doesn't exist.
        """
        if not Path(self._directory).is_dir():
            raise RecipeError(f"{CUTOUTS}.from", f"there is no directory {self._directory!r}.")
        return Path(self._directory)

    # --- identity -------------------------------------------------------------------------------

    def content(self, classes: Sequence[ClassEntry]) -> dict[str, Any]:
        """Return what decides the cut-outs: photographs with their masks, segmenter, settings, marks, phrases.

        Raises:
            FiguregroundError: A class has no folder, or a file is missing.
        """
        folders = self._match_class_folders(classes)
        entries, _ = list_photographs(self.photographs, [path.name for path in folders.values()])
        names = {path.name: name for name, path in folders.items()}
        rows = []
        for entry in entries:
            mask = find_mask(entry.path)
            rows.append([names[entry.folder], entry.name, content_hash(entry.path), mask and content_hash(mask)])
        phrases = self.segmenter is not None and find_kind(self.segmenter)[0].READS_PHRASES
        return {
            **cutting_identity(self.segmenter, self._settings), "gates": dataclasses.asdict(self._settings),
            "photographs": digest(sorted(rows)), "phrases": [c.text for c in classes] if phrases else None,
            "marks": self._marks_hash,
        }  # fmt: skip

    @cached_property
    def _marks_hash(self) -> str | None:
        if self._marks is None:
            return None
        try:
            return content_hash(Path(self._marks))
        except (OSError, ValueError) as error:
            raise RecipeError(f"{CUTOUTS}.marks", f"{self._marks!r} can't be read: {error}") from None

    def _match_class_folders(self, classes: Sequence[ClassEntry]) -> dict[str, Path]:
        """Return the folder of photographs of each class."""
        aliases = {c.name: c.aliases for c in classes}
        try:
            return match_folders(self.photographs, [c.name for c in classes], CUTOUTS, aliases)
        except ValueError as error:
            raise FiguregroundError(str(error)) from error

    # --- the stage ------------------------------------------------------------------------------

    def cut(self, classes: Sequence[ClassEntry], device: str, show_progress: bool, folder: Path) -> dict[str, Any]:
        """Run the stage in its folder, which may hold what a killed run left; return facts about it."""
        folders = {path.name: name for name, path in self._match_class_folders(classes).items()}
        texts = {c.name: c.text for c in classes}
        result = cutouts(
            self.photographs, folder, self.segmenter, settings=self._settings, folders=list(folders),
            phrases={folder_name: texts[name] for folder_name, name in folders.items()}, marks=self._marks,
            device=device, show_progress=show_progress,
        )  # fmt: skip
        return {
            "counts": result.counts,
            "files": {decision.row.cutout: decision.row.file for decision in result.decisions if decision.is_kept},
            "unreadable": {
                decision.row.file: decision.row.problem
                for decision in result.decisions
                if decision.row.state == UNREADABLE
            },
        }

    def read(self, stages: Path) -> None:
        """Read the facts of the finished stage, if it is."""
        if (marker := read_marker(stages / CUTOUTS)) is not None:
            self._folder, self._facts = stages / CUTOUTS, marker["facts"]

    def refuse_absent(self, classes: Sequence[ClassEntry]) -> None:
        """Refuse a segmenter whose model is missing, and photographs that need one if none is given.

        Raises:
            FiguregroundError: Either is the case.
        """
        if self.segmenter is not None:
            refuse_absent_segmenter(f"{CUTOUTS}.segmenter", self.segmenter)
            return
        folders = [path.name for path in self._match_class_folders(classes).values()]
        without = find_without_outline(list_photographs(self.photographs, folders)[0])
        if without:
            raise RecipeError(
                f"{CUTOUTS}.segmenter",
                f"none is given, and {plural(len(without), 'photograph')} have neither a mask nor transparency, such "
                f"as {without[0].name}. Give one: {{from: DIR, segmenter: NAME}}.",
            )

    def missing_models(self) -> list[Need]:
        """Return the segmenter's models that this machine lacks."""
        return [] if self.segmenter is None else missing_segmenter(f"{CUTOUTS}.segmenter", self.segmenter)

    @property
    def is_finished(self) -> bool:
        """Whether the finished stage was read."""
        return self._folder is not None

    def require_folder(self) -> Path:
        """Return the directory of the cut-outs.

        Raises:
            FiguregroundError: The stage isn't finished.
        """
        if self._folder is None:
            raise FiguregroundError(
                f"{CUTOUTS}: the cut-outs are made from photographs during the build. Build the dataset first."
            )
        return self._folder

    @contextmanager
    def explain_errors(self) -> Iterator[None]:
        """Add to an error about too few cut-outs where to look, and what to change."""
        try:
            yield
        except FiguregroundError as error:
            raise FiguregroundError(
                f"{error} {self.require_folder() / PAGE} shows which photographs were left out and why. Add "
                f"photographs, give other limits, as in --set {CUTOUTS}.most_cut=0.3, or mark some: --set "
                f"{CUTOUTS}.marks=marks.csv."
            ) from error

    # --- the result -----------------------------------------------------------------------------

    @property
    def unreadable(self) -> dict[str, str]:
        """Photographs that can't be read, `folder/file`, with the reasons."""
        return dict(self._facts.get("unreadable", {}))

    def photographs_of(self, paths: Sequence[Path]) -> list[Path]:
        """Return the photographs that cut-outs were made from."""
        files = self._facts["files"]
        return [self.photographs / files[path.relative_to(self.require_folder()).as_posix()] for path in paths]

    def describe(self, classes: Sequence[ClassEntry]) -> str:
        """Return a line about the cut-outs, for `plan` and for a finished build."""
        if not self.is_finished:
            by = f"the segmenter {format_public_name(self.segmenter)}" if self.segmenter else "their own outlines"
            return (
                f"Cut-outs of {plural(len(classes), 'class')} are made from photographs in {self.photographs}, by {by}."
            )
        counts = self._facts["counts"]
        photographs, kept = (
            sum(class_counts[name] for class_counts in counts.values()) for name in ("photographs", "kept")
        )
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in count_reasons(counts).items())
        omitted = f"; left out: {reasons}. {self.require_folder() / PAGE} shows them" if reasons else ""
        return f"{kept:,} of {plural(photographs, 'photograph')} became cut-outs{omitted}."
