"""The home of a dataset in a store: shards are written in a scratch directory by the usual code, and then put.

Of a shard the data come first and the marker last. Both are only ever created, never overwritten, so that nothing that
arrives late does harm. A finished shard leaves the scratch, except for its marker. Recipe, numerics and stages are
settled under a lease, and so are index and card.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError, join_names
from figureground.core.files import (
    FileError,
    parse_json,
    read_bytes,
    read_object,
    replace_bytes,
    replace_text,
    safe_join,
)
from figureground.core.hashing import content_hash
from figureground.core.locks import lock
from figureground.core.terminal import print_note
from figureground.recipe.sample import Spec
from figureground.shards.card import ATTRIBUTION
from figureground.shards.card_file import CARD
from figureground.shards.croissant import CROISSANT
from figureground.shards.home import ClaimLost, Home
from figureground.shards.index_shape import INDEX
from figureground.shards.journal import Journal
from figureground.shards.markers import STORED_SHARDS, markers, read_stored_shards
from figureground.shards.progress import PLANNED
from figureground.shards.shard import (
    JOURNAL,
    LABELS,
    MARKERS,
    NUMERICS,
    PRIVATE,
    RECIPE,
    SCORES,
    STAGES,
    Shard,
    ShardError,
)
from figureground.shards.stages import COPIES, DONE
from figureground.stores.faults import StoreError, redact_error
from figureground.stores.journal import StoreJournal
from figureground.stores.leases import BEATS, LEASES, Lease, Leases
from figureground.stores.store import ListedObject, Store

FAILED = f"{PRIVATE}/failed"
"""Why shards failed, an object each, named like the shard."""
DESCRIPTIONS = (ATTRIBUTION, CROISSANT, LABELS, CARD, INDEX)
"""Files that are put when all shards are finished, in this order: the index proves that they are."""
SETTLING, DESCRIBING, BUILDING = ".settling", ".describing", ".building"
"""Names of the leases that aren't those of shards; below the last one, each build that must be the only one has its."""
SECONDS_BETWEEN_LOOKS = 15.0
"""Longest age of a listing for an idle process, seconds."""
SECONDS_AFTER_MISS = 3.0
"""Longest age of a listing before a shard is claimed, after a claim that failed, seconds. Other claims need none: it
only saves requests for shards that others hold or have finished."""
LISTING_INTERVAL_FACTOR = 5.0
"""Time between listings, as a multiple of the time that one takes: thousands of markers take seconds."""
_DESCRIBING_LOCK = f"{PRIVATE}/.describing.lock"
AT_ONCE = 16
"""Small objects that are fetched at once."""


