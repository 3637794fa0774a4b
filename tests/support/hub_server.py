"""A small Hub on loopback for tests: repositories of datasets, their commits and files, over the Hub's own HTTP calls.

It speaks what `huggingface_hub`, `datasets` and `webdataset` ask for when a dataset is published and read back:
creating repositories and branches, pull requests, commits, LFS and Xet uploads, listings, downloads in ranges.
Faults can be set for any call. What was received is kept in `Hub.received`, what was asked in `Hub.requests`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import re
import shutil
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

LFS_SUFFIXES = (".parquet", ".tar", ".png", ".jpg", ".webp", ".zip")
LFS_BYTES = 10 * 2**20
PAGE = 4
"""Files on a page of a listing: few, so that a listing has several."""
DATE = "2026-01-01T00:00:00.000Z"


@dataclass(frozen=True)
class Entry:
    """A file in a commit."""

    size: int
    oid: str
    """Git's blob id; of an LFS file, that of its pointer."""
    sha256: str | None = None
    """SHA-256 of an LFS file."""
    xet: str | None = None


@dataclass(frozen=True)
class Commit:
    oid: str
    message: str
    files: dict[str, Entry]


@dataclass
class Repository:
    name: str
    private: bool
    refs: dict[str, list[Commit]] = field(default_factory=dict)
    """Commits of each branch (`main`) or pull request (`refs/pr/1`), newest last."""
    pulls: list[dict[str, Any]] = field(default_factory=list)
    gated: bool = False
    objects: set[str] = field(default_factory=set)
    """SHA-256 of what was uploaded for it by LFS."""

    def head(self, revision: str) -> Commit | None:
        if revision in self.refs:
            return self.refs[revision][-1]
        return next((c for commits in self.refs.values() for c in commits if c.oid == revision), None)


@dataclass
class Fault:
    """A fault of calls whose method and path match."""

    method: str
    path: str
    """A regular expression, searched in the path."""
    status: int = 0
    """Answered instead; 0 drops the connection in the middle of the request's body."""
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    after: int = 0
    """How many such calls go well first."""
    hold: threading.Event | None = None
    """Set when such a call comes in, which then is never answered."""


class Hub:
    """The server and all that it holds; a context manager.

    Args:
        root: An empty directory for what is stored.
        tokens: Token and the user it belongs to.
    """

    def __init__(self, root: Path, tokens: dict[str, str]):
        self.root, self.tokens = root, tokens
        self.repositories: dict[str, Repository] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.received: list[str] = []
        """`put SHA256` of each LFS upload, `file PATH` and `lfs PATH` of each commit, in order."""
        self.lost: set[str] = set()
        """`NAME/PATH` of files that commits are to forget."""
        self.cas = root / "cas"
        for folder in ("lfs", "blobs", "cas"):
            (root / folder).mkdir(parents=True)
        self.lock = threading.RLock()
        self.numbers = itertools.count(1)
        hub = self

        class Handler(_Handler):
            def __init__(self, *args: Any):
                self.hub = hub
                super().__init__(*args)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    # --- what tests ask and do -----------------------------------------------------------------

    def fail(self, method: str, path: str, status: int = 0, **more: Any) -> Fault:
        """Set a fault."""
        self.faults.append(Fault(method, path, status, **more))
        return self.faults[-1]

    def create(self, name: str, private: bool = False) -> Repository:
        """Create a repository as the Hub does: with a first commit that says what LFS holds."""
        repository = Repository(name, private)
        self.repositories[name] = repository
        text = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        self.commit(repository, "main", "initial commit", {".gitattributes": self.store(text.encode())}, [])
        return repository

    def edit(self, name: str, files: dict[str, bytes | None], revision: str = "main") -> None:
        """Commit files as somebody would on the Hub's pages; None deletes one."""
        repository, added = self.repositories[name], {}
        for path, data in files.items():
            if data is not None:
                added[path] = self.store(data, repository if _is_lfs(path, len(data)) else None)
        self.commit(repository, revision, "edit", added, [path for path, data in files.items() if data is None])

    def files(self, name: str, revision: str = "main") -> dict[str, Entry]:
        head = self.repositories[name].head(revision)
        assert head is not None
        return head.files

    def read(self, name: str, path: str, revision: str = "main") -> bytes:
        return self.stored(self.files(name, revision)[path]).read_bytes()

    def commits(self, name: str, revision: str = "main") -> list[list[str]]:
        """The paths that each commit added or changed, oldest first, without the initial one."""
        found = self.repositories[name].refs[revision]
        return [
            sorted(path for path, entry in new.files.items() if old.files.get(path) != entry)
            for old, new in itertools.pairwise(found)
        ]

    # --- storage -------------------------------------------------------------------------------

    def store(self, data: bytes, lfs: Repository | None = None) -> Entry:
        """Keep a file's content, as a blob or as an LFS object of a repository."""
        if lfs is None:
            oid = _blob_id(data)
            (self.root / "blobs" / oid).write_bytes(data)
            return Entry(len(data), oid)
        self.put(lfs, hashlib.sha256(data).hexdigest(), data)
        entry = self.pointer(lfs, hashlib.sha256(data).hexdigest(), len(data))
        assert entry is not None
        return entry

    def put(self, repository: Repository, sha256: str, data: bytes) -> None:
        (self.root / "lfs" / sha256).write_bytes(data)
        repository.objects.add(sha256)

    def pointer(self, repository: Repository, sha256: str, size: int) -> Entry | None:
        """An LFS file in a commit; None if its content hasn't arrived, neither by LFS nor by Xet."""
        xet = None if sha256 in repository.objects else xet_hashes(self.cas).get(sha256)
        if xet is None and sha256 not in repository.objects:
            return None
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
        return Entry(size, _blob_id(text.encode()), sha256, xet)

    def stored(self, entry: Entry) -> Path:
        """Where a file's content lies; of one that came by Xet, put together from its chunks."""
        if entry.sha256 is None:
            return self.root / "blobs" / entry.oid
        path = self.root / "lfs" / entry.sha256
        with self.lock:
            if not path.exists():
                assert entry.xet is not None
                _from_chunks(self.cas, entry.xet, entry.size, path)
                assert hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256
        return path

    def commit(
        self, repository: Repository, revision: str, message: str, added: dict[str, Entry], deleted: list[str]
    ) -> Commit:
        with self.lock:
            commits = repository.refs.setdefault(revision, [])
            files = {**(commits[-1].files if commits else {}), **added}
            for path in deleted:
                files.pop(path)
            oid = hashlib.sha1(f"{repository.name} {next(self.numbers)}".encode()).hexdigest()
            commits.append(Commit(oid, message, dict(sorted(files.items()))))
            return commits[-1]


