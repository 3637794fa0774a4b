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
from figureground.hub.errors import RESUME_ADVICE, HubError, explain_errors, is_transient
from figureground.hub.manifest import PublishedFile, open_finished, select_files
from figureground.recipe.formats import FORMATS
from figureground.shards.card_file import CARD as README
from figureground.shards.formats.format import list_folders
from figureground.shards.index import INDEX
from figureground.shards.shard import PRIVATE, PUBLISHED_REJECTS, RECIPE
from figureground.stores.mirror import local_copy

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

PUSHED_CARD = f"{PRIVATE}/README.md"
"""Path in the repository of the local card as last pushed; the base for merging later edits of both sides."""

FILES_AT_ONCE = 500
"""Number of files passed to the library together; it commits them in one or several parts."""

TRIES, SECONDS = 3, 2.0
"""Number of upload attempts when the Hub fails, and the first delay in seconds, doubled after each attempt."""

EMPTY_REPOSITORY_FILES = (README, ".gitattributes", ".gitignore")

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

    If a smaller version of the dataset is already published, its card doesn't name the new shards, so readers load the
    smaller version until the new card, which is sent last. With `create_pr` or another branch, they see no new file
    before the merge.

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
    with local_copy(directory, show_progress) as local:
        return _push(local, repo_id, private, revision, create_pr, formats, show_progress)


def _push(
    directory: Path, repo_id: str, private: bool, revision: str | None, create_pr: bool, formats: Sequence[str] | None,
    show_progress: bool,
) -> str:  # fmt: skip
    from huggingface_hub import HfApi

    open_finished(directory)
    api = HfApi(library_name="figureground")
    with explain_errors(repo_id):
        user = api.whoami()["name"]  # fail on a missing login before the long check
    before = _read_descriptions(directory)
    _require_no_findings(directory, show_progress)
    with (
        explain_errors(repo_id),
        tempfile.TemporaryDirectory(prefix="figureground-push-") as scratch,
        _progress(show_progress),
    ):
        manifest = Path(scratch) / "manifest"
        manifest.mkdir()
        items = select_files(directory, formats, manifest)
        if _read_descriptions(directory) != before:
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


def _read_descriptions(directory: Path) -> list[bytes]:
    """Return the bytes of index and recipe, which change if an extension finishes meanwhile."""
    return [read_bytes(directory / name, root=directory, max_bytes=MAX_JSON_BYTES) for name in (INDEX, RECIPE)]


def _require_no_findings(directory: Path, show_progress: bool) -> None:
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
    items: Sequence[PublishedFile],
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
    target, address = _resolve_target(api, repo_id, url, revision)
    title = f"figureground dataset {_read_recipe(items)['sha256'][:12]}"
    remote_files = _list_files(api, repo_id, target)
    pull_request = _find_pull_request(api, repo_id, title, user) if create_pr else None
    if pull_request:
        target, address = pull_request
        remote_files = _list_files(api, repo_id, target)
    _refuse_other_contents(api, repo_id, target, items, remote_files, scratch)
    cards = _merge_cards(api, repo_id, target, items, remote_files, scratch)
    items = [item for item in items if item.path != README]
    if create_pr and pull_request is None:
        if not _find_unsent([*items, *cards], remote_files):
            return url  # nothing to propose
        created = api.create_pull_request(repo_id, title, repo_type="dataset")
        assert created.git_reference is not None
        target, address = created.git_reference, created.url
    for _, group in itertools.groupby(_find_unsent(items, remote_files), key=lambda item: item.upload_rank):
        batch = list(group)
        for start in range(0, len(batch), FILES_AT_ONCE):
            _upload(api, repo_id, target, batch[start : start + FILES_AT_ONCE], scratch / "staging")
    _check_uploaded(repo_id, items, _list_files(api, repo_id, target))
    _upload(api, repo_id, target, _find_unsent(cards, remote_files), scratch / "staging")
    remote_files = _list_files(api, repo_id, target)
    _check_uploaded(repo_id, [*items, *cards], remote_files)
    ours = {item.path for item in items}
    if intruders := sorted(path for path in remote_files if _is_data(path) and path not in ours):
        raise HubError(
            f"{repo_id}: somebody else uploaded {join_names(intruders, 3)} at the same time, which would be read as "
            "part of this dataset. Delete files that don't belong there, and push again."
        )
    return address


def _resolve_target(api: HfApi, repo_id: str, url: str, revision: str | None) -> tuple[str, str]:
    """Return the branch to commit to, creating it if needed, and its URL."""
    if revision in (None, "main"):
        return "main", url
    if not revision.startswith("refs/"):
        api.create_branch(repo_id, branch=revision, repo_type="dataset", exist_ok=True)
    number = revision.removeprefix("refs/pr/")
    return revision, f"{url}/discussions/{number}" if number.isdecimal() else f"{url}/tree/{revision}"


def _find_pull_request(api: HfApi, repo_id: str, title: str, user: str) -> tuple[str, str] | None:
    """Return the branch and URL of the pull request that an earlier run opened for the same recipe, or None."""
    discussions = api.get_repo_discussions(repo_id, author=user, discussion_type="pull_request", repo_type="dataset")
    for pull_request in discussions:
        is_ours = pull_request.title == title and pull_request.author == user
        if is_ours and pull_request.status in ("open", "draft") and pull_request.git_reference:
            return pull_request.git_reference, pull_request.url
    return None


