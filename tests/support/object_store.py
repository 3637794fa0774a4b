"""An S3 server on loopback, moto's, behind a proxy that makes it fail as real stores do."""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from moto.server import ThreadedMotoServer

BUCKET = "bucket"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIAofTheTests", "AWS_SECRET_ACCESS_KEY": "secretOfTheTests0123456789",
    "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
}  # fmt: skip
ERROR = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code} said the proxy</Message></Error>'


@dataclass
class Rule:
    """A fault of requests whose `METHOD path?query` matches."""

    pattern: str
    act: str
    """`answer`: with an error; `slow`: later; `cut`: not at all; `lose`: the request arrives, its answer doesn't;
    `strip`: without If-None-Match."""
    times: int = 10**9
    """Number of requests that it concerns."""
    status: int = 503
    code: str = "SlowDown"
    seconds: float = 0.0
    every: int = 1
    """Concerns each n-th such request."""
    seen: int = 0


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # with the default of 5, connections of several processes at once are lost


class ObjectStore:
    """The server; `endpoint` is that of the proxy."""

    def __init__(self) -> None:
        self._moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._moto.start()
        self.moto = self._moto.get_host_and_port()
        self.rules: list[Rule] = []
        self.log: list[str] = []
        """`METHOD path?query` of every request, in order."""
        self.lock = threading.Lock()
        self._proxy = _Proxy(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self._proxy.server_address[1]}"
        self.request("PUT", f"/{BUCKET}")

    def close(self) -> None:
        self._proxy.shutdown()
        self._moto.stop()

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Ask the server past the proxy."""
        connection = http.client.HTTPConnection(*self.moto, timeout=60)
        connection.request(method, path, body, {"Authorization": "AWS4-HMAC-SHA256 Credential=a/b/us-east-1/s3/c"})
        data = connection.getresponse().read()
        connection.close()
        return data

    def read(self, path: str) -> bytes:
        return self.request("GET", f"/{BUCKET}/{path}")

    def put(self, path: str, data: bytes) -> None:
        self.request("PUT", f"/{BUCKET}/{path}", data)

    def names(self, prefix: str) -> list[str]:
        """The keys that begin with a prefix."""
        listing = self.request("GET", f"/{BUCKET}?list-type=2&max-keys=1000&prefix={prefix}").decode()
        return re.findall("<Key>(.*?)</Key>", listing)

    def count(self, pattern: str) -> int:
        with self.lock:
            return sum(re.search(pattern, line) is not None for line in self.log)

    def rule_for(self, line: str) -> Rule | None:
        with self.lock:
            self.log.append(line)
            for rule in self.rules:
                if rule.times > 0 and re.search(rule.pattern, line):
                    rule.seen += 1
                    if rule.seen % rule.every == 0:
                        rule.times -= 1
                        return rule
        return None


def _handler(store: ObjectStore) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _serve(self) -> None:
            if "100-continue" in self.headers.get("Expect", ""):
                self.send_response_only(100)
                self.end_headers()
            body = self._body()
            rule = store.rule_for(f"{self.command} {self.path}")
            act = rule.act if rule else ""
            if rule and act == "slow":
                time.sleep(rule.seconds)
            if rule and act == "answer":
                self._answer(rule.status, {"Content-Type": "application/xml"}, ERROR.format(code=rule.code).encode())
                return
            if act == "cut":
                self.close_connection = True
                self.connection.close()
                return
            drop = {"host", "connection", "transfer-encoding", "content-length", "expect"}
            drop |= {"if-none-match"} if act == "strip" else set()
            headers = {name: value for name, value in self.headers.items() if name.lower() not in drop}
            connection = http.client.HTTPConnection(*store.moto, timeout=60)
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            data = response.read()
            connection.close()
            if act == "lose":
                self.close_connection = True
                self.connection.close()
                return
            self._answer(response.status, dict(response.getheaders()), data)

        def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                    self.send_header(name, value)
            length = headers.get("Content-Length", len(data)) if self.command == "HEAD" else len(data)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    return Handler
