"""URLs of datasets: which are supported, and what each protocol needs. Opens no connection."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from figureground.core.errors import UsageError, printable, suggest_or_list
from figureground.core.extras import hint

_URL = re.compile(r"(?P<protocol>[A-Za-z][A-Za-z0-9+.-]*)://?(?=.)")
_BUCKET_PARTS = {"s3": 1, "s3a": 1, "gs": 1, "gcs": 1, "hf": 3}
"""Number of leading parts of a path that name the bucket; `hf://buckets/USER/NAME` has three."""
_MODULES = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs",
}  # fmt: skip
"""Modules by the protocol that needs them."""
_COPY_COMMANDS = {
    "s3": "aws s3 sync {url} DIR", "gs": "gcloud storage rsync -r {url} DIR",
    "gcs": "gcloud storage rsync -r {url} DIR",
    "hf": "hf buckets sync {url} DIR",
}  # fmt: skip
_UNSUITABLE = (
    "memory",
    "dir",
    "data",
    "local",
    "http",
    "https",
    "zip",
    "tar",
    "cached",
    "filecache",
    "simplecache",
)


@dataclass(frozen=True)
class StoreUrl:
    """The URL of a dataset in an object store."""

    protocol: str
    path: str
    """Bucket and prefix, without a slash at either end."""

    def __str__(self) -> str:
        return f"{self.protocol}://{self.path}"

    @property
    def bucket(self) -> str:
        return "/".join(self.path.split("/")[: _BUCKET_PARTS.get(self.protocol, 1)])

    @property
    def name(self) -> str:
        """The last part of the path, by which the dataset is called."""
        return self.path.rsplit("/", 1)[-1]


def is_url(place: object) -> bool:
    """Whether a text is a URL: `s3://bucket/name`. `s3:/bucket/name`, which `Path` makes of it, counts too."""
    match = _URL.match(str(place))
    return match is not None and len(match["protocol"]) > 1


def parse(place: str) -> StoreUrl | Path:
    """Return the parts of a URL, or the directory that a path or a `file://` URL names.

    Raises:
        UsageError: The URL lacks a bucket or a path, has a password or a query, or its protocol can't hold a dataset.
    """
    match = _URL.match(place)
    if match is None or not is_url(place):
        return Path(place)
    protocol, rest = match["protocol"].lower(), place[match.end() :]
    if protocol == "file":
        return Path(unquote(urlsplit(place).path))
    if "@" in rest.split("/")[0] or "?" in rest or "#" in rest:
        raise UsageError(
            f"{protocol}://…: a URL with a password, a query or a fragment isn't accepted, because URLs are shown and "
            "saved. Give credentials in the environment or in the files of the store's own tools."
        )
    path = re.sub(r"/{2,}", "/", rest).strip("/")
    url = StoreUrl(protocol, path)
    parts = path.split("/")
    if "::" in place or ".." in parts or "." in parts or not path.isprintable():
        raise UsageError(f"{printable(place)}: give a plain URL, such as s3://bucket/name.")
    if protocol in _UNSUITABLE:
        raise UsageError(
            f"{url}: {protocol}:// isn't a store that can hold a dataset. Give a directory, or a URL such as "
            "s3://bucket/name."
        )
    if protocol == "hf" and parts[0] != "buckets":
        raise UsageError(
            f"{url}: a build can't write to a repository of the Hub. Give a bucket, hf://buckets/USER/NAME/…, or "
            "build into a directory and use figureground push."
        )
    if len(parts) <= _BUCKET_PARTS.get(protocol, 1):
        raise UsageError(f"{url}: give a place within the bucket too, such as {str(url).rstrip('/')}/name.")
    return url


def check_installed(url: StoreUrl) -> None:
    """Check that the package of a URL's protocol is installed.

    Raises:
        UsageError: The protocol is unknown, or its package is missing; names the pip command.
    """
    import fsspec
    from fsspec.registry import known_implementations

    if url.protocol not in fsspec.available_protocols():
        known = [name for name in fsspec.available_protocols() if name in (*_MODULES, "hf")]
        raise UsageError(f"{url}: unknown protocol {url.protocol!r}{suggest_or_list(url.protocol, known)}")
    try:
        fsspec.get_filesystem_class(url.protocol)
    except ImportError as error:
        module = _MODULES.get(url.protocol)
        advice = known_implementations.get(url.protocol, {}).get("err", str(error)) if module is None else hint(module)
        raise UsageError(f"{url} needs a package that isn't installed: {advice}.") from None


def describe_copying(place: object) -> str:
    """Return a sentence that says how a dataset at a URL gets into a directory."""
    url = parse(str(place))
    command = _COPY_COMMANDS.get(url.protocol) if isinstance(url, StoreUrl) else None
    return f"Copy it first: {command.format(url=url)}." if command else "Copy it to a directory first."
