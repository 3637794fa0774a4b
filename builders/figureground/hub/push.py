"""Publish a finished dataset on the Hugging Face Hub, without ever announcing a partial upload.

Data are sent first, then index and Croissant. The card, which `load_dataset` and the Hub's viewer read, follows only
once all data have arrived with the hashes in the markers. A second run sends only missing files. Login, token and
endpoint are those of `huggingface_hub`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figureground.core.errors import RecipeError, join_names
from figureground.core.files import MAX_JSON_BYTES, parse_json, read_bytes, read_object, read_text
from figureground.hub import card as hub_card
from figureground.hub.errors import AGAIN, HubError, explained, transient
from figureground.hub.manifest import Item, finished, pack
from figureground.recipe.formats import FORMATS
from figureground.shards.card import CARD as README
from figureground.shards.formats.format import folders
from figureground.shards.index import INDEX
from figureground.shards.shard import PRIVATE, PUBLISHED_REJECTS, RECIPE
from figureground.stores.mirror import reading

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

CARD_HERE = f"{PRIVATE}/README.md"
"""Path in the repository of the local card as last pushed; the base for merging later edits of both sides."""

FILES_AT_ONCE = 500
"""Number of files passed to the library together; it commits them in one or several parts."""

TRIES, SECONDS = 3, 2.0
"""Number of upload attempts when the Hub fails, and the first delay in seconds, doubled after each attempt."""

WITHOUT_DATA = (README, ".gitattributes", ".gitignore")

FINDINGS_SHOWN = 5


def push(
    directory: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    formats: Sequence[str] | None = None,
    show_progress: bool = True,
) -> str:
    """Check a finished dataset completely, then upload the files that the Hub lacks.

    If a smaller version of the dataset is already published, new shards appear before the card counts them. With
    `create_pr` or another branch, readers see neither before the merge.

    Args:
        directory: The dataset's directory; or the URL of a build, whose files are fetched into the user's cache.
        repo_id: `user/name`; the repository is created if it doesn't exist.
        private: Whether to create the repository as private; an existing public one is refused.
        revision: A branch, created from `main` if it doesn't exist, or a pull request, `refs/pr/3`.
        create_pr: Whether to propose the files in a pull request; a second run continues the open one.
        formats: Some of the dataset's formats; None means all. `load_dataset` must read one of them.
        show_progress: Whether to show progress on stderr.

    Returns:
        The URL of the dataset, of its branch or of the pull request.

    Raises:
        RecipeError: A name, branch or format is invalid, or `load_dataset` reads none of the formats.
        HubError: The check has findings, the repository holds something else, or the Hub is unreachable, refuses, or
            holds other bytes than were sent. Uploaded files are kept: the next run sends the rest.
        FiguregroundError: The dataset isn't finished, or its card and the one on the Hub conflict.
    """
    _refuse_wrong_use(repo_id, revision, create_pr, formats)
    with reading(directory, show_progress) as local:
        return _push(local, repo_id, private, revision, create_pr, formats, show_progress)


def _push(
    directory: Path, repo_id: str, private: bool, revision: str | None, create_pr: bool, formats: Sequence[str] | None,
    show_progress: bool,
) -> str:  # fmt: skip
    from huggingface_hub import HfApi

    finished(directory)
    api = HfApi(library_name="figureground")
    with explained(repo_id):
        user = api.whoami()["name"]  # fail on a missing login before the long check
    before = _described(directory)
    _check(directory, show_progress)
    with (
        explained(repo_id),
        tempfile.TemporaryDirectory(prefix="figureground-push-") as scratch,
        _progress(show_progress),
    ):
        manifest = Path(scratch) / "manifest"
        manifest.mkdir()
        items = pack(directory, formats, manifest)
        if _described(directory) != before:
            raise HubError(
                f"{directory} was changed by another process during the check ({INDEX} or {RECIPE} differs). "
                "Nothing was sent. Push it again."
            )
        return _publish(api, repo_id, items, Path(scratch), user, private, revision, create_pr)


def _refuse_wrong_use(repo_id: str, revision: str | None, create_pr: bool, formats: Sequence[str] | None) -> None:
    from huggingface_hub.errors import HFValidationError

    # Public, but missing from the module's list of exports.
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise RecipeError("USER/NAME", f"{repo_id!r} is not a valid name: {' '.join(str(error).split())}") from None
    if repo_id.count("/") != 1:
        raise RecipeError("USER/NAME", f"{repo_id!r} lacks the user or organization, such as ada/{repo_id}.")
    if create_pr and revision not in (None, "main"):
        raise RecipeError(
            "--create-pr", f"pull requests target main, not {revision!r}. Give only one of --create-pr and --revision."
        )
    if revision is not None and (not revision or revision.isspace() or ".." in revision):
        raise RecipeError("--revision", f"{revision!r} isn't a valid branch name.")
    if unknown := sorted(set(formats or ()) - set(FORMATS.names())):
        known = join_names(FORMATS.names())
        raise RecipeError("--formats", f"unknown format {join_names(map(repr, unknown))}; known are {known}.")


def _described(directory: Path) -> list[bytes]:
    """Return the bytes of index and recipe, which change if an extension finishes meanwhile."""
    return [read_bytes(directory / name, root=directory, max_bytes=MAX_JSON_BYTES) for name in (INDEX, RECIPE)]


def _check(directory: Path, show_progress: bool) -> None:
    from figureground.checking.dataset import check

    findings = check(directory, show_progress=show_progress).findings
    if findings:
        first = "\n  ".join(findings[:FINDINGS_SHOWN])
        more = f"\n  … and {len(findings) - FINDINGS_SHOWN} more" if len(findings) > FINDINGS_SHOWN else ""
        raise HubError(
            f"{directory} was not pushed: check reported {len(findings)} finding{'s'[: len(findings) > 1]}:\n  "
            f"{first}{more}\n`figureground check {directory}` lists all."
        )


@contextlib.contextmanager
def _progress(show: bool) -> Iterator[None]:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if show or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _publish(
    api: HfApi,
    repo_id: str,
    items: Sequence[Item],
    scratch: Path,
    user: str,
    private: bool,
    revision: str | None,
    create_pr: bool,
) -> str:
    url = str(api.create_repo(repo_id, repo_type="dataset", private=private or None, exist_ok=True))
    if private and not api.dataset_info(repo_id).private:
        raise HubError(
            f"{repo_id} exists and is public, so nothing was sent. Make it private on {url}/settings, or omit "
            "--private."
        )
    target, address = _target(api, repo_id, url, revision)
    title = f"figureground dataset {_recipe(items)['sha256'][:12]}"
    there = _listing(api, repo_id, target)
    pull = _open_pull(api, repo_id, title, user) if create_pr else None
    if pull:
        target, address = pull
        there = _listing(api, repo_id, target)
    _refuse_strangers(api, repo_id, target, items, there, scratch)
    cards = _joint_card(api, repo_id, target, items, there, scratch)
    items = [item for item in items if item.path != README]
    if create_pr and pull is None:
        if not _lacking([*items, *cards], there):
            return url  # nothing to propose
        made = api.create_pull_request(repo_id, title, repo_type="dataset")
        assert made.git_reference is not None
        target, address = made.git_reference, made.url
    for _, group in itertools.groupby(_lacking(items, there), key=lambda item: item.turn):
        batch = list(group)
        for start in range(0, len(batch), FILES_AT_ONCE):
            _hand_over(api, repo_id, target, batch[start : start + FILES_AT_ONCE], scratch / "staging")
    _compare(repo_id, items, _listing(api, repo_id, target))
    _hand_over(api, repo_id, target, _lacking(cards, there), scratch / "staging")
    there = _listing(api, repo_id, target)
    _compare(repo_id, [*items, *cards], there)
    ours = {item.path for item in items}
    if intruders := sorted(path for path in there if _is_data(path) and path not in ours):
        raise HubError(
            f"{repo_id}: somebody else uploaded {join_names(intruders, 3)} at the same time, which would be read as "
            "part of this dataset. Delete files that don't belong there, and push again."
        )
    return address


def _target(api: HfApi, repo_id: str, url: str, revision: str | None) -> tuple[str, str]:
    """Return the branch to commit to, creating it if needed, and its URL."""
    if revision in (None, "main"):
        return "main", url
    if not revision.startswith("refs/"):
        api.create_branch(repo_id, branch=revision, repo_type="dataset", exist_ok=True)
    number = revision.removeprefix("refs/pr/")
    return revision, f"{url}/discussions/{number}" if number.isdecimal() else f"{url}/tree/{revision}"


def _open_pull(api: HfApi, repo_id: str, title: str, user: str) -> tuple[str, str] | None:
    """Return the branch and URL of the pull request that an earlier run opened for the same recipe, or None."""
    found = api.get_repo_discussions(repo_id, author=user, discussion_type="pull_request", repo_type="dataset")
    for pull in found:
        if pull.title == title and pull.author == user and pull.status in ("open", "draft") and pull.git_reference:
            return pull.git_reference, pull.url
    return None


def _listing(api: HfApi, repo_id: str, revision: str) -> dict[str, RepoFile]:
    from huggingface_hub.hf_api import RepoFile

    tree = api.list_repo_tree(repo_id, recursive=True, revision=revision, repo_type="dataset")
    return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}


def _is_data(path: str) -> bool:
    return path.startswith(tuple(f"{folder}/" for folder in (*folders(), PUBLISHED_REJECTS)))


def _same(item: Item, there: RepoFile | None) -> bool:
    if there is None or there.size != item.size:
        return False
    return there.lfs.sha256 == item.sha256 if there.lfs else there.blob_id == item.blob


def _lacking(items: Iterable[Item], there: Mapping[str, RepoFile]) -> list[Item]:
    return [item for item in items if not _same(item, there.get(item.path))]


def _download(api: HfApi, repo_id: str, revision: str, path: str, scratch: Path) -> str:
    at = api.hf_hub_download(
        repo_id, path, repo_type="dataset", revision=revision, local_dir=scratch / "there", force_download=True
    )
    return read_text(Path(at))


def _recipe(items: Iterable[Item]) -> dict[str, Any]:
    item = next(item for item in items if item.path == RECIPE)
    return read_object(item.file)


# Existing contents of the repository


def _refuse_strangers(
    api: HfApi, repo_id: str, revision: str, items: Sequence[Item], there: Mapping[str, RepoFile], scratch: Path
) -> None:
    """Refuse a repository whose data wouldn't be exactly this dataset after the push.

    A different recipe is accepted if all data there also belong to this dataset: it was extended, or the published one
    is a part of it.
    """
    ours = {item.path: item for item in items}
    data = [path for path in there if _is_data(path)]
    elsewhere = f"Push to another name, or delete the contents of {repo_id}."
    if RECIPE not in there:
        others = [path for path in there if path not in WITHOUT_DATA and not path.upper().startswith("LICEN")]
        if others:
            raise HubError(
                f"{repo_id} holds something else ({join_names(sorted(others), 3)}) and wasn't changed. {elsewhere}"
            )
        return
    strangers = sorted(path for path in data if path not in ours)
    differing = [path for path in data if path in ours and not _same(ours[path], there[path])]
    if _same(ours[RECIPE], there[RECIPE]):
        same = True
    else:
        try:
            same = (
                parse_json(_download(api, repo_id, revision, RECIPE, scratch), RECIPE).get("sha256")
                == _recipe(items)["sha256"]
            )
        except (ValueError, AttributeError):
            raise HubError(f"{repo_id}: its {RECIPE} can't be read. {elsewhere}") from None
    if not same and (strangers or differing or not data):
        raise HubError(
            f"{repo_id} holds a dataset with another recipe and wasn't changed; a repository holds one. {elsewhere}"
        )
    if strangers:
        kinds = {path.split("/")[0] for path in strangers}
        unsent = kinds - {path.split("/")[0] for path in ours}
        advice = (
            "Push all formats that it holds (omit --formats)"
            if unsent == kinds
            else f"Delete them there, push to another name, or extend the dataset that {repo_id} holds"
        )
        raise HubError(
            f"{repo_id} holds shards that aren't in this dataset and would be read as part of it: "
            f"{join_names(strangers, 3)}. {advice}."
        )


def _joint_card(
    api: HfApi, repo_id: str, revision: str, items: Sequence[Item], there: Mapping[str, RepoFile], scratch: Path
) -> list[Item]:
    """Return the card to publish, with the Hub's edits, and the local card as the base for the next push."""
    here = next(item for item in items if item.path == README)
    base = Item(CARD_HERE, here.file)
    if README not in there or _same(here, there[README]):
        return [base, here]
    text = _download(api, repo_id, revision, README, scratch)
    before = _download(api, repo_id, revision, CARD_HERE, scratch) if CARD_HERE in there else None
    joint = scratch / "manifest" / "joint.md"
    joint.write_text(hub_card.join(read_text(here.file), text, before), encoding="utf-8")
    return [base, Item(README, joint)]


