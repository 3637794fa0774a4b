"""Check a dataset directory: markers, hashes, counts, every sample in every format, the card, leaks between splits."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from figureground.checking import similar
from figureground.checking.card import check_card, check_croissant
from figureground.checking.completeness import find_completeness
from figureground.checking.duplicates import (
    describe_similar,
    find_equal_images,
    find_repeated_keys,
    find_shared_sources,
)
from figureground.checking.shard import Expected, ShardContents, check_shard
from figureground.checking.wording import MAKE_READABLE, MAX_NAMED, RERUN, REWRITE, advise_rebuild
from figureground.core.differences import describe_differences
from figureground.core.errors import FiguregroundError, join_names, plural, printable
from figureground.core.files import FileError, check_regular, leads_outside, read_json, read_object
from figureground.core.hashing import digest
from figureground.core.numerics import usable_cores
from figureground.core.progress import Progress
from figureground.core.shapes import check_shape
from figureground.recipe import document as recipes
from figureground.recipe.formats import FORMATS
from figureground.shards import empty_splits, index
from figureground.shards.columns import Columns
from figureground.shards.directory import find_unsafe_entries
from figureground.shards.formats.format import list_folders, load_formats, sort_formats
from figureground.shards.index_shape import COLUMNS
from figureground.shards.markers import check_marker, formats_of
from figureground.shards.shard import (
    MARKERS,
    NUMERICS,
    PUBLISHED_REJECTS,
    RECIPE,
    REJECTS,
    Shard,
    ShardError,
    list_paths,
)
from figureground.stores.mirror import local_copy


@dataclass(frozen=True)
class Report:
    """Result of a check."""

    findings: list[str] = field(default_factory=list)
    """Faults, one line each: the file or key, the problem, and the remedy."""
    notes: list[str] = field(default_factory=list)
    """Remarks that are no faults."""


def check(directory: str | os.PathLike[str], show_progress: bool = True) -> Report:
    """Check everything about a dataset that doesn't need its models or source images.

    Every file is read whole and every image decoded, with one thread per usable core. An unfinished dataset is
    checked as far as it has been built. Memory use is about 100 bytes per image.

    Args:
        directory: Output of `build`, `extend`, `curate` or `merge`; or the URL of a build, whose files are fetched into
            the user's cache.
        show_progress: Whether to show a progress bar.

    Raises:
        FiguregroundError: The directory holds no dataset, or it can't be read.
    """
    with local_copy(directory, show_progress) as local:
        return _check(local, show_progress)


def _check(directory: Path, show_progress: bool) -> Report:
    if not (directory / MARKERS).is_dir():
        raise FiguregroundError(
            f"{directory} holds no dataset: {MARKERS} is missing. Give the output directory of a build that "
            f"has finished a shard; figureground status {directory} shows how far a build is."
        )
    return _DatasetCheck(directory).run(show_progress)


class _DatasetCheck:
    """Check of one dataset directory; collects findings and notes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.findings: list[str] = []
        self.notes: list[str] = []
        self.recipe = self._read_json(RECIPE) or {}
        self.index = self._read_json(index.INDEX)
        self.made_by = str(self.recipe.get("builder", ""))
        identity = self.recipe.get("identity")
        self.identity: dict[str, Any] = identity if isinstance(identity, dict) else {}
        self.unreadable: set[str] = set()
        """Names of shards whose marker can't be read, although it may be whole."""
        self.markers = self._read_markers()
        self.completeness = find_completeness(self.markers, self._list_indexed_shards())

    def run(self, show_progress: bool) -> Report:
        formats = self._find_formats()
        for shard, marker in self.markers.items():
            self.findings += [
                f"{line} {advise_rebuild(shard)}" for line in _find_contradictions(shard, marker, formats)
            ]
        complete = self._check_completeness()
        self._check_remaining()
        self._check_unlisted()
        self._check_recipe()
        columns = self._find_columns()
        if columns is None and self.markers:
            self.notes.append(f"Samples weren't read: without {index.INDEX} the classes are unknown.")
        hash_images = similar.can_hash() and len({shard.split for shard in self.markers}) > 1
        contents = self._check_shards(columns, hash_images, show_progress)
        self.findings += [*find_repeated_keys(contents), *find_shared_sources(contents)]
        findings, notes = find_equal_images(contents)
        self.findings += findings
        self.notes += [*notes, *describe_similar(contents)]
        if complete and columns is not None:
            self._check_descriptions(columns, formats)
        num_read = sum(shard_contents.num_read for shard_contents in contents)
        splits = sorted({shard.split for shard in self.markers})
        self.notes.insert(
            0,
            f"{num_read:,} samples read in {len(self.markers)} shards of {join_names(splits)}: "
            f"{' and '.join(formats)}.",
        )
        return Report(list(dict.fromkeys(map(_clean_line, self.findings))), list(map(_clean_line, self.notes)))

    # --- reading the directory ------------------------------------------------------------------

    def _read_json(self, name: str) -> dict[str, Any] | None:
        """Read a JSON file; return None if it is missing, or None with a finding if it is damaged."""
        try:
            return read_object(self.directory / name, root=self.directory)
        except FileNotFoundError:
            return None
        except FileError as error:
            problem, remedy = error.reason, REWRITE if name == index.INDEX else "Restore it from a copy"
        except OSError as error:
            problem, remedy = f"it can't be read ({error.strerror})", MAKE_READABLE
        self.findings.append(f"{name}: {problem}. {remedy}.")
        return None

    def _read_markers(self) -> dict[Shard, dict[str, Any]]:
        """Return the valid markers, in index order."""
        markers: dict[Shard, dict[str, Any]] = {}
        for path in sorted((self.directory / MARKERS).glob("[!.]*")):
            name = f"{MARKERS}/{path.name}"
            try:
                marker = read_json(path, root=self.directory)
                check_marker(marker)
                shard = Shard.from_marker(marker)
            except OSError as error:
                self.findings.append(f"{name}: it can't be read ({error.strerror}). {MAKE_READABLE}.")
                self.unreadable.add(path.stem)
                continue
            except ValueError as error:
                reason = error.reason if isinstance(error, FileError) else error
                self.findings.append(f"{name}: not a valid shard marker ({reason}). Delete it, and {RERUN}.")
                continue
            if path.name != f"{shard.name}.json" or marker["shard"] != shard.name:
                self.findings.append(
                    f"{name}: describes shard {shard.name}, which doesn't match its name. Delete it, and {RERUN}."
                )
                continue
            markers[shard] = marker
        order = {name: position for position, name in enumerate(self._list_indexed_shards())}
        return dict(sorted(markers.items(), key=lambda item: (order.get(item[0].name, len(order)), item[0].name)))

    def _list_indexed_shards(self) -> list[str]:
        """Return the names of the shards that the index lists."""
        shards = (self.index or {}).get("shards", [])
        return [str(s.get("shard")) for s in shards if isinstance(s, dict)] if isinstance(shards, list) else []

    def _find_formats(self) -> tuple[str, ...]:
        """Return the shard formats: from the index, or else from any marker."""
        declared = (self.index or {}).get("formats")
        if isinstance(declared, list) and declared and all(isinstance(kind, str) for kind in declared):
            if not (unknown := [kind for kind in declared if kind not in FORMATS]):
                return tuple(sort_formats(declared))
            self.findings.append(
                f"{index.INDEX}: it names the format {join_names(map(repr, unknown), 3)}; known here are "
                f"{join_names(FORMATS.names())}. Install the package that adds it."
            )
        return tuple(sort_formats({kind for marker in self.markers.values() for kind in formats_of(marker)}))

    def _find_image_format(self) -> str:
        declared = (self.index or {}).get("image_format") or self.identity.get("image_format")
        return declared if declared in ("jpg", "webp", "png") else "jpg"

    def _find_columns(self) -> Columns | None:
        """Return the columns from the index or, if the build isn't finished, from a file of a shard."""
        try:
            declared = (self.index or {})["columns"]
            check_shape(declared, COLUMNS, "columns")
            return Columns.from_json(declared)
        except (KeyError, TypeError, ValueError) as error:
            if self.index is not None:
                reason = f" ({error})" if isinstance(error, ValueError) else ""
                self.findings.append(f"{index.INDEX}: the dataset's columns are missing or invalid{reason}. {REWRITE}.")
        formats = load_formats()
        for shard, marker in self.markers.items():
            for kind in formats_of(marker):
                path = self.directory / shard.path(kind)
                with contextlib.suppress(Exception):  # a damaged file is reported where it is read
                    check_regular(path, root=self.directory)
                    if (columns := formats[kind].schema(path)) is not None:
                        return columns
        return None

    # --- markers, files, recipe -----------------------------------------------------------------

    def _check_completeness(self) -> bool:
        """Report missing shards and extensions; return whether nothing is missing."""
        for (split, part), counts in self.completeness.contradictory.items():
            self.findings.append(
                f"{MARKERS}: for split {split}{f', extension {part}' if part else ''}, some markers count "
                f"{' shards and others '.join(map(str, counts))}, so some belong to another dataset. "
                "Remove those and their files."
            )
        self._report_missing()
        return self._check_extensions() and not self.completeness.num_missing and self.index is not None

    def _report_missing(self) -> None:
        num_unreadable = sum(map(self.completeness.is_missing, self.unreadable))
        total, num_missing = self.completeness.total, self.completeness.num_missing - num_unreadable
        missing_names = (name for name in self.completeness.iterate_missing() if name not in self.unreadable)
        missing = list(itertools.islice(missing_names, MAX_NAMED))
        missing += ["…"] if num_missing > len(missing) else []
        rerun = RERUN.capitalize()
        if not (self.directory / index.INDEX).exists():
            per_cell, started = self.identity.get("per_cell"), {shard.split for shard in self.markers}
            splits = list(per_cell) if isinstance(per_cell, dict) else []
            by_split = started <= set(splits)  # some methods key it by background
            absent = [split for split in splits if split not in started] if by_split else []
            finished = total - num_missing - num_unreadable
            parts = [f"{finished:,} of {plural(total, 'shard')} in the started splits are finished"]
            parts += [f"missing: {join_names(missing)}"] if missing else []
            parts += [f"not started: {join_names(absent)}"] if absent else []
            self.findings.append(f"The dataset isn't finished: {'; '.join(parts)}. {rerun}.")
        elif missing:
            self.findings.append(
                f"{num_missing:,} of {total:,} shards have no marker: {join_names(missing)}; "
                f"{self._describe_missing_files()}. {rerun}."
            )

    def _check_extensions(self) -> bool:
        """Report extensions that only the recipe or only the shards have; return whether all have shards."""
        extended = self.identity.get("extended")
        extensions = len(extended) if isinstance(extended, list) else 0
        built = {shard.part for shard in self.markers}
        unrecorded = sorted(part for part in built if part > extensions)
        if unrecorded and self.recipe and self.made_by not in recipes.COPIES:
            self.findings.append(
                f"{RECIPE} lists {extensions or 'no'} extensions, but shards of extension {join_names(unrecorded)} "
                "exist. Restore it from a copy, or rerun the command that extended the dataset."
            )
        if unbuilt := [part for part in range(1, extensions + 1) if part not in built]:
            self.findings.append(f"{RECIPE} lists an extension that has no shards. {RERUN.capitalize()}.")
        return not unbuilt

    def _check_remaining(self) -> None:
        """Report a dataset, split or extension whose images were all rejected."""
        if self.completeness.num_missing or not self.markers:
            return
        try:
            totals = index.sum_markers(list(self.markers.items()))
        except (KeyError, TypeError, ValueError):  # contradictory markers already have their own findings
            return
        if problem := empty_splits.explain_empty(totals):
            self.findings.append(f"{_capitalise(problem)} {empty_splits.advise(totals['rejects'])} Rebuild it.")
            return
        splits, extension = empty_splits.describe_empty_splits(totals), empty_splits.describe_empty_extension(totals)
        lines = [_capitalise(line) for line in (*splits, *([extension] if extension else []))]
        if self.made_by in recipes.COPIES:  # may be intended in a copy
            self.notes += lines
        else:
            self.findings += [f"{line} {empty_splits.advise(totals['rejects'])} Rebuild it." for line in lines]

    def _describe_missing_files(self) -> str:
        existing = [
            name
            for name in self._iterate_data_files()
            if self.completeness.is_missing(stem := PurePosixPath(name).stem)
            and stem not in self.unreadable
            and "/." not in name
        ]
        return f"their files exist ({join_names(existing, 2)})" if existing else "their files are missing too"

    def _iterate_data_files(self) -> Iterator[str]:
        """Yield the names of all files in the data folders, temporary ones too, without entering linked directories."""
        for folder in (*list_folders(), PUBLISHED_REJECTS, REJECTS):
            if leads_outside(self.directory / folder, self.directory):
                continue
            for path in sorted((self.directory / folder).rglob("*")):
                if path.is_symlink() or not path.is_dir():
                    yield path.relative_to(self.directory).as_posix()

    def _check_unlisted(self) -> None:
        """Report data files that no marker lists: `load_dataset` might read them."""
        known = {path for marker in self.markers.values() for path in marker["files"]}
        unlisted: list[str] = []
        temporary = 0
        for name in self._iterate_data_files():
            path = PurePosixPath(name)
            if path.name.startswith("."):
                temporary += path.name.endswith(".tmp")
            elif path.stem in self.unreadable and name in list_paths(path.stem):
                continue
            elif name not in known and not (self.completeness.is_missing(path.stem) and name in list_paths(path.stem)):
                unlisted.append(name)
        self.findings += [
            f"{name}: no marker lists this file. Remove it, or `load_dataset` may read it." for name in unlisted
        ]
        # Reported by name only: the content and a link's target may be private.
        self.findings += [
            f"{printable(name)}: {problem}. Replace it with a regular file, or remove it."
            for name, problem in find_unsafe_entries(self.directory)
        ]
        if temporary:
            self.notes.append(f"{temporary} temporary files in the data folders, from a running or killed build.")

    def _check_recipe(self) -> None:
        if not self.recipe:
            if not any(line.startswith(RECIPE) for line in self.findings):
                self.findings.append(f"{RECIPE}: missing, so the dataset can't be rebuilt. Restore it.")
            return
        identity, content = self.recipe.get("identity"), self.recipe.get("content")
        version = {"format": self.recipe["format"]} if "format" in self.recipe else {}
        self._check_versions()
        if not isinstance(identity, dict) or not isinstance(content, dict) or "sha256" not in self.recipe:
            self.findings.append(f"{RECIPE}: identity, content or sha256 is missing. Restore it from a copy.")
        elif digest({**version, "builder": self.made_by, **identity, **content}) != self.recipe["sha256"]:
            self.findings.append(
                f"{RECIPE}: its settings don't match its recorded SHA-256, so it was edited. Restore it."
            )
        else:
            self._check_seal()
        if self.made_by not in recipes.COPIES and self.markers and not (self.directory / NUMERICS).exists():
            self.findings.append(f"{NUMERICS}: missing, so the shards can't be reproduced. Restore it.")
        numerics = self._read_json(NUMERICS) or {}
        if numerics.get("mixed"):
            self.notes.append(f"The numerics are mixed ({NUMERICS}): after a rebuild, some last bits may differ.")

    def _check_versions(self) -> None:
        """Check that recipe, index and markers have the same format version."""
        documents = [(RECIPE, self.recipe), *([(index.INDEX, self.index)] if self.index else [])]
        documents += [(shard.path("marker"), marker) for shard, marker in self.markers.items()]
        names_by_version: dict[int, list[str]] = {}
        for name, saved in documents:
            try:
                names_by_version.setdefault(recipes.read_format(saved, name), []).append(name)
            except FiguregroundError as error:
                self.findings.append(str(error))
        if len(names_by_version) > 1:
            versions = "; ".join(
                f"format {version}: {join_names(names, MAX_NAMED)}"
                for version, names in sorted(names_by_version.items())
            )
            self.findings.append(f"The dataset mixes several format versions: {versions}. Rebuild it.")
        elif names_by_version and (version := next(iter(names_by_version))) != recipes.FORMAT:
            self.notes.append(
                f"The dataset has format {version}; this release builds format {recipes.FORMAT}. It can be read, "
                "curated and published, but not resumed or extended: see docs/format.md."
            )

    def _check_seal(self) -> None:
        """Report edits that `sha256` doesn't cover: it hashes classes, lists and checkpoint by content, not by name.

        A finished dataset's index also records the recipe's hash, so another dataset's recipe is detected.
        """
        recorded = (self.index or {}).get(index.RECIPE_SHA256)
        sealed = recipes.is_sealed(self.recipe)
        if sealed is False or (sealed is None and (recorded is not None or self.recipe.get("format", 1) != 1)):
            self.findings.append(
                f"{RECIPE}: it doesn't match its {recipes.SEAL}: something other than the execution settings was "
                "edited. Restore it from a copy."
            )
        elif sealed is None:
            self.notes.append(f"{RECIPE}: written by an older release, so edited names and paths can't be detected.")

    # --- samples --------------------------------------------------------------------------------

    def _check_shards(self, columns: Columns | None, hash_images: bool, show_progress: bool) -> list[ShardContents]:
        """Check all shards in parallel threads; Pillow and hashing release the GIL."""
        size = self.identity.get("size")
        expected = Expected(
            self.directory, columns, self._find_image_format(), size if isinstance(size, int) else None,
            hash_images, recipes.is_marked(self.recipe),
        )  # fmt: skip
        stop, lock = threading.Event(), threading.Lock()
        total = sum(marker["samples"] for marker in self.markers.values())
        contents = []
        with (
            Progress(total, unit="image", desc=f"checking {self.directory}", show=show_progress) as bar,
            ThreadPoolExecutor(usable_cores(), thread_name_prefix="check") as pool,
        ):

            def progress(samples: int) -> None:
                with lock:
                    bar.update(samples)

            futures = {
                shard: pool.submit(check_shard, expected, shard, marker, progress, stop)
                for shard, marker in self.markers.items()
            }
            try:
                for shard, future in futures.items():
                    try:
                        contents.append(future.result())
                        self.findings += contents[-1].findings
                    except Exception as error:  # a file may vanish, or crash a library in unforeseen ways
                        problem = f"it can't be checked ({type(error).__name__}: {error})"
                        self.findings.append(f"{shard.name}: {problem}. {advise_rebuild(shard)}")
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)
        return contents

    # --- index and card -------------------------------------------------------------------------

    def _check_descriptions(self, columns: Columns, formats: Sequence[str]) -> None:
        """Check index, card and Croissant against the markers."""
        assert self.index is not None
        try:
            summary = index.summarise(self.directory, list(self.markers), formats)
        except (ShardError, KeyError, TypeError, OSError):
            return  # the markers' contradictions were already reported
        saved = {"format": 1, **self.index}
        saved = {name: saved.get(name) for name in summary}
        where = [line.split(":")[0] for line in describe_differences(saved, json.loads(json.dumps(summary)))]
        recorded = self.index.get(index.RECIPE_SHA256)
        reported = any(line.startswith(RECIPE) for line in self.findings)
        if recorded is not None and self.recipe and not reported and recorded != self.recipe.get("sha256"):
            self.findings.append(
                f"{RECIPE}: it doesn't match the recipe hash in {index.INDEX}, so it belongs to another dataset or an "
                "extension. Restore it, or rerun the command that made the dataset."
            )
        if where:
            self.findings.append(
                f"{index.INDEX}: it disagrees with the markers in {join_names(where, MAX_NAMED)}. {REWRITE}."
            )
        findings, notes = check_card(
            self.directory, columns, summary, self.markers, self.index, self._find_image_format()
        )
        self.findings += findings
        self.notes += notes
        self.findings += check_croissant(self.directory, self.markers)


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]


def _clean_line(text: str) -> str:
    """Join text into one line and escape what can't be encoded as UTF-8."""
    return " ".join(text.split()).encode("utf-8", "backslashreplace").decode()


def _find_contradictions(shard: Shard, marker: Mapping[str, Any], formats: Iterable[str]) -> Iterator[str]:
    """Yield the contradictions within a marker, one sentence each."""
    name, rejected = shard.path("marker"), sum(marker["rejects"].values())
    if marker["samples"] + rejected != marker["planned"]:
        yield (
            f"{name}: {marker['samples']} samples and {rejected} rejects don't add up to the {marker['planned']} "
            "planned images."
        )
    if (samples := sum(n for *_, n in marker["cells"])) != marker["samples"]:
        yield f"{name}: its cells add up to {samples}, not to its {marker['samples']} samples."
    for kind in formats:
        if shard.path(kind) not in marker["files"]:
            yield f"{name}: {shard.path(kind)} isn't listed, though the dataset has that format."
    if rejected and not any(path == shard.path("rejects") for path in marker["files"]):
        yield f"{name}: it counts {rejected} rejects but lists no rejects file."
    for path in marker["files"]:
        if path not in list_paths(shard.name):
            yield f"{name}: it lists {path}, which doesn't belong to this shard."
