"""The tracker `diary`, known and writing into a folder of the test."""

import pytest
from shared_fixtures import bed, checkpoints, one_thread, sd1  # noqa: F401

from figureground.tracking.tracker import TRACKERS


@pytest.fixture
def diary(tmp_path, monkeypatch):
    folder = tmp_path / "diary"
    folder.mkdir()
    monkeypatch.setenv("DIARY", str(folder))
    TRACKERS.add("diary", "example_tracker:Diary")
    TRACKERS.add("absent", "example_tracker:Absent")
    yield folder
    TRACKERS.remove("diary")
    TRACKERS.remove("absent")
