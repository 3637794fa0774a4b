"""One-line explanations and remedies for errors of the Hugging Face Hub."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from figureground.core.errors import FiguregroundError

RESUME_ADVICE = "Uploaded files are kept; the same command sends the rest."

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class HubError(FiguregroundError):
    """A dataset couldn't be published, or only in part."""


@contextlib.contextmanager
def explain_errors(repo_id: str) -> Iterator[None]:
    """Turn errors of `huggingface_hub` into a one-line HubError that never contains the token.

    Raises:
        HubError: For any error other than FiguregroundError.
    """
    try:
        yield
    except FiguregroundError:
        raise
    except Exception as error:
        raise HubError(redact_token(" ".join(explain(error, repo_id).split()))) from error


def redact_token(text: str) -> str:
    """Return the text with the current token replaced by an ellipsis."""
    from huggingface_hub import get_token

    token = get_token()
    return text.replace(token, "…") if token else text


def is_transient(error: BaseException) -> bool:
    """Whether a retry may help."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    for cause in iterate_causes(error):
        if isinstance(cause, HfHubHTTPError):
            return cause.response.status_code in (408, 429) or cause.response.status_code >= 500
        if isinstance(cause, httpx2.TransportError):
            return True
    return False


def iterate_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its chain of causes."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def explain(error: BaseException, repo_id: str) -> str:
    """Return the meaning of a library error when publishing `repo_id`, and the remedy."""
    import httpx2
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    endpoint = constants.ENDPOINT
    for cause in iterate_causes(error):
        if isinstance(cause, OfflineModeIsEnabled):
            return f"{repo_id}: access to the Hub is disabled by HF_HUB_OFFLINE=1. Unset it and push again."
        if isinstance(cause, LocalTokenNotFoundError):
            return _LOGIN.format(repo_id=repo_id, endpoint=endpoint)
        if isinstance(cause, HfHubHTTPError):
            return _explain_response(cause, repo_id, endpoint)
        if isinstance(cause, httpx2.TransportError):
            message = _shorten(cause)
            return (
                f"{repo_id}: no connection to {endpoint} ({message}). Check the network and HF_ENDPOINT. "
                f"{RESUME_ADVICE}"
            )
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return (
                f"{repo_id}: {cause.strerror}: {cause.filename or 'the folder for temporary files or the Hub cache'}. "
                f"Free space there, or set TMPDIR and HF_HOME to another disk. {RESUME_ADVICE}"
            )
    return f"{repo_id}: {_shorten(error)}. {RESUME_ADVICE}"


_LOGIN = (
    "{repo_id}: not logged in at {endpoint}, or the token is invalid there. Create a token with write access, log in "
    "with `hf auth login` (or set HF_TOKEN), and push again."
)


def _explain_response(error: object, repo_id: str, endpoint: str) -> str:
    from huggingface_hub.errors import DisabledRepoError, GatedRepoError, HfHubHTTPError, RevisionNotFoundError

    assert isinstance(error, HfHubHTTPError)
    status = error.response.status_code
    detail = f" ({_shorten(error.server_message)})" if error.server_message else ""
    if status == 401:
        return _LOGIN.format(repo_id=repo_id, endpoint=endpoint)
    if isinstance(error, GatedRepoError):
        return f"{repo_id} is gated{detail}. Request access on {endpoint}/datasets/{repo_id}, and push again."
    if isinstance(error, DisabledRepoError):
        return f"{repo_id} is disabled on the Hub{detail}. Push to another name."
    if isinstance(error, RevisionNotFoundError):
        return f"--revision: {repo_id} has no such branch or pull request{detail}."
    if status == 403:
        return (
            f"{repo_id}: access denied (403{detail}). The token has no write access: use one that has, push to a name "
            f"of your own, or propose the files with --create-pr. {RESUME_ADVICE}"
        )
    if status == 404:
        return (
            f"{repo_id}: not found (404{detail}). Check the name, and whether the token can access a private "
            "repository."
        )
    if status in (409, 412):
        return f"{repo_id}: somebody else committed at the same time ({status}{detail}). {RESUME_ADVICE}"
    if status in (402, 413, 507):
        return f"{repo_id}: storage limit reached ({status}{detail}). Check the account's limits. {RESUME_ADVICE}"
    if status == 429:
        return f"{repo_id}: too many requests (429{detail}). Wait a few minutes. {RESUME_ADVICE}"
    if status >= 500:
        return f"{repo_id}: server error on the Hub ({status}{detail}). Wait a few minutes. {RESUME_ADVICE}"
    return f"{repo_id}: the Hub refused the request ({status}{detail or ' ' + _shorten(error)}). {RESUME_ADVICE}"


def _shorten(value: object) -> str:
    """Return a message as one line of at most 300 characters, prefixed with the class name of an error."""
    text = " ".join(str(value).split())
    if isinstance(value, BaseException):
        text = f"{type(value).__name__}: {text}" if text else type(value).__name__
    return text[:300].rstrip(".")