def _blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _is_lfs(path: str, size: int) -> bool:
    return path.endswith(LFS_SUFFIXES) or size > LFS_BYTES


def xet_hashes(cas: Path) -> dict[str, str]:
    """By SHA-256, the Xet hash of each file that the shards of a chunk store tell of.

    A shard begins with a header of 48 bytes. A file is a record of 48 bytes (hash, flags, number of segments),
    a record a segment, as many more if the flags' bit 31 is set, and one with the SHA-256 if bit 30 is. A record
    whose hash is all ones ends the list. Hashes are four little-endian words of eight bytes.
    """
    found = {}
    for shard in (cas / "xet" / "xorbs" / "shards").glob("*.mdb"):
        data, at = shard.read_bytes(), 48
        while at + 48 <= len(data) and data[at : at + 32] != b"\xff" * 32:
            flags, segments = struct.unpack_from("<II", data, at + 32)
            end = at + 48 * (1 + segments * (2 if flags >> 31 else 1))
            if flags >> 30 & 1:
                found[_words(data, end)] = _words(data, at)
                end += 48
            at = end
    return found


def _words(data: bytes, at: int) -> str:
    return "".join(f"{word:016x}" for word in struct.unpack_from("<4Q", data, at))


def _from_chunks(cas: Path, xet: str, size: int, out: Path) -> None:
    import hf_xet

    # A copy, for the client may hold the store's lock.
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(cas, f"{folder}/cas")
        group = hf_xet.XetSession().new_file_download_group(
            endpoint=f"local://{folder}/cas", token="t", token_expiry_unix_secs=int(time.time()) + 3600
        )
        with group:
            group.start_download_file(hf_xet.XetFileInfo(xet, size), f"{folder}/out")
        shutil.copy(f"{folder}/out", out)