# Sending


def _hand_over(api: HfApi, repo_id: str, revision: str, items: Sequence[Item], staging: Path) -> None:
    """Upload files through a folder of links to them; retry if the Hub or the network fails."""
    if not items:
        return
    for item in items:
        link = staging / item.path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(item.file.absolute())
    names = items[0].path if len(items) == 1 else f"{len(items)} files"
    for attempt in itertools.count(1):
        try:
            api.upload_folder(
                repo_id=repo_id, folder_path=staging, repo_type="dataset", revision=revision,
                commit_message=f"figureground: {names}",
            )  # fmt: skip
            break
        except Exception as error:
            if attempt == TRIES or not transient(error):
                raise
            time.sleep(SECONDS * 2 ** (attempt - 1))
    shutil.rmtree(staging)


def _compare(repo_id: str, items: Iterable[Item], there: Mapping[str, RepoFile]) -> None:
    """Check that the Hub holds the sent files.

    Raises:
        HubError: A file is missing on the Hub or has another size or hash.
    """
    wrong = [
        f"{item.path} is missing" if item.path not in there else f"{item.path} differs"
        for item in _lacking(items, there)
    ]
    if wrong:
        raise HubError(
            f"{repo_id}: after the upload, the Hub doesn't match the sent files: {join_names(wrong, 3)}. Either they "
            f"were changed meanwhile, or the repository's .gitignore excludes them. {AGAIN}"
        )
