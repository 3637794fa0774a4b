"""The command doctor says what a machine has, without the Hub and without failing."""

from __future__ import annotations

import http.server
import json
import os
import re
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import ENVIRONMENT, run

from figureground.cli.doctor import describe
from figureground.core.extras import EXTRAS
from figureground.models.hub_access import find_access_problem
from figureground.models.machine import examine

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


@pytest.fixture(scope="module")
def found() -> dict:
    return examine()


def test_it_says_what_this_machine_has(found: dict) -> None:
    assert found["cores"] >= 1
    assert 0 < found["memory"]["available"] <= found["memory"]["total"]
    assert all(disk["free"] > 0 for disk in found["disk"].values())
    assert {"name", "kind", "dtypes"} <= found["devices"][-1].keys()
    assert found["devices"][-1]["dtypes"][0] == "float32"
    assert {"torch", "transformers", "diffusers"} <= found["versions"].keys()
    assert set(found["bundled"]) == {"checkpoint", "classifier", "segmenter", "matcher"}
    assert not [problem for problem in found["problems"] if problem["breaks"]]
    assert json.loads(json.dumps(found)) == found


def test_every_extra_of_the_package_is_listed_with_its_purpose() -> None:
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    del extras["dev"]
    named = {name: {re.split(r"[\[>=<]", each)[0] for each in packages} for name, packages in extras.items()}
    assert {name: set(extra.packages) for name, extra in EXTRAS.items()} == named
    assert all(extra.purpose for extra in EXTRAS.values())


def test_lines_for_people_name_a_missing_extra_with_its_command_and_every_problem(found: dict) -> None:
    extras = {"timm": {"installed": False, "missing": ["timm"], "for": "networks"}}
    problem = {"what": "The disk is full.", "fix": "Free some space.", "breaks": True}
    text = "\n".join(describe({**found, "extras": extras, "problems": [problem]}))
    assert "pip install 'figureground[timm]'" in text
    assert "The disk is full. Free some space." in text
    assert "1 of these break builds" in text


def test_the_command_prints_json_and_exits_with_1_only_if_builds_break(tmp_path: Path) -> None:
    code, out, err = run("doctor", "--json", cwd=tmp_path)
    assert code == 0, err
    assert json.loads(out)["hub"] == {"reachable": False, "reason": "access is disabled by HF_HUB_OFFLINE"}
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('libcudart.so.12 is missing')\n")
    path = os.pathsep.join(each for each in (str(tmp_path), os.environ.get("PYTHONPATH")) if each)
    code, out, err = run("doctor", cwd=tmp_path, env={**ENVIRONMENT, "PYTHONPATH": path})
    assert code == 1, err
    assert "torch can't be imported: libcudart.so.12 is missing" in out


class _Answering(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class _Silent(_Answering):
    def do_HEAD(self) -> None:
        time.sleep(2)


@pytest.fixture
def hub(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server on loopback in the Hub's place."""
    from huggingface_hub import constants

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), request.param)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield
    server.shutdown()


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("hub", [_Answering], indirect=True)
def test_a_hub_that_answers_anything_is_reachable() -> None:
    assert find_access_problem() is None


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("hub", [_Silent], indirect=True)
def test_a_hub_that_does_not_answer_is_given_up_after_the_time_limit() -> None:
    began = time.monotonic()
    assert re.search("doesn't answer|timed out", find_access_problem(0.2) or "")
    assert time.monotonic() - began < 1.9


def test_a_timeout_that_is_no_number_of_seconds_is_refused_with_the_range() -> None:
    code, _, err = run("doctor", "--timeout", "soon")
    assert code == 2
    assert re.search("--timeout: soon .* above 0 and at most 600", err)