class _Drop(Exception):
    """The connection ends here, without an answer."""


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str = "", **headers: str):
        super().__init__(message)
        self.status, self.headers = status, {"X-Error-Message": message, **headers}
        if code:
            self.headers["X-Error-Code"] = code


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.hub.requests.append(f"{self.command} {unquote(url.path)}")
        try:
            self._fault(url.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            for method, pattern, call in _CALLS:
                match = re.fullmatch(pattern, url.path)
                if match and self.command in method.split():
                    call(self, *map(unquote, match.groups()), body=body)
                    return
            raise _Refused(404, f"no such call: {self.command} {url.path}")
        except _Refused as error:
            self._json({"error": str(error)}, error.status, error.headers)
        except (_Drop, ConnectionError):
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    def _fault(self, path: str) -> None:
        for fault in self.hub.faults:
            if fault.method != self.command or not re.search(fault.path, unquote(path)):
                continue
            with self.hub.lock:
                if fault.after:
                    fault.after -= 1
                    continue
                if not fault.times:
                    continue
                fault.times -= 1
            if fault.hold:
                self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
                fault.hold.set()
                time.sleep(600)
            if not fault.status:
                self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
                raise _Drop
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            raise _Refused(fault.status, "a fault that the test wanted", **fault.headers)

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._bytes(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _bytes(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    # --- who asks, and for what ----------------------------------------------------------------

    def _user(self, needed: bool = False) -> str | None:
        given = self.headers.get("Authorization")
        user = self.hub.tokens.get((given or "").removeprefix("Bearer "))
        if (given and user is None) or (needed and user is None):
            raise _Refused(401, "Invalid credentials in Authorization header" if given else "Invalid username")
        return user

    def _repository(self, name: str, write: bool = False) -> Repository:
        user = self._user(needed=write)
        repository = self.hub.repositories.get(name)
        mine = user is not None and name.startswith(f"{user}/")
        if repository is None or (repository.private and not mine):
            raise _Refused(404 if user else 401, "Repository not found", "RepoNotFound")
        if repository.gated and not mine:
            raise _Refused(403, "Access to this dataset is restricted", "GatedRepo")
        if write and not mine:
            raise _Refused(403, "You don't have the rights to write to this repository")
        return repository

    def _head(self, repository: Repository, revision: str) -> Commit:
        head = repository.head(revision)
        if head is None:
            raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return head

    # --- calls ---------------------------------------------------------------------------------

    def whoami(self, body: bytes) -> None:
        name = self._user(needed=True)
        self._json({"type": "user", "name": name, "id": "1", "orgs": [], "auth": {"type": "access_token"}})

    def create(self, body: bytes) -> None:
        user, request = self._user(needed=True), json.loads(body)
        owner = request.get("organization") or user
        name = f"{owner}/{request['name']}"
        if owner != user:
            raise _Refused(403, f"You don't have the rights to create a dataset under the namespace {owner!r}")
        with self.hub.lock:
            exists = name in self.hub.repositories
            if not exists:
                self.hub.create(name, request.get("visibility") == "private")
        self._json({"url": f"{self.hub.url}/datasets/{name}", "name": name}, 409 if exists else 200)

    def validate(self, body: bytes) -> None:
        header = re.match(r"---\n(.*?)\n---", json.loads(body)["content"], re.DOTALL)
        bad = header and re.search(r"^license: (.*)$", header[1], re.MULTILINE)
        errors = [{"message": '"license" must be one of a list'}] if bad and " " in bad[1] else []
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def info(self, name: str, revision: str = "main", *, body: bytes) -> None:
        repository = self._repository(name)
        head = self._head(repository, revision)
        self._json({
            "_id": "1", "id": name, "author": name.split("/")[0], "sha": head.oid, "private": repository.private,
            "gated": "manual" if repository.gated else False, "disabled": False, "downloads": 0, "likes": 0, "tags": [],
            "lastModified": DATE, "createdAt": DATE, "siblings": [{"rfilename": path} for path in head.files],
        })  # fmt: skip

    def tree(self, name: str, revision: str, folder: str = "", *, body: bytes) -> None:
        head = self._head(self._repository(name), revision)
        start = f"{folder}/" if folder else ""
        inside = [path for path in head.files if path.startswith(start)]
        if folder and not inside:
            raise _Refused(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        folders = {
            start + "/".join(parts[:n])
            for path in inside
            for parts in [path.removeprefix(start).split("/")]
            for n in range(1, len(parts))
        }
        items = [self._item(path, head.files[path]) for path in inside]
        items += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in folders]
        if self.query.get("recursive", "").lower() not in ("true", "1"):
            items = [item for item in items if "/" not in item["path"].removeprefix(start)]
        items.sort(key=lambda item: item["path"])
        at = int(self.query.get("cursor", 0))
        headers = {}
        if at + PAGE < len(items):
            query = "&".join(f"{k}={quote(v)}" for k, v in {**self.query, "cursor": str(at + PAGE)}.items())
            headers["Link"] = f'<{self.hub.url}{urlsplit(self.path).path}?{query}>; rel="next"'
        self._json(items[at : at + PAGE], 200, headers)

    def _item(self, path: str, entry: Entry) -> dict[str, Any]:
        lfs = {"lfs": {"oid": entry.sha256, "size": entry.size, "pointerSize": 130}} if entry.sha256 else {}
        xet = {"xetHash": entry.xet} if entry.xet else {}
        return {"type": "file", "oid": entry.oid, "size": entry.size, "path": path, **lfs, **xet}

    def paths_info(self, name: str, revision: str, body: bytes) -> None:
        head = self._head(self._repository(name), revision)
        text = body.decode()
        paths = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text).get("paths", [])
        folders = {"/".join(path.split("/")[:n]) for path in head.files for n in range(1, path.count("/") + 1)}
        items = [self._item(path, head.files[path]) for path in paths if path in head.files]
        items += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in paths if path in folders]
        self._json(items)

    def refs(self, name: str, body: bytes) -> None:
        repository = self._repository(name)
        branches = [
            {"name": ref, "ref": f"refs/heads/{ref}", "targetCommit": commits[-1].oid}
            for ref, commits in repository.refs.items() if not ref.startswith("refs/")
        ]  # fmt: skip
        self._json({"branches": branches, "converts": [], "tags": [], "pullRequests": []})

    def branch(self, name: str, branch: str, body: bytes) -> None:
        repository = self._repository(name, write=True)
        if branch in repository.refs:
            raise _Refused(409, "Reference already exists")
        repository.refs[branch] = list(repository.refs["main"])
        self._json({})

    def discussions(self, name: str, body: bytes) -> None:
        repository = self._repository(name)
        if self.command == "GET":
            pulls = [
                p for p in repository.pulls if p["author"]["name"] == self.query.get("author", p["author"]["name"])
            ]
            self._json({"count": len(pulls), "start": 0, "discussions": pulls})
            return
        request, number = json.loads(body), len(repository.pulls) + 1
        repository.pulls.append({
            "num": number, "title": request["title"], "author": {"name": self._user(needed=True)}, "createdAt": DATE,
            "status": "draft", "isPullRequest": True, "repo": {"name": name, "type": "dataset"},
            "events": [], "changes": {"base": "refs/heads/main"}, "filesWithConflicts": [], "diff": "",
        })  # fmt: skip
        repository.refs[f"refs/pr/{number}"] = list(repository.refs["main"])
        self._json({"num": number})

    def discussion(self, name: str, number: str, body: bytes) -> None:
        self._json(self._repository(name).pulls[int(number) - 1])

    def preupload(self, name: str, revision: str, body: bytes) -> None:
        files = self._head(self._repository(name, self._writes(name, revision)), revision).files
        answer = []
        for file in json.loads(body)["files"]:
            entry = files.get(file["path"])
            mode = "lfs" if _is_lfs(file["path"], file["size"]) else "regular"
            oid = {"oid": entry.sha256 or entry.oid} if entry else {}
            answer.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **oid})
        self._json({"files": answer})

    def _writes(self, name: str, revision: str) -> bool:
        """Whether rights are asked for: anybody who is logged in may push to a pull request of theirs."""
        return not revision.startswith("refs/pr/")

    def commit(self, name: str, revision: str, body: bytes) -> None:
        repository = self._repository(name, self._writes(name, revision))
        head = self._head(repository, revision)
        self._user(needed=True)
        lines = [json.loads(line) for line in body.splitlines()]
        added, deleted, message = {}, [], ""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
                if value.get("parentCommit", head.oid) != head.oid:
                    raise _Refused(412, "A commit has happened since. Please refresh and try again.")
            elif line["key"] == "file":
                added[value["path"]] = self.hub.store(base64.b64decode(value["content"]))
                self.hub.received.append(f"file {value['path']}")
            elif line["key"] == "lfsFile":
                entry = self.hub.pointer(repository, value["oid"], value["size"])
                if entry is None:
                    raise _Refused(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
                added[value["path"]] = entry
                self.hub.received.append(f"lfs {value['path']}")
            else:
                deleted.append(value["path"])
        added = {path: entry for path, entry in added.items() if f"{name}/{path}" not in self.hub.lost}
        made = self.hub.commit(repository, revision, message, added, deleted)
        self._json({
            "success": True, "commitOid": made.oid, "commitUrl": f"{self.hub.url}/datasets/{name}/commit/{made.oid}",
            "hookOutput": "", "pullRequestUrl": None,
        })  # fmt: skip

    def lfs_batch(self, name: str, body: bytes) -> None:
        repository, objects = self._repository(name), []
        self._user(needed=True)
        for item in json.loads(body)["objects"]:
            upload = {"href": f"{self.hub.url}/lfs/{name}/{item['oid']}?signature=1"}
            verify = {"href": f"{self.hub.url}/datasets/{name}.git/info/lfs/verify"}
            actions = {} if item["oid"] in repository.objects else {"actions": {"upload": upload, "verify": verify}}
            objects.append({**item, **actions})
        self._json({"transfer": "basic", "objects": objects})

    def lfs_put(self, name: str, oid: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Refused(400, "the content is another than announced")
        self.hub.put(self.hub.repositories[name], oid, body)
        self.hub.received.append(f"put {oid}")
        self._bytes(b"", 200, {"ETag": f'"{oid}"'})

    def lfs_verify(self, name: str, body: bytes) -> None:
        if json.loads(body)["oid"] not in self.hub.repositories[name].objects:
            raise _Refused(404, "no such object")
        self._json({})

    def xet_token(self, name: str, kind: str, revision: str, body: bytes) -> None:
        self._repository(name, kind == "write" and self._writes(name, revision))
        expires = int(time.time()) + 3600
        endpoint = f"local://{self.hub.cas}"
        headers = {"X-Xet-Cas-Url": endpoint, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(expires)}
        self._json({"casUrl": endpoint, "accessToken": "xet", "exp": expires}, 200, headers)

    def resolve(self, name: str, revision: str, path: str, body: bytes) -> None:
        head = self._head(self._repository(name), revision)
        entry = head.files.get(path)
        if entry is None:
            raise _Refused(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": head.oid})
        data = self.hub.stored(entry).read_bytes()
        headers = {
            "X-Repo-Commit": head.oid, "ETag": f'"{entry.sha256 or entry.oid}"', "Accept-Ranges": "bytes",
            "Content-Disposition": f'inline; filename="{path.rsplit("/", 1)[-1]}"',
        }  # fmt: skip
        if entry.sha256:
            headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
        if entry.xet:
            route = f"{self.hub.url}/api/datasets/{name}/xet-read-token/{head.oid}"
            headers |= {"X-Xet-Hash": entry.xet, "X-Xet-Refresh-Route": route}
        byte_range = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not byte_range:
            self._bytes(data, 200, headers)
            return
        start, stop = int(byte_range[1]), min(int(byte_range[2]) + 1 if byte_range[2] else len(data), len(data))
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        self._bytes(data[start:stop], 206, headers)


_ID = r"([^/]+/[^/]+)"
_API = f"/api/datasets/{_ID}"
_CALLS: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", "/api/whoami-v2", _Handler.whoami),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("GET", f"{_API}/tree/([^/]+)", _Handler.tree),
    ("GET", f"{_API}/tree/([^/]+)/(.+)", _Handler.tree),
    ("POST", f"{_API}/paths-info/([^/]+)", _Handler.paths_info),
    ("GET", f"{_API}/refs", _Handler.refs),
    ("POST", f"{_API}/branch/([^/]+)", _Handler.branch),
    ("GET POST", f"{_API}/discussions", _Handler.discussions),
    ("GET", rf"{_API}/discussions/(\d+)", _Handler.discussion),
    ("POST", f"{_API}/preupload/([^/]+)", _Handler.preupload),
    ("POST", f"{_API}/commit/([^/]+)", _Handler.commit),
    ("GET", f"{_API}/xet-(write|read)-token/([^/]+)", _Handler.xet_token),
    ("GET", f"{_API}/revision/([^/]+)", _Handler.info),
    ("GET", _API, _Handler.info),
    ("POST", f"/datasets/{_ID}\\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("POST", f"/datasets/{_ID}\\.git/info/lfs/verify", _Handler.lfs_verify),
    ("PUT", f"/lfs/{_ID}/([0-9a-f]{{64}})", _Handler.lfs_put),
    ("GET HEAD", f"/datasets/{_ID}/resolve/([^/]+)/(.+)", _Handler.resolve),
    ("GET HEAD", f"/{_ID}/resolve/([^/]+)/(.+)", _Handler.resolve),
    ("GET", f"/api/models/{_ID}/tree/([^/]+)", _Handler.tree),
    ("GET", f"/api/models/{_ID}/revision/([^/]+)", _Handler.info),
    ("GET", f"/api/models/{_ID}", _Handler.info),
]


@contextlib.contextmanager
def serve(root: Path, **tokens: str) -> Iterator[Hub]:
    """A Hub whose users have one token each: `serve(path, ada="hf_…")`."""
    with Hub(root, {token: user for user, token in tokens.items()}) as hub:
        yield hub