def _list_files(api: HfApi, repo_id: str, revision: str) -> dict[str, RepoFile]:
    from huggingface_hub.hf_api import RepoFile

    tree = api.list_repo_tree(repo_id, recursive=True, revision=revision, repo_type="dataset")
    return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}


def _is_data(path: str) -> bool:
    return path.startswith(tuple(f"{folder}/" for folder in (*list_folders(), PUBLISHED_REJECTS)))


def _is_same(item: PublishedFile, remote: RepoFile | None) -> bool:
    if remote is None or remote.size != item.size:
        return False
    return remote.lfs.sha256 == item.sha256 if remote.lfs else remote.blob_id == item.blob


def _find_unsent(items: Iterable[PublishedFile], remote_files: Mapping[str, RepoFile]) -> list[PublishedFile]:
    return [item for item in items if not _is_same(item, remote_files.get(item.path))]


def _download(api: HfApi, repo_id: str, revision: str, path: str, scratch: Path) -> str:
    local_path = api.hf_hub_download(
        repo_id, path, repo_type="dataset", revision=revision, local_dir=scratch / "there", force_download=True
    )
    return read_text(Path(local_path))


def _read_recipe(items: Iterable[PublishedFile]) -> dict[str, Any]:
    item = next(item for item in items if item.path == RECIPE)
    return read_object(item.file)


# Existing contents of the repository


def _refuse_other_contents(
    api: HfApi,
    repo_id: str,
    revision: str,
    items: Sequence[PublishedFile],
    remote_files: Mapping[str, RepoFile],
    scratch: Path,
) -> None:
    """Refuse a repository whose data wouldn't be exactly this dataset after the push.

    A different recipe is accepted if all data there also belong to this dataset: it was extended, or the published one
    is a part of it.
    """
    ours = {item.path: item for item in items}
    data = [path for path in remote_files if _is_data(path)]
    remedy = f"Push to another name, or delete the contents of {repo_id}."
    if RECIPE not in remote_files:
        other_files = [
            path for path in remote_files if path not in EMPTY_REPOSITORY_FILES and not path.upper().startswith("LICEN")
        ]
        if other_files:
            raise HubError(
                f"{repo_id} holds something else ({join_names(sorted(other_files), 3)}) and wasn't changed. {remedy}"
            )
        return
    unknown = sorted(path for path in data if path not in ours)
    differing = [path for path in data if path in ours and not _is_same(ours[path], remote_files[path])]
    if _is_same(ours[RECIPE], remote_files[RECIPE]):
        same_recipe = True
    else:
        try:
            same_recipe = (
                parse_json(_download(api, repo_id, revision, RECIPE, scratch), RECIPE).get("sha256")
                == _read_recipe(items)["sha256"]
            )
        except (ValueError, AttributeError):
            raise HubError(f"{repo_id}: its {RECIPE} can't be read. {remedy}") from None
    if not same_recipe and (unknown or differing or not data):
        raise HubError(
            f"{repo_id} holds a dataset with another recipe and wasn't changed; a repository holds one. {remedy}"
        )
    if unknown:
        kinds = {path.split("/")[0] for path in unknown}
        unsent = kinds - {path.split("/")[0] for path in ours}
        advice = (
            "Push all formats that it holds (omit --formats)"
            if unsent == kinds
            else f"Delete them there, push to another name, or extend the dataset that {repo_id} holds"
        )
        raise HubError(
            f"{repo_id} holds shards that aren't in this dataset and would be read as part of it: "
            f"{join_names(unknown, 3)}. {advice}."
        )


def _merge_cards(
    api: HfApi,
    repo_id: str,
    revision: str,
    items: Sequence[PublishedFile],
    remote_files: Mapping[str, RepoFile],
    scratch: Path,
) -> list[PublishedFile]:
    """Return the card to publish, with the Hub's edits, and the local card as the base for the next push."""
    local_card = next(item for item in items if item.path == README)
    base = PublishedFile(PUSHED_CARD, local_card.file)
    if README not in remote_files or _is_same(local_card, remote_files[README]):
        return [base, local_card]
    text = _download(api, repo_id, revision, README, scratch)
    before = _download(api, repo_id, revision, PUSHED_CARD, scratch) if PUSHED_CARD in remote_files else None
    merged = scratch / "manifest" / "joint.md"
    merged.write_text(hub_card.merge_cards(read_text(local_card.file), text, before), encoding="utf-8")
    return [base, PublishedFile(README, merged)]


# Sending


def _upload(api: HfApi, repo_id: str, revision: str, items: Sequence[PublishedFile], staging: Path) -> None:
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
            if attempt == TRIES or not is_transient(error):
                raise
            time.sleep(SECONDS * 2 ** (attempt - 1))
    shutil.rmtree(staging)


def _check_uploaded(repo_id: str, items: Iterable[PublishedFile], remote_files: Mapping[str, RepoFile]) -> None:
    """Check that the Hub holds the sent files.

    Raises:
        HubError: A file is missing on the Hub or has another size or hash.
    """
    wrong = [
        f"{item.path} is missing" if item.path not in remote_files else f"{item.path} differs"
        for item in _find_unsent(items, remote_files)
    ]
    if wrong:
        raise HubError(
            f"{repo_id}: after the upload, the Hub doesn't match the sent files: {join_names(wrong, 3)}. Either "
            f"they were changed meanwhile, or the repository's .gitignore excludes them. {RESUME_ADVICE}"
        )
