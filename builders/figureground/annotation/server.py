"""The review's web server: on loopback only, for those who know its random address.

It is Python's own `http.server`, so that a review needs nothing installed: there are six routes, every answer waits for
the disk anyway, and a handful of people use it. A request is served only under the secret path, which no other page can
guess, and only for a loopback name in `Host`, so that a page elsewhere can't reach it by rebinding its own name (DNS).
"""

from __future__ import annotations

import errno
import json
import secrets
import socket
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from figureground.annotation.answers_file import NotSaved
from figureground.annotation.assignment import BadRequest, Turns
from figureground.annotation.images import ReviewImages
from figureground.core.errors import FiguregroundError, UsageError
from figureground.core.files import FileError, parse_json
from figureground.core.pages import render_page
from figureground.core.resources import find_resource
from figureground.sources.images import UnreadableImage

ADDRESS = "127.0.0.1"
PORT = 8377
"""Default port; if it is in use, a free one is chosen."""
HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
"""Names in `Host` that are served, with any port: a tunnel may change it."""
MAX_BODY = 2**20
"""Maximum size of a request's body, bytes."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_FILES = {
    "review.js": "text/javascript; charset=utf-8", "review.css": "text/css; charset=utf-8",
    "review.svg": "image/svg+xml",
}  # fmt: skip
"""Files of the page, in `templates/`, with their media types."""


class Server(ThreadingHTTPServer):
    """Serves one review.

    Args:
        turns: The review.
        port: The port; None for `PORT` or else a free one, 0 for a free one.

    Raises:
        UsageError: The given port is in use, or can't be used.
    """

    daemon_threads = True

    def __init__(self, turns: Turns, port: int | None = None):
        self.turns, self.images = turns, ReviewImages(turns.dataset)
        self.token = secrets.token_urlsafe(24)
        self.page = render_page("review.html.jinja", {}, name=turns.dataset.name).encode()
        try:
            super().__init__((ADDRESS, PORT if port is None else port), _Handler)
        except (OSError, OverflowError) as error:
            in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            if port is None and in_use:
                super().__init__((ADDRESS, 0), _Handler)
                return
            problem = (
                "is in use. Stop the program that uses it, or give another port"
                if in_use
                else f"can't be used ({error}). Give a port"
            )
            raise UsageError(f"--port {port} {problem}, from 1024 to 65535; 0 chooses a free port.") from None

    @property
    def url(self) -> str:
        """The address of the page, with its secret path."""
        return f"http://{ADDRESS}:{self.server_address[1]}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a connection that broke off; a handler answers all other errors itself."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    server: Server

    def version_string(self) -> str:
        return "figureground"

    def log_message(self, format: str, *args: Any) -> None:
        """Write no log: addresses hold the secret."""

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_GET(self) -> None:
        self._serve(self._get)

    def do_POST(self) -> None:
        self._serve(self._post)

    def _serve(self, route: Callable[[str], None]) -> None:
        """Serve a request, or say why not."""
        try:
            if not self._is_trusted():
                return self._refuse(HTTPStatus.MISDIRECTED_REQUEST, "This server answers only on this machine.")
            _, token, name = (urlsplit(self.path).path.split("/", 2) + ["", ""])[:3]
            if not secrets.compare_digest(token.encode(), self.server.token.encode()):
                return self._refuse(HTTPStatus.NOT_FOUND, "There is nothing here. Open the address that was printed.")
            route(name)
        except BadRequest as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except NotSaved as error:
            self._refuse(HTTPStatus.INSUFFICIENT_STORAGE, str(error))
        except FiguregroundError as error:
            self._refuse(HTTPStatus.CONFLICT, str(error))
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception as error:  # the page must be told that nothing was saved
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}")

    def _is_trusted(self) -> bool:
        """Whether the request was sent to a loopback name, and from a page of this server if from any."""
        for header in ("Host", "Origin"):
            for value in self.headers.get_all(header, []):
                try:
                    name = urlsplit(value if "//" in value else f"//{value}").hostname
                except ValueError:
                    return False
                if name not in HOSTS:
                    return False
        if len(self.headers.get_all("Host", [])) != 1:
            return False
        return self.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin") or self.command == "GET"

    # --- routes -----------------------------------------------------------------------------------

    def _get(self, name: str) -> None:
        folder, _, rest = name.partition("/")
        if not name:
            self._send(self.server.page, "text/html; charset=utf-8")
        elif name in _FILES:
            self._send(find_resource(f"templates/{name}").read_bytes(), _FILES[name])
        elif folder in ("image", "guide") and (key := self.server.turns.keys.get(rest)) is not None:
            item, images = self.server.turns.items[key], self.server.images
            try:
                data = images.read_png(item) if folder == "image" else images.read_guide(item)
            except (UnreadableImage, FiguregroundError) as error:
                return self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
            if data is None:
                return self._refuse(HTTPStatus.NOT_FOUND, "This image has no guide.")
            self._send(data, "image/png", cache="private, max-age=3600")
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "There is nothing here.")

    def _post(self, name: str) -> None:
        body = self._read_body()
        turns = self.server.turns
        if name == "api/annotators":
            return self._send_json({"annotators": turns.annotators()})
        annotator, browser, grid = body.get("annotator"), body.get("browser"), body.get("grid", False)
        if not isinstance(annotator, str) or not isinstance(browser, str) or not isinstance(grid, bool):
            raise BadRequest("annotator, browser or grid is missing.")
        if name == "api/next":
            self._send_json(turns.next(annotator, browser, grid))
        elif name == "api/answer":
            answers = body.get("answers")
            if not isinstance(answers, list) or not all(isinstance(each, dict) for each in answers):
                raise BadRequest("answers is missing.")
            self._send_json(turns.answer(annotator, browser, answers, grid))
        elif name == "api/undo":
            self._send_json(turns.undo(annotator, browser, grid))
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "There is nothing here.")

    def _read_body(self) -> dict[str, Any]:
        """Return the request's JSON object.

        Raises:
            BadRequest: It is too large or not JSON, or a form of another page could have sent it.
        """
        if self.headers.get_content_type() != "application/json":
            raise BadRequest("the content type must be application/json.")
        length = self.headers.get("Content-Length", "")
        if (
            not length.isascii()
            or not length.isdigit()
            or int(length) > MAX_BODY
            or "Transfer-Encoding" in self.headers
        ):
            raise BadRequest(f"the request needs a length of at most {MAX_BODY:,} bytes.")
        try:
            body = parse_json(self.rfile.read(int(length)), "the request")
        except FileError as error:
            raise BadRequest(str(error)) from None
        if not isinstance(body, dict):
            raise BadRequest("the request must be a JSON object.")
        return body

    # --- responses --------------------------------------------------------------------------------

    def _send(self, data: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK, cache: str = "no-store") -> None:
        self.send_response(status)
        headers: Mapping[str, str] = {
            **HEADERS, "Content-Type": kind, "Content-Length": str(len(data)), "Cache-Control": cache,
            **({"Connection": "close"} if self.close_connection else {}),
        }  # fmt: skip
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _send_json(self, value: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(json.dumps(value).encode(), "application/json", status)

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        self.close_connection = True  # the request's body may not have been read
        self._send_json({"error": message}, status)