class Remote(Home):
    """The home of a dataset in a store.

    Args:
        directory: The scratch directory.
        store: The store.
        leases: The leases of this process.
    """

    def __init__(self, directory: Path, store: Store, leases: Leases):
        super().__init__(directory)
        self.store, self.leases = store, leases
        self._held_leases: dict[str, Lease] = {}
        self._refreshed_at = float("-inf")
        self._listing_seconds = 0.0
        """Time that the last listing took, seconds."""
        self._claim_failed = False
        """Whether the last claim found a shard that another process holds or has finished."""
        self._stages: dict[str, str] = {}
        """Version of the proof of each stage in the store that the scratch has too."""

    @property
    def title(self) -> str:
        return str(self.store.url)

    # --- shards ---------------------------------------------------------------------------------

    def refresh(self, now: bool = False) -> None:
        self._refresh(0 if now else min(SECONDS_BETWEEN_LOOKS, self.leases.seconds / BEATS))

    def _refresh(self, age: float) -> None:
        """List markers and leases, unless that was done within the last `age` seconds; 0 always does."""
        start = time.monotonic()
        if start - self._refreshed_at > (age and max(age, LISTING_INTERVAL_FACTOR * self._listing_seconds)):
            objects = self.store.list(MARKERS)
            self._refreshed_at = time.monotonic()
            self._listing_seconds = self._refreshed_at - start
            self._record_stored(Path(path).stem for path in objects if path.endswith(".json"))
            self.leases.refresh()

    def _record_stored(self, names: Iterable[str], *, replace: bool = False) -> None:
        """Record shards that the store has.

        Args:
            replace: Whether to forget those recorded earlier.
        """
        path = self.directory / STORED_SHARDS
        with lock(path.with_name(f"{path.name}.lock"), wait=True):
            known = read_stored_shards(self.directory)
            stored = frozenset(names) | (frozenset() if replace or known is None else known)
            if stored != known:
                replace_text(path, "".join(f"{name}\n" for name in sorted(stored)))

    def _stored_shards(self) -> frozenset[str]:
        return read_stored_shards(self.directory) or frozenset()

    @contextlib.contextmanager
    def claim(self, shard: Shard) -> Iterator[bool]:
        """Try to claim a shard: its lock file against processes of this machine, then its lease against others."""
        with super().claim(shard) as claimed:
            lease = self._take(shard) if claimed else None
            if lease is None:
                yield False
                return
            self._held_leases[shard.name] = lease
            try:
                yield True
            except ClaimLost:
                self._forget_journal(shard, lease)
                raise
            except Exception as error:
                self._note_failure(lease, error)
                raise
            finally:
                del self._held_leases[shard.name]
                self.leases.release(lease)

    def _forget_journal(self, shard: Shard, lease: Lease) -> None:
        """Remove the batches of an owner that lost its shard, if nobody needs them: some may have arrived late."""
        if self.store.entry(shard.path("marker")) is not None:
            self.store.delete(self.store.list(f"{JOURNAL}/{shard.name}/{lease.holder['owner']}"))

    def _note_failure(self, lease: Lease, error: Exception) -> None:
        """Say in the store why a shard failed, for `status`; if that fails too, it isn't said."""
        record = {**lease.holder, "reason": redact_error(error)}
        with contextlib.suppress(StoreError):
            self.store.background(5.0).put(f"{FAILED}/{lease.name}", json.dumps(record).encode())

    def _take(self, shard: Shard) -> Lease | None:
        if self._claim_failed:
            self._refresh(SECONDS_AFTER_MISS)
        if shard.name in self._stored_shards():
            return None
        lease = self.leases.take(shard.name)
        # Whoever had the lease before may have finished since the listing.
        if lease is not None and self.store.entry(shard.path("marker")) is not None:
            self._record_stored([shard.name])
            self.leases.release(lease)
            lease = None
        self._claim_failed = lease is None
        return lease

    def journal(self, shard: Shard, origin: Mapping[str, Any], batches: Sequence[Sequence[Spec]]) -> Journal:
        return StoreJournal(self.store, self._held_leases[shard.name], shard, origin, batches)

    def count_rendered(self) -> int:
        return len(self.store.list(JOURNAL))

    def store_shard(self, shard: Shard) -> None:
        """Put a shard: data first, the marker last, both create-only, each after a look at the lease.

        Raises:
            ClaimLost: Another process has taken the shard over.
            ShardError: The store has other bytes under one of its names.
        """
        lease, path = self._held_leases[shard.name], shard.path("marker")
        marker = read_object(self.directory / path)
        try:
            for name in marker["files"]:
                self.leases.check(lease)
                if not self.store.create(name, self.directory / name):
                    self.leases.check(lease)
                    raise self._conflict_error(shard, name)
            self.leases.check(lease)
            if not self.store.create(path, read_bytes(self.directory / path)):
                self._adopt(shard, marker)
        except ClaimLost:
            self._discard(shard, marker)
            raise
        self._record_stored([shard.name])
        for name in marker["files"]:
            (self.directory / name).unlink(missing_ok=True)
        self.store.delete(self.store.list(f"{JOURNAL}/{shard.name}"))

    def _adopt(self, shard: Shard, marker: Mapping[str, Any]) -> None:
        """Take over the marker of another process that made the same bytes.

        Raises:
            ShardError: It made other bytes.
        """
        path = shard.path("marker")
        text = self.store.read(path)
        stored_marker = parse_json(text, f"{self.title}/{path}")
        if not isinstance(stored_marker, dict) or stored_marker.get("files") != marker["files"]:
            raise self._conflict_error(shard, path)
        replace_bytes(self.directory / path, text)

    def _discard(self, shard: Shard, marker: Mapping[str, Any]) -> None:
        for name in (shard.path("marker"), *marker["files"]):
            (self.directory / name).unlink(missing_ok=True)

    def _conflict_error(self, shard: Shard, name: str) -> ShardError:
        local = (self.directory / NUMERICS).read_text() if (self.directory / NUMERICS).exists() else "unknown"
        remote = (self.store.read_or_none(NUMERICS) or b"unknown").decode(errors="replace")
        return ShardError(
            f"shard {shard.name}: {self.title}/{name} exists with other bytes than those made here. Nothing was "
            f"overwritten.\nnumerics here: {' '.join(local.split())}\nnumerics there: {' '.join(remote.split())}\n"
            f"If no build is running, delete {name} there and run the same command again."
        )

    # --- recipe, numerics, stages ---------------------------------------------------------------

    @contextlib.contextmanager
    def settling(self) -> Iterator[None]:
        """Hold the lock file and the lease; have recipe, numerics and stages of the store, and put them at the end."""
        with super().settling(), self.leases.hold(SETTLING, self.store.sleep) as lease:
            self._held_leases[SETTLING] = lease
            try:
                self.pull()
                yield
                self._push()
            finally:
                del self._held_leases[SETTLING]

    @contextlib.contextmanager
    def claim_part(self, name: str) -> Iterator[bool]:
        """Try to claim a stage: its lock file, then its lease."""
        with super().claim_part(name) as claimed:
            lease = self.leases.take(f".stage-{name}") if claimed else None
            try:
                self._pull_stages()
                yield lease is not None
            finally:
                if lease is not None:
                    self.leases.release(lease)

    def pull(self, discard_recipe: bool = False) -> None:
        """Make recipe, numerics and finished stages in the scratch those of the store, and see what is finished.

        Args:
            discard_recipe: Whether a recipe that the store lacks goes from the scratch too. Otherwise it is that of
                this build, which is put with its first stage or its numerics.
        """
        for name in (RECIPE, NUMERICS):
            data, path = self.store.read_or_none(name), self.directory / name
            if data is None:
                if discard_recipe or name != RECIPE:
                    path.unlink(missing_ok=True)
            elif not path.exists() or read_bytes(path) != data:
                replace_bytes(path, data)
        self._refresh(0)
        if self._stored_shards() and not markers(self.directory):  # all shards have the formats of the first one
            self._fetch_markers([min(self._stored_shards())])
        self._pull_stages()

    def _pull_stages(self) -> None:
        objects = self.store.list(STAGES)
        for proof in sorted(path for path in objects if path.endswith(f"/{DONE}")):
            folder = proof.removesuffix(f"/{DONE}")
            if self._stages.get(folder) == objects[proof].version:
                continue
            text, local = self.store.read(proof), safe_join(self.directory, proof)
            if not local.exists() or read_bytes(local) != text:
                local.unlink(missing_ok=True)
                stage_files = [path for path in objects if path.startswith(f"{folder}/") and path != proof]
                for path in [*stage_files, *_find_concept_files(objects, text)]:
                    target = safe_join(self.directory, path)
                    if not target.exists() or target.stat().st_size != objects[path].size or path in stage_files:
                        self.store.fetch(path, target)
                replace_bytes(local, text)
            self._stages[folder] = objects[proof].version

    def _push(self) -> None:
        """Put what a finished start has settled: the recipe first, the numerics last."""
        if (self.directory / NUMERICS).exists():
            self._put_recipe()
            self._put_file(NUMERICS)
            if (self.directory / PLANNED).exists():
                self.store.create(PLANNED, read_bytes(self.directory / PLANNED))

    def store_stage(self, name: str) -> None:
        """Put a finished stage, its proof last.

        Raises:
            ClaimLost: Another process has taken over.
        """
        self._put_recipe()
        folder, proof = self.directory / STAGES, f"{STAGES}/{name}/{DONE}"
        self.store.delete([proof])
        files = [f"{STAGES}/{path.as_posix()}" for path in _list_files(folder)]
        text = read_bytes(folder / name / DONE)
        stage_files = [key for key in files if key.startswith(f"{STAGES}/{name}/") and key != proof]
        for key in [*stage_files, *_find_concept_files(files, text)]:
            self._check_settling()
            self.store.put(key, self.directory / key)
        self._check_settling()
        self.store.put(proof, text)
        if (entry := self.store.entry(proof)) is not None:
            self._stages[f"{STAGES}/{name}"] = entry.version

    def _check_settling(self) -> None:
        if (lease := self._held_leases.get(SETTLING)) is not None:
            self.leases.check(lease)

    def _put_recipe(self) -> None:
        """Create the recipe, or replace its execution settings if nothing was rendered.

        Raises:
            FiguregroundError: The store holds another recipe.
        """
        text = read_bytes(self.directory / RECIPE)
        self._check_settling()
        if self.store.create(RECIPE, text):
            return
        stored_recipe = parse_json(self.store.read(RECIPE), f"{self.title}/{RECIPE}")
        if stored_recipe["sha256"] != parse_json(text, RECIPE)["sha256"]:
            raise FiguregroundError(f"--out {self.title} holds another recipe. Give another URL, or the same recipe.")
        self._check_settling()
        self.store.put(RECIPE, text)

    def _put_file(self, name: str) -> None:
        data = read_bytes(self.directory / name)
        self._check_settling()
        if not self.store.create(name, data):
            self.store.put(name, data)

    def has_started(self) -> bool:
        """Whether a shard is finished, or a process renders one on any machine; call it within `settling`."""
        return super().has_started() or bool(self._stored_shards()) or not self.is_alone()

    def is_alone(self) -> bool:
        """Whether no other directory holds the lease of a shard; call it within `settling`."""
        self.leases.refresh()
        return not any(not name.startswith(".") for name in self.leases.list_others())

    def is_deserted(self) -> bool:
        if self._stored_shards() or super().has_started():
            return False
        print_note(f"{self.title} was begun with other numerics; checking whether another process is working there.")
        earlier = self.leases.entries("")
        while any(not name.startswith(".") for name in self.leases.list_others()):
            self.store.sleep(self.leases.seconds / BEATS)
            self.leases.refresh()
            entries = self.leases.entries("")
            if any(entries.get(path, entry) != entry for path, entry in earlier.items() if f"/{SETTLING}/" not in path):
                return False
        return not self.store.list(MARKERS)

    def withdraw(self) -> None:
        """Remove recipe and numerics from the store if no shard, no stage and no other build needs them."""
        with contextlib.suppress(StoreError, OSError):
            store = self.store.background(10.0)
            if any(store.list(folder) for folder in (MARKERS, STAGES, JOURNAL)) or store.entry(INDEX):
                return
            leases = {path.split("/")[2] for path in store.list(LEASES)}
            if leases - {BUILDING}:
                return
            store.delete([RECIPE, NUMERICS])

    # --- the end --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def describing(self, images: bool) -> Iterator[bool]:
        with (
            lock(self.directory / _DESCRIBING_LOCK, wait=True),
            self.leases.hold(DESCRIBING, self.store.sleep) as lease,
        ):
            self._refresh(0)
            is_described = self._pull_descriptions()
            if not is_described:
                for name in (RECIPE, NUMERICS):  # another build that failed may have withdrawn them
                    self.store.create(name, read_bytes(self.directory / name))
                self._fetch_markers(self._stored_shards())
                self._compare_sizes()
                if images:
                    self._fetch_images()
            yield not is_described
            if not is_described:
                for path in _list_files(self.directory / STAGES):
                    key = f"{STAGES}/{path.as_posix()}"
                    if path.parts[0] != COPIES and self.store.entry(key) is None:
                        self.store.put(key, self.directory / key)
                scores = [f"{SCORES}/{path}" for path in _list_files(self.directory / SCORES)]
                for name in [*scores, *(name for name in DESCRIPTIONS if (self.directory / name).exists())]:
                    self.leases.check(lease)
                    self.store.put(name, self.directory / name)
            self._clean()

    def _pull_descriptions(self) -> bool:
        """Fetch card and index; return whether they describe the finished dataset."""
        contents = {name: self.store.read_or_none(name) for name in DESCRIPTIONS}
        for name, data in contents.items():
            path = self.directory / name
            if data is None:
                path.unlink(missing_ok=True)
            else:
                replace_bytes(path, data)
        if not all(contents[name] for name in (CARD, CROISSANT, INDEX)):
            return False
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            index = read_object(self.directory / INDEX)
            recipe = read_object(self.directory / RECIPE)
            return (
                index["recipe_sha256"] == recipe["sha256"]
                and {shard["shard"] for shard in index["shards"]} == self._stored_shards()
            )
        return False

    def _fetch_markers(self, names: Iterable[str]) -> None:
        present = markers(self.directory)

        def fetch(name: str) -> None:
            path = f"{MARKERS}/{name}.json"
            replace_bytes(safe_join(self.directory, path), self.store.read(path))

        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fetch") as pool:
            list(pool.map(fetch, [name for name in names if name not in present]))

    def _compare_sizes(self) -> None:
        """Compare the sizes of all data with the markers.

        Raises:
            ShardError: An object is gone or has another size.
        """
        files = {name: file for marker in markers(self.directory).values() for name, file in marker["files"].items()}
        objects: dict[str, ListedObject] = {}
        for folder in sorted({name.rpartition("/")[0] for name in files}):
            objects |= self.store.list(folder)
        differing = [name for name, file in files.items() if name not in objects or objects[name].size != file["bytes"]]
        if differing:
            raise ShardError(
                f"{self.title}: {join_names(differing, 3)} are missing or have other sizes than their markers "
                f"say. Delete their markers in {MARKERS} and what is left of these files, and run the same "
                "command again."
            )

    def _fetch_images(self) -> None:
        for marker in markers(self.directory).values():
            for name, file in marker["files"].items():
                path = safe_join(self.directory, name)
                if path.exists() and path.stat().st_size == file["bytes"] and content_hash(path) == file["sha256"]:
                    continue
                if self.store.fetch(name, path) != file["sha256"] and self.store.fetch(name, path) != file["sha256"]:
                    raise ShardError(f"{self.title}/{name} is damaged: its SHA-256 differs from its marker's.")

    def _clean(self) -> None:
        """Remove data from the scratch, what paused owners of finished shards wrote late, and leases of dead owners."""
        stored = self._stored_shards()
        for marker in markers(self.directory).values():
            if marker["shard"] in stored:
                for name in marker["files"]:
                    (self.directory / name).unlink(missing_ok=True)
        late = [*self.store.list(LEASES), *self.store.list(JOURNAL)]
        leftovers = [path for path in late if path.split("/")[2] in stored]
        self.store.delete([*leftovers, *self.store.list(FAILED), PLANNED])
        self.leases.sweep(self.store.sleep)

    def begin(self) -> None:
        """See anew what the store has; what the scratch has of an unfinished shard stays if it is whole and fits."""
        with lock(self.directory / _DESCRIBING_LOCK, wait=True):  # another process may be reading the markers
            self._record_stored((), replace=True)
            self._refresh(0)
            text, recipe = self.store.read_or_none(RECIPE), self.directory / RECIPE
            fits = (
                text is not None
                and recipe.exists()
                and _read_recipe_hash(text) == _read_recipe_hash(read_bytes(recipe))
            )
            stored = self._stored_shards()
            for name, marker in markers(self.directory).items():
                files = [(self.directory / path, file["bytes"]) for path, file in marker["files"].items()]
                complete = all(path.is_file() and path.stat().st_size == size for path, size in files)
                if name in stored or not (fits and complete):
                    self._discard(Shard.from_marker(marker), marker)
        self.pull(discard_recipe=True)


def _read_recipe_hash(recipe: bytes) -> Any:
    """Return the SHA-256 that a saved recipe records; None if it can't be read."""
    with contextlib.suppress(FileError, KeyError, TypeError):
        return parse_json(recipe, RECIPE)["sha256"]
    return None


def _find_concept_files(files: Iterable[str], proof: bytes) -> list[str]:
    """Return the files of a stage that lie beside its folder: those of the concept that its facts name."""
    with contextlib.suppress(FileError, KeyError, TypeError):
        facts = parse_json(proof, DONE)["facts"]
        if isinstance(facts, dict) and isinstance(facts.get("folder"), str):
            return [path for path in files if path.startswith(f"{STAGES}/concepts/{facts['folder']}/")]
    return []


def _list_files(folder: Path) -> list[Path]:
    """Return the files below a folder, relative to it, without hidden ones."""
    files = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    return [path for path in files if not any(part.startswith(".") for part in path.parts)]
