"""Errors of object stores, told apart by what helps: trying again, other credentials, or another bucket."""

from __future__ import annotations

import asyncio
import errno
import os
import re
from collections.abc import Iterator
from enum import Enum

from figureground.core.errors import FiguregroundError, printable

SECRETS = re.compile(r"(?i)((?:token|secret|password|signature|credential|authorization)[\w-]*\s*[=:]\s*)[^\s&,;]+")
_ENVIRONMENT = re.compile(r"(?i)(secret|token|password|access_key|api_key)")


class StoreError(FiguregroundError):
    """Raised for a store that can't be used."""

    def __init__(self, message: str, fault: Fault | None = None):
        super().__init__(message)
        self.fault = fault


class Fault(Enum):
    """Kinds of errors of a request."""

    ABSENT = "no such object"
    EXISTS = "the object exists"
    NO_BUCKET = "there is no such bucket"
    CREDENTIALS = "the credentials are missing, have expired or are refused"
    DENIED = "access is denied"
    PASSING = "the store doesn't answer, or asks to try again later"
    OTHER = "the request is refused"


_EXPIRED = {
    "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidAccessKeyId", "InvalidToken",
    "SignatureDoesNotMatch", "RequestExpired", "RequestTimeTooSkewed", "InvalidClientTokenId", "UnauthorizedAccess",
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError",
    "SSOTokenLoadError", "UnauthorizedSSOTokenError", "RefreshError", "DefaultCredentialsError",
    "LocalTokenNotFoundError",
}  # fmt: skip
_PASSING = {
    "SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "OperationAborted",
    "ConditionalRequestConflict", "Throttling", "ThrottlingException", "TooManyRequests", "RequestThrottled",
    "HTTPClientError", "ConnectionClosedError",
    "EndpointConnectionError", "ReadTimeoutError", "ConnectTimeoutError", "ResponseParserError", "FSTimeoutError",
    "IncompleteRead", "IncompleteReadError", "ClientPayloadError", "ClientConnectorError", "ClientOSError",
    "ServerDisconnectedError", "ServerTimeoutError", "ConnectError", "ConnectTimeout", "ReadTimeout", "ReadError",
    "WriteError", "RemoteProtocolError", "ChecksumError",
}  # fmt: skip
_PASSING_NUMBERS = {
    errno.EBUSY, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.EPIPE,
    errno.ENETUNREACH, errno.EHOSTUNREACH, getattr(errno, "EREMOTEIO", errno.EIO),
}  # fmt: skip


def classify_error(error: BaseException) -> Fault:
    """Return the kind of an error that a file system of fsspec raised.

    Libraries wrap each other's errors, so the whole chain of causes counts, by the code and the status of the HTTP
    answer if it has them, else by the error's class.
    """
    chain = list(_iterate_causes(error))
    names = {type(cause).__name__ for cause in chain}
    codes = {code for cause in chain if (code := _read_code(cause))}
    statuses = {status for cause in chain if (status := _read_status(cause))}
    if "NoSuchBucket" in codes:
        return Fault.NO_BUCKET
    if isinstance(error, FileExistsError) or "PreconditionFailed" in codes or 412 in statuses:
        return Fault.EXISTS
    if (codes | names) & _EXPIRED or 401 in statuses:
        return Fault.CREDENTIALS
    if (codes | names) & _PASSING or any(status in (408, 409, 429) or status >= 500 for status in statuses):
        return Fault.OTHER if 501 in statuses else Fault.PASSING
    if isinstance(error, FileNotFoundError) or names & {"EntryNotFoundError", "RemoteEntryNotFoundError"}:
        return Fault.ABSENT
    if isinstance(error, PermissionError) or 403 in statuses:
        return Fault.DENIED
    if 404 in statuses or names & {"BucketNotFoundError", "RepositoryNotFoundError"}:
        return Fault.NO_BUCKET
    connection_errors = (ConnectionError, TimeoutError, asyncio.TimeoutError)
    if any(
        isinstance(cause, connection_errors) or getattr(cause, "errno", None) in _PASSING_NUMBERS for cause in chain
    ):
        return Fault.PASSING
    return Fault.OTHER


def redact_error(error: BaseException) -> str:
    """Return an error's text in one line, at most 200 characters, without secrets."""
    text = " ".join(str(error).split()) or type(error).__name__
    for name, value in os.environ.items():
        if len(value) >= 8 and _ENVIRONMENT.search(name):
            text = text.replace(value, "…")
    return printable(SECRETS.sub(r"\1…", text))[:200].rstrip(". ")


def _iterate_causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _read_code(error: BaseException) -> str | None:
    """The code in an answer of S3: `SlowDown`."""
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return str(code) if code else None


def _read_status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = (
            getattr(response, "status_code", None) or getattr(error, "status", None) or getattr(error, "code", None)
        )
    return int(status) if isinstance(status, int) or (isinstance(status, str) and status.isdigit()) else None
