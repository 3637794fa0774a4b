"""Publishes a finished dataset on the Hugging Face Hub, so that a half upload is never announced.

Data go first, then index and Croissant, and the card, which tells `load_dataset` and the Hub's viewer of the data,
only once all of it has arrived as the markers say. A second run sends only what is missing. Login, token and endpoint
are those of `huggingface_hub`.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figureground.core.errors import RecipeError, listed
from figureground.core.files import MOST_JSON, parse_json, read_bytes, read_object, read_text
from figureground.hub import card as hub_card
from figureground.hub.errors import AGAIN, HubError, explained, transient
from figureground.hub.parcel import Item, finished, pack
from figureground.shards.card import CARD as README
from figureground.shards.index import INDEX
from figureground.shards.writer import FORMATS, PRIVATE, PUBLISHED_REJECTS, RECIPE

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

CARD_HERE = f"{PRIVATE}/README.md"
"""In the repository, the card as it was in the directory when it was last pushed: who changed what is told by it."""

FILES_AT_ONCE = 500
"""Files that are handed over to the library together; it commits them in one or several parts."""

TRIES, SECONDS = 3, 2.0
"""How often files are handed over when the Hub has trouble, and how long is waited first; then twice as long."""

DATA = ("data/", "webdataset/", f"{PUBLISHED_REJECTS}/")
WITHOUT_DATA = (README, ".gitattributes", ".gitignore")

FINDINGS_SHOWN = 5


def push(
    directory: Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    formats: Sequence[str] | None = None,
    show_progress: bool = True,
) -> str:
    """Uploads what the Hub lacks of a finished dataset, after a check of all of it.

    Where an earlier extent of the dataset is published already, new shards lie beside a card that doesn't count them
    until the end; with `create_pr` or another branch, readers see neither before the whole is merged.

    Args:
        directory: The dataset's directory.
        repo_id: `user/name`; the repository is created where there is none.
        private: Whether a repository that is created is private; one that is public is refused.
        revision: A branch, created from `main` where there is none, or a pull request, `refs/pr/3`.
        create_pr: Propose the files in a pull request; a second run goes on with the one that is open.
        formats: `parquet` or `webdataset` alone; None means all that the dataset has.
        show_progress: Whether progress is drawn on stderr.

    Returns:
        The address of the dataset, of its branch or of the pull request.

    Raises:
        RecipeError: A name, branch or format that can't be used.
        HubError: The check found something, the repository holds something else, or the Hub couldn't be
            reached, refused, or holds other bytes than were sent. Nothing that arrived is lost: the next run
            sends the rest.
        FiguregroundError: The dataset isn't finished, or its card and the one on the Hub contradict each other.
    """
    from huggingface_hub import HfApi

    directory = Path(directory)
    _refuse_wrong_use(repo_id, revision, create_pr, formats)
    finished(directory)
    api = HfApi(library_name="figureground")
    with explained(repo_id):
        user = api.whoami()["name"]  # a check may take long: say now that nobody is logged in
    before = _described(directory)
    _check(directory, show_progress)
    with (
        explained(repo_id),
        tempfile.TemporaryDirectory(prefix="figureground-push-") as scratch,
        _progress(show_progress),
    ):
        parcel = Path(scratch) / "parcel"
        parcel.mkdir()
        items = pack(directory, formats, parcel)
        if _described(directory) != before:
            raise HubError(
                f"{directory} was changed by another process while it was checked ({INDEX} or {RECIPE} is another). "
                "Nothing was sent. Push it again."
            )
        return _publish(api, repo_id, items, Path(scratch), user, private, revision, create_pr)


def _refuse_wrong_use(repo_id: str, revision: str | None, create_pr: bool, formats: Sequence[str] | None) -> None:
    from huggingface_hub.errors import HFValidationError

    # Public, and missing from the list of what the module exports.
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise RecipeError("USER/NAME", f"{repo_id!r} is no name on the Hub: {' '.join(str(error).split())}") from None
    if repo_id.count("/") != 1:
        raise RecipeError("USER/NAME", f"{repo_id!r}: give the user or organization too, as in ada/{repo_id}.")
    if create_pr and revision not in (None, "main"):
        raise RecipeError(
            "--create-pr", f"a pull request is made against main, not against {revision!r}. Give one of the two."
        )
    if revision is not None and (not revision or revision.isspace() or ".." in revision):
        raise RecipeError("--revision", f"{revision!r} is no name of a branch.")
    if unknown := sorted(set(formats or ()) - set(FORMATS)):
        raise RecipeError("--formats", f"there is no {listed(map(repr, unknown))}; there is {listed(FORMATS)}.")


def _described(directory: Path) -> list[bytes]:
    """What says which shards there are: an extension that ends meanwhile changes it."""
    return [read_bytes(directory / name, root=directory, most=MOST_JSON) for name in (INDEX, RECIPE)]


def _check(directory: Path, show_progress: bool) -> None:
    from figureground.checking.dataset import check

    findings = check(directory, show_progress=show_progress).findings
    if findings:
        first = "\n  ".join(findings[:FINDINGS_SHOWN])
        more = f"\n  … and {len(findings) - FINDINGS_SHOWN} more" if len(findings) > FINDINGS_SHOWN else ""
        raise HubError(
            f"{directory} was not pushed: check found {len(findings)} thing{'s'[: len(findings) > 1]} wrong:\n  "
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
            f"{repo_id} exists and is public, so nothing was sent. Make it private on {url}/settings, or leave out "
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
            _hand_over(api, repo_id, target, batch[start : start + FILES_AT_ONCE], scratch / "outbox")
    _compare(repo_id, items, _listing(api, repo_id, target))
    _hand_over(api, repo_id, target, _lacking(cards, there), scratch / "outbox")
    there = _listing(api, repo_id, target)
    _compare(repo_id, [*items, *cards], there)
    ours = {item.path for item in items}
    if intruders := sorted(path for path in there if path.startswith(DATA) and path not in ours):
        raise HubError(
            f"{repo_id}: somebody else sent {listed(intruders, 3)} at the same time, which would be read as part of "
            "this dataset. Delete what doesn't belong there, and push again."
        )
    return address


def _target(api: HfApi, repo_id: str, url: str, revision: str | None) -> tuple[str, str]:
    """The branch to commit to, which is there afterwards, and its address."""
    if revision in (None, "main"):
        return "main", url
    if not revision.startswith("refs/"):
        api.create_branch(repo_id, branch=revision, repo_type="dataset", exist_ok=True)
    number = revision.removeprefix("refs/pr/")
    return revision, f"{url}/discussions/{number}" if number.isdecimal() else f"{url}/tree/{revision}"


def _open_pull(api: HfApi, repo_id: str, title: str, user: str) -> tuple[str, str] | None:
    """The pull request that an earlier run opened for the same recipe: its branch and its address."""
    found = api.get_repo_discussions(repo_id, author=user, discussion_type="pull_request", repo_type="dataset")
    for pull in found:
        if pull.title == title and pull.author == user and pull.status in ("open", "draft") and pull.git_reference:
            return pull.git_reference, pull.url
    return None


def _listing(api: HfApi, repo_id: str, revision: str) -> dict[str, RepoFile]:
    from huggingface_hub.hf_api import RepoFile

    tree = api.list_repo_tree(repo_id, recursive=True, revision=revision, repo_type="dataset")
    return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}


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


# What may already be there


def _refuse_strangers(
    api: HfApi, repo_id: str, revision: str, items: Sequence[Item], there: Mapping[str, RepoFile], scratch: Path
) -> None:
    """Refuses a repository whose data wouldn't be this dataset afterwards.

    Another recipe is let pass if all data there are this dataset's too: it was extended, or the one there is a
    part of it.
    """
    ours = {item.path: item for item in items}
    data = [path for path in there if path.startswith(DATA)]
    elsewhere = f"Push to another name, or delete what {repo_id} holds."
    if RECIPE not in there:
        others = [path for path in there if path not in WITHOUT_DATA and not path.upper().startswith("LICEN")]
        if others:
            raise HubError(
                f"{repo_id} holds something else ({listed(sorted(others), 3)}) and was left as it is. {elsewhere}"
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
            f"{repo_id} holds a dataset of another recipe and was left as it is; a repository holds one. {elsewhere}"
        )
    if strangers:
        kinds = {path.split("/")[0] for path in strangers}
        unsent = kinds - {path.split("/")[0] for path in ours}
        advice = (
            "Push all formats that it holds (leave out --formats)"
            if unsent == kinds
            else f"Delete them there, push to another name, or extend the dataset that {repo_id} holds"
        )
        raise HubError(
            f"{repo_id} holds shards that aren't in this dataset and would be read as part of it: "
            f"{listed(strangers, 3)}. {advice}."
        )


def _joint_card(
    api: HfApi, repo_id: str, revision: str, items: Sequence[Item], there: Mapping[str, RepoFile], scratch: Path
) -> list[Item]:
    """The card to publish, with what was written on the Hub, and the card as it is here, for the next time."""
    here = next(item for item in items if item.path == README)
    base = Item(CARD_HERE, here.file)
    if README not in there or _same(here, there[README]):
        return [base, here]
    text = _download(api, repo_id, revision, README, scratch)
    before = _download(api, repo_id, revision, CARD_HERE, scratch) if CARD_HERE in there else None
    joint = scratch / "parcel" / "joint.md"
    joint.write_text(hub_card.join(read_text(here.file), text, before), encoding="utf-8")
    return [base, Item(README, joint)]


# Sending


def _hand_over(api: HfApi, repo_id: str, revision: str, items: Sequence[Item], outbox: Path) -> None:
    """Uploads files, from a folder of links to them; tries again when the Hub or the network has trouble."""
    if not items:
        return
    for item in items:
        link = outbox / item.path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(item.file.absolute())
    names = items[0].path if len(items) == 1 else f"{len(items)} files"
    for attempt in itertools.count(1):
        try:
            api.upload_folder(
                repo_id=repo_id, folder_path=outbox, repo_type="dataset", revision=revision,
                commit_message=f"figureground: {names}",
            )  # fmt: skip
            break
        except Exception as error:
            if attempt == TRIES or not transient(error):
                raise
            time.sleep(SECONDS * 2 ** (attempt - 1))
    shutil.rmtree(outbox)


def _compare(repo_id: str, items: Iterable[Item], there: Mapping[str, RepoFile]) -> None:
    """Makes sure that the Hub holds what was sent.

    Raises:
        HubError: A file is missing there or has another size or hash.
    """
    wrong = [
        f"{item.path} is missing" if item.path not in there else f"{item.path} differs"
        for item in _lacking(items, there)
    ]
    if wrong:
        raise HubError(
            f"{repo_id}: after the upload the Hub doesn't hold what was sent: {listed(wrong, 3)}. Either the files "
            f"were changed meanwhile, or the repository's .gitignore leaves them out. {AGAIN}"
        )
