"""Exports a finished dataset: its images as files, and the tables that other people's code reads."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figureground.core import signals
from figureground.core.errors import FiguregroundError, RecipeError, join_names, plural, suggest_or_list
from figureground.core.files import (
    LEADS_OUTSIDE,
    FileError,
    leads_outside,
    replace_if_changed,
    safe_join,
    sync_directory,
)
from figureground.core.names import explain_unportable, find_same_files
from figureground.core.progress import Progress
from figureground.curation.copying import print_note
from figureground.exporting import state
from figureground.exporting.files import Links, has_content, remove_drafts, write_whole
from figureground.exporting.layout import EXPORTS
from figureground.exporting.selection import ExportRow, Selection, select
from figureground.exporting.signing import ImageSigner, Signing, source_type_of
from figureground.shards.finished import FinishedDataset, refuse_overlap
from figureground.training.work_directory import hold, refuse_other_content


@dataclass(frozen=True)
class Exported:
    """A finished export."""

    out: Path
    images: int
    linked: int
    """Images that are links to those of another export."""
    readers: str
    """How to read it, as a sentence."""


def export(
    directory: Path | str,
    out: Path | str,
    layout: str = "imagefolder",
    *,
    splits: Mapping[str, str] | Sequence[str] = (),
    keep: str | None = None,
    columns: Sequence[str] = (),
    link: Path | str | None = None,
    symbolic: bool = False,
    sign: tuple[Path | str, Path | str] | None = None,
    timestamp_url: str | None = None,
    show_progress: bool = True,
) -> Exported:
    """Write a dataset's images as files, with tables in a layout that other code reads, or resume such an export.

    The files have the bytes that the shards hold, unless they are signed. Each file is written whole or not at all, and
    a stopped export goes on where it was. Everything that can be refused is refused before anything is written.

    Args:
        directory: A finished dataset; it isn't changed.
        out: Directory of the export: new, or one where the same export was begun.
        layout: One of `exporting.layout.EXPORTS`: `imagefolder`, `folders`, `waterbirds`, `wilds` or `subpopbench`.
        splits: Splits to take; as a mapping, also their names in the export, such as `{"correlated": "train"}`. All if
            empty.
        keep: A rule of `curate` for the samples to take, such as `background != 'night'`.
        columns: Further columns of the tables: `prompt`, a field of the provenance such as `seed`,
            `scores.NAME.COLUMN`, `scores` for all scores, `answers` for how many people gave each answer.
        link: An earlier export of the same dataset whose images are linked to instead of copied.
        symbolic: Whether these links are symbolic instead of hard.
        sign: PEM files of a certificate chain, the signer's certificate first, and of its private key, to sign each
            image with (C2PA). This changes the files' bytes, but no pixel.
        timestamp_url: A time-stamping service (RFC 3161) that timestamps each signature; None sends nothing.
        show_progress: Whether to show a progress bar and notes.

    Returns:
        A result with `out`, the numbers `images` and `linked`, and `readers`, a sentence on how to read the export.

    Raises:
        RecipeError: The layout is unknown or can't hold the dataset, or a split, a column or a combination of options
            can't be used.
        RuleError: The rule can't be used.
        SigningError: Certificate or key can't be used.
        FiguregroundError: The dataset isn't finished or is damaged, names can't be those of files, `out` holds
            something else, or links can't be made.
    """
    directory, out = Path(directory), Path(out)
    if layout not in EXPORTS:
        raise RecipeError("layout", f"{layout!r} is unknown{suggest_or_list(layout, EXPORTS.names())}")
    if sign is not None and link is not None:
        raise RecipeError("sign", "signing changes the bytes of the images, so they can't be links to others.")
    dataset = FinishedDataset(directory)
    refuse_overlap(out, [directory])
    refuse_other_content(out, state.WORK)
    if link is not None and Path(link).resolve() == out.resolve():
        raise RecipeError("link", f"{link} is --out itself; name another export.")
    export_layout = EXPORTS[layout]()
    split_names = splits if isinstance(splits, Mapping) else {name: name for name in splits}
    if twice := [name for name, count in Counter(split_names.values()).items() if count > 1]:
        raise RecipeError("splits", f"two splits would be called {twice[0]!r}. Give each a name of its own.")
    selection = select(dataset, split_names, keep, columns, show_progress)
    notes = export_layout.check(selection)
    files = [export_layout.file(selection, row) for row in selection.rows]
    _refuse_unportable(files)
    links = None if link is None else Links(Path(link), dataset.identity(), selection.suffix, symbolic)
    signing = None if sign is None else Signing(Path(sign[0]), Path(sign[1]), timestamp_url)
    signer = None if signing is None else ImageSigner(signing, dataset.image_format)
    identity = _identity(dataset, layout, selection, split_names, links, signer)
    state.refuse_other_export(out, identity)
    for note in notes:
        print_note(f"{layout}: {note}", show_progress)
    with hold(out, state.WORK):
        state.claim(out, identity)
        linked = _place_images(out, selection, files, links, signer, show_progress)
        for name, text in export_layout.tables(selection).items():
            replace_if_changed(safe_join(out, name), text, root=out)
        state.write_state(out, identity, finished=True)
    return Exported(out, len(files), linked, export_layout.readers(out))


def _identity(
    dataset: FinishedDataset,
    layout: str,
    selection: Selection,
    splits: Mapping[str, str],
    links: Links | None,
    signer: ImageSigner | None,
) -> dict[str, Any]:
    """Return what decides the files of an export, JSON-able."""
    signature = None
    if signer is not None:
        signature = {"certificate": signer.fingerprint, "timestamps": signer.signing.timestamp_url}
    return {
        "dataset": dataset.identity(), "layout": layout, "samples": len(selection.rows), "splits": dict(splits),
        "keep": selection.rule, "columns": list(selection.columns), "scores": dict(selection.scores),
        "links": None if links is None else "symbolic" if links.symbolic else "hard", "signed": signature,
    }  # fmt: skip


def _refuse_unportable(files: Sequence[str]) -> None:
    """Refuse names that are no file names, or the same one, on Linux, macOS or Windows.

    Raises:
        FiguregroundError: Names the first ones.
    """
    parts = dict.fromkeys(part for file in files for part in file.split("/"))
    unusable = [f"{part!r} {why}" for part in parts if (why := explain_unportable(part))]
    if unusable:
        raise FiguregroundError(
            f"these file names aren't allowed on every system: {join_names(unusable, 3)}. Export the splits under "
            "other names: --split OLD=NEW."
        )
    if clashes := find_same_files(files):
        first, other = clashes[0]
        raise FiguregroundError(
            f"{first!r} and {other!r} would be one file on macOS and Windows ({len(clashes)} such pairs). Export the "
            "splits under other names: --split OLD=NEW."
        )


def _place_images(
    out: Path,
    selection: Selection,
    files: Sequence[str],
    links: Links | None,
    signer: ImageSigner | None,
    show_progress: bool,
) -> int:
    """Write or link the images that aren't there yet; returns how many are links."""
    dataset, num_linked = selection.dataset, 0
    folders = [out / name for name in sorted({os.path.dirname(file) for file in files})]
    for folder in folders:
        if leads_outside(folder, out):
            raise FileError(folder, LEADS_OUTSIDE)
        folder.mkdir(parents=True, exist_ok=True)
        remove_drafts(folder)
    by_shard: dict[int, list[tuple[ExportRow, str]]] = defaultdict(list)
    for row, file in zip(selection.rows, files, strict=True):
        by_shard[row.shard].append((row, file))
    with Progress(len(files), unit="image", desc=f"exporting to {out}", show=show_progress) as bar:
        for number, placements in by_shard.items():
            shard = dataset.shards[number]
            dataset.verify(shard)
            samples = dataset.stored(shard, [row.place for row, _ in placements])
            for (row, file), stored in zip(placements, samples, strict=True):
                signals.check()
                path = out / file
                if links is not None and links.link_image(path, row.key, stored.image):
                    num_linked += 1
                elif signer is not None:
                    if not path.is_file():
                        guided = stored.spec().guide is not None
                        kind = source_type_of(stored.image, guided)
                        write_whole(path, signer.sign(stored.image, path.name, kind))
                elif path.is_symlink() or not has_content(path, stored.image):
                    write_whole(path, stored.image)
                bar.update()
    for folder in folders:
        sync_directory(folder)
    if links is not None and num_linked < len(files):
        print_note(f"{plural(len(files) - num_linked, 'image')} that {links.earlier} lacks were copied.", show_progress)
    return num_linked
