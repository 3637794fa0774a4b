"""Says in one line what went wrong on the way to the Hugging Face Hub, and what to do."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from figureground.core.errors import FiguregroundError

AGAIN = "What arrived is kept: the same command sends the rest."

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class HubError(FiguregroundError):
    """A dataset that couldn't be published, or not whole."""


@contextlib.contextmanager
def explained(repo_id: str) -> Iterator[None]:
    """Turns what `huggingface_hub` raises into a HubError of one line; the token is in none of them.

    Raises:
        HubError: For any error but our own.
    """
    try:
        yield
    except FiguregroundError:
        raise
    except Exception as error:
        raise HubError(without_token(" ".join(explain(error, repo_id).split()))) from error


def without_token(text: str) -> str:
    """The text, with the token of whoever is logged in left out."""
    from huggingface_hub import get_token

    token = get_token()
    return text.replace(token, "…") if token else text


def transient(error: BaseException) -> bool:
    """Whether trying again in a moment may help."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    for cause in causes(error):
        if isinstance(cause, HfHubHTTPError):
            return cause.response.status_code in (408, 429) or cause.response.status_code >= 500
        if isinstance(cause, httpx2.TransportError):
            return True
    return False


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was raised from."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def explain(error: BaseException, repo_id: str) -> str:
    """What an error of the library means for whoever publishes `repo_id`, and what to do."""
    import httpx2
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    endpoint = constants.ENDPOINT
    for cause in causes(error):
        if isinstance(cause, OfflineModeIsEnabled):
            return f"{repo_id}: the Hub is switched off by HF_HUB_OFFLINE=1. Unset it and push again."
        if isinstance(cause, LocalTokenNotFoundError):
            return _LOGIN.format(repo_id=repo_id, endpoint=endpoint)
        if isinstance(cause, HfHubHTTPError):
            return _answered(cause, repo_id, endpoint)
        if isinstance(cause, httpx2.TransportError):
            said = _short(cause)
            return f"{repo_id}: no connection to {endpoint} ({said}). Look at the network and HF_ENDPOINT. {AGAIN}"
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return (
                f"{repo_id}: {cause.strerror}: {cause.filename or 'the folder for temporary files or the Hub cache'}. "
                f"Make room there, or set TMPDIR and HF_HOME to another disk. {AGAIN}"
            )
    return f"{repo_id}: {_short(error)}. {AGAIN}"


_LOGIN = (
    "{repo_id}: nobody is logged in at {endpoint}, or the token isn't valid there. Make a token with the "
    "right to write, log in with `hf auth login` (or set HF_TOKEN), and push again."
)


def _answered(error: object, repo_id: str, endpoint: str) -> str:
    from huggingface_hub.errors import DisabledRepoError, GatedRepoError, HfHubHTTPError, RevisionNotFoundError

    assert isinstance(error, HfHubHTTPError)
    status = error.response.status_code
    said = f" ({_short(error.server_message)})" if error.server_message else ""
    if status == 401:
        return _LOGIN.format(repo_id=repo_id, endpoint=endpoint)
    if isinstance(error, GatedRepoError):
        return f"{repo_id} is gated{said}. Ask for access on {endpoint}/datasets/{repo_id}, and push again."
    if isinstance(error, DisabledRepoError):
        return f"{repo_id} is disabled on the Hub{said}. Push to another name."
    if isinstance(error, RevisionNotFoundError):
        return f"--revision: {repo_id} has no such branch or pull request{said}."
    if status == 403:
        return (
            f"{repo_id}: the Hub refuses (403{said}). The token has no right to write there: give a token that "
            f"has, push to a name of your own, or propose the files with --create-pr. {AGAIN}"
        )
    if status == 404:
        return (
            f"{repo_id}: not found (404{said}). Look at the name, and whether the token may see a private repository."
        )
    if status in (409, 412):
        return f"{repo_id}: somebody else committed at the same time ({status}{said}). {AGAIN}"
    if status in (402, 413, 507):
        return f"{repo_id}: the Hub takes no more ({status}{said}). Look at the account's storage limits. {AGAIN}"
    if status == 429:
        return f"{repo_id}: too many requests (429{said}). Wait some minutes. {AGAIN}"
    if status >= 500:
        return f"{repo_id}: the Hub has trouble ({status}{said}). Wait some minutes. {AGAIN}"
    return f"{repo_id}: the Hub refuses ({status}{said or ' ' + _short(error)}). {AGAIN}"


def _short(value: object) -> str:
    """A message in one line, with the name of the error where it is one."""
    text = " ".join(str(value).split())
    if isinstance(value, BaseException):
        text = f"{type(value).__name__}: {text}" if text else type(value).__name__
    return text[:300].rstrip(".")
