"""Runs `figureground review` in a process of its own, and talks to it as its page does."""

import json
import subprocess
import urllib.error
import urllib.request
from typing import Any

import commands


class Review:
    """`figureground review` in a process of its own."""

    def __init__(self, *arguments: object):
        self.process = commands.start("review", *map(str, arguments), stdout=subprocess.PIPE)
        self.output, self.url = "", ""
        for line in self.process.stdout:
            self.output += line
            if line.startswith("Open "):
                self.url = line.split()[1]
                break
        else:
            raise AssertionError(self.process.communicate())

    def ask(self, route: str, headers: dict[str, str] | None = None, **body: Any) -> tuple[int, dict[str, Any]]:
        """Return status and JSON of a request as the page makes it."""
        payload = {"annotator": "ana", "browser": "one", **body}
        headers = {"Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(f"{self.url}api/{route}", json.dumps(payload).encode(), headers)
        status, _, data = fetch(request)
        return status, json.loads(data)

    def answer(self, item: dict[str, Any], answer: str = "yes", **body: Any) -> tuple[int, dict[str, Any]]:
        """Answer the first open question about an image."""
        question = next(each for each in item["asked"] if each["answer"] is None)
        return self.ask(
            "answer",
            answers=[{"id": item["id"], "question": question["question"], "answer": answer, "seconds": 1}],
            **body,
        )

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def fetch(request: urllib.request.Request | str) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and content of a request, whatever the status is."""
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()
