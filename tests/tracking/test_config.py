"""Settings that a run shows."""

import math
from pathlib import Path

import pytest

from figureground.tracking.config import sanitise


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/someone/birds", "birds"),
        (Path("/home/someone/birds.csv"), "birds.csv"),
        ("~/models/mine", "mine"),
        ("../sets/birds/", "birds"),
        ("s3://key:secret@bucket/sets/birds?token=1", "birds"),
        ("stabilityai/sdxl-turbo", "stabilityai/sdxl-turbo"),
        ("a photo of a {V} and/or {noun}", "a photo of a {V} and/or {noun}"),
        ({"api_key": "x", "HF_ACCESS_TOKEN": "x", "password": "x", "token": "<mug>"}, {"token": "<mug>"}),
        ({"a": [1, None, True, ("/x/y", 0.5)]}, {"a": [1, None, True, ["y", 0.5]]}),
        (math.inf, "inf"),
    ],
)
def test_paths_become_names_and_secrets_are_left_out(value, shown):
    assert sanitise(value) == shown


def test_a_relative_path_that_exists_becomes_a_name(tmp_path, monkeypatch):
    (tmp_path / "sets" / "birds").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert sanitise("sets/birds") == "birds"
