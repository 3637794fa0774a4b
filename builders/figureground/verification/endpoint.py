"""Asks a vision-language model on an OpenAI-compatible server (`/chat/completions` with `logprobs`).

The key comes from the environment and is sent in one header. It is in no file, no error and no log; what a server says
is cleaned of it. Redirects aren't followed, because they could take the key elsewhere.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import queue
import secrets
import socket
import threading
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from figureground.core import signals
from figureground.core.data_urls import to_data_url
from figureground.core.errors import FiguregroundError, UsageError, printable
from figureground.core.files import FileError, parse_json
from figureground.verification.yes_no import probability_of_yes

KEY = "FIGUREGROUND_API_KEY"
"""Environment variable with the server's key, if it needs one."""
THREADS = 8
"""Number of requests at a time."""
MAX_ATTEMPTS = 5
"""Number of attempts at a request that the server doesn't answer."""
PAUSE = 1.0
"""Seconds before the second attempt; doubled with each further one, up to 30, less a random part of up to a half."""
TIMEOUT = 120.0
"""Time after which a request has failed."""
TOP_TOKENS = 20
"""Number of most probable tokens that a request asks for; the largest that OpenAI's API allows."""
MAX_BYTES = 2**22
"""Largest answer that is read."""
_RETRYABLE = {408, 409, 425, 429, 500, 502, 503, 504, 529}
"""HTTP statuses after which the same request may succeed."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def check_url(url: str) -> urllib.parse.SplitResult:
    """Return the parts of a server's URL.

    Raises:
        UsageError: It isn't http(s), has a user name, a password or a query, which could hold a key; or a key would be
            sent unencrypted to another machine.
    """
    parts = urllib.parse.urlsplit(url.strip())
    try:
        has_valid_port = parts.port is None or parts.port > 0
    except ValueError:
        has_valid_port = False
    if parts.scheme not in ("http", "https") or not parts.hostname or not has_valid_port:
        raise UsageError("--endpoint: give the URL of a server, such as http://localhost:8000/v1.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError(
            f"--endpoint: the URL must have no user name, password or query. Give a key in the environment as {KEY}."
        )
    if os.environ.get(KEY) and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise UsageError(f"--endpoint: {KEY} would be sent to {parts.hostname} unencrypted. Give an https:// URL.")
    return parts


class _Closed(Exception):
    """The connections were closed on purpose."""


class Endpoint:
    """A model on a server.

    Args:
        url: Beginning of the server's URLs, such as `http://localhost:8000/v1`.
        model: The server's name of the model.
    """

    def __init__(self, url: str, model: str):
        self._parts, self._model = check_url(url), model
        self._path = self._parts.path.rstrip("/") + "/chat/completions"
        self._key = os.environ.get(KEY, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise UsageError(f"--endpoint: {KEY} in the environment holds characters that no key has.")
        self._local = threading.local()
        self._connections: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def ask(self, pairs: Sequence[tuple[Image.Image, str]]) -> tuple[list[float | None], list[str]]:
        """Return the probability of "yes" for each image and question; see `scorers.vlm.Asker`.

        Raises:
            FiguregroundError: The server can't be reached, refuses, keeps failing, or returns no `logprobs`.
            Stopped: A signal requested a stop.
        """
        jobs: queue.SimpleQueue[int] = queue.SimpleQueue()
        results: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        encoded = {id(image): _encode_image(image) for image, _ in pairs}
        for index in range(len(pairs)):
            jobs.put(index)

        def work() -> None:
            while not self._closed.is_set():
                try:
                    index = jobs.get_nowait()
                except queue.Empty:
                    break
                image, question = pairs[index]
                try:
                    results.put((index, self._request_answer(encoded[id(image)], question)))
                except Exception as error:  # raised again by the main thread
                    results.put((index, error))
            self._drop_connection()

        # Daemons, because the interpreter would wait at its end for requests that no one needs any more.
        for _ in range(min(THREADS, len(pairs))):
            threading.Thread(target=work, name="ask", daemon=True).start()
        answers: list[float | None] = [None] * len(pairs)
        unclear: list[str] = []
        try:
            for _ in pairs:
                index, answer = self._wait_for_result(results)
                if isinstance(answer, Exception):
                    raise answer
                answers[index], text = answer
                if answers[index] is None:
                    unclear.append(text)
        except BaseException:
            self.close()
            raise
        return answers, unclear

    def close(self) -> None:
        """End all requests."""
        self._closed.set()
        with self._lock:
            for connection in self._connections:
                if connection.sock is not None:
                    with contextlib.suppress(OSError):
                        connection.sock.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _wait_for_result(results: queue.SimpleQueue[tuple[int, Any]]) -> tuple[int, Any]:
        while True:
            signals.check()
            try:
                return results.get(timeout=0.2)
            except queue.Empty:
                continue

    def _request_answer(self, image: str, question: str) -> tuple[float | None, str]:
        """Return the probability of "yes", and what the server answered."""
        body = {
            "model": self._model,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": image}},
                        {"type": "text", "text": question},
                    ],
                }
            ],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": TOP_TOKENS,
        }
        return self._parse_answer(self._post(json.dumps(body).encode()))

    def _post(self, body: bytes) -> bytes:
        """Send a request, again after failures that may pass, and return the body of the answer."""
        failure = ""
        for attempt in range(MAX_ATTEMPTS):
            pause = min(30.0, PAUSE * 2.0 ** (attempt - 1)) * (1 - secrets.randbelow(500) / 1000)
            if attempt and self._closed.wait(pause):
                raise _Closed
            try:
                status, data, wait = self._send(body)
            except (OSError, http.client.HTTPException) as error:
                self._drop_connection()
                if self._closed.is_set():
                    raise _Closed from None
                failure = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                continue
            if status == 200:
                return data
            failure = f"HTTP {status}: {self._excerpt(data)}"
            if status not in _RETRYABLE:
                hint = f" Set {KEY} to its key." if status in (401, 403) else ""
                raise FiguregroundError(f"--endpoint {self._url} refused the request: {failure}.{hint}")
            if wait and self._closed.wait(wait):
                raise _Closed
        raise FiguregroundError(
            f"--endpoint {self._url} didn't answer in {MAX_ATTEMPTS} attempts; last: {self._excerpt(failure.encode())}"
            ". Scores so far are kept; the same command goes on."
        )

    def _send(self, body: bytes) -> tuple[int, bytes, float]:
        """Send a request once; return status, body, and the seconds that the server asks to wait."""
        connection = self._connection()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        connection.request("POST", self._path, body, headers)
        answer = connection.getresponse()
        data = answer.read(MAX_BYTES)
        if answer.will_close or not answer.isclosed():
            self._drop_connection()
        retry_after = answer.headers.get("Retry-After", "")
        return answer.status, data, min(60.0, float(retry_after)) if retry_after.isdigit() else 0.0

    def _connection(self) -> http.client.HTTPConnection:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            secure = self._parts.scheme == "https"
            connection_type = http.client.HTTPSConnection if secure else http.client.HTTPConnection
            connection = connection_type(str(self._parts.hostname), self._parts.port, timeout=TIMEOUT)
            self._local.connection = connection
            with self._lock:
                self._connections.add(connection)
        return connection

    def _drop_connection(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            with self._lock:
                self._connections.discard(connection)
            self._local.connection = None

    def _parse_answer(self, data: bytes) -> tuple[float | None, str]:
        """Return the probability of "yes" in an answer, and its text."""
        try:
            answer = parse_json(data, "its answer")
            choice = answer["choices"][0]
            text = str((choice.get("message") or {}).get("content") or "")
        except (FileError, KeyError, IndexError, TypeError, AttributeError):
            raise FiguregroundError(
                f"--endpoint {self._url} isn't an OpenAI-compatible server: it answered {self._excerpt(data)}."
            ) from None
        tokens = _first_token(choice)
        if tokens is None:
            raise FiguregroundError(
                f"--endpoint {self._url}: the model {self._model!r} returned no logprobs, from which the probability "
                "of yes is read. Give a model or a server that supports logprobs and top_logprobs."
            )
        return probability_of_yes(tokens), self._excerpt(text.encode())

    @property
    def _url(self) -> str:
        return f"{self._parts.scheme}://{self._parts.netloc}{self._parts.path}"

    def _excerpt(self, data: bytes) -> str:
        """Return the beginning of what a server said, in one line without the key."""
        text = data.decode(errors="replace")
        if self._key:
            text = text.replace(self._key, "…")
        return printable(" ".join(text[:2000].split()))[:200] or "nothing"


def _first_token(choice: Mapping[str, Any]) -> list[tuple[str, float]] | None:
    """Return the most probable first tokens with their log-probabilities; None if the server gave none."""
    try:
        content = choice["logprobs"]["content"]
        tokens = [(str(token["token"]), float(token["logprob"])) for token in content[0]["top_logprobs"]]
        return tokens or [(str(content[0]["token"]), float(content[0]["logprob"]))]
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _encode_image(image: Image.Image) -> str:
    """Return an image as a data URL, PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return to_data_url(buffer.getvalue(), "image/png")
