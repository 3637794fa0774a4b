"""Tiny checkpoints whose configuration files are edited and restored."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_checkpoints import make_checkpoint


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """A directory with a checkpoint of each kind."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("sd1", "sdxl"):
        make_checkpoint(kind, folder)
    return folder


@pytest.fixture
def edit() -> Callable[..., None]:
    """Change entries of a file of JSON until the test ends; None as a value takes the entry out."""
    kept: dict[Path, str] = {}

    def change(path: Path, **entries: object) -> None:
        text = kept.setdefault(path, path.read_text())
        content = {**json.loads(text), **entries}
        path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))

    yield change
    for path, text in kept.items():
        path.write_text(text)
