"""A finished stage is never done twice, unless what it stands on changes."""

import pytest

from figureground.stages import run_stage


def test_a_stage_runs_once_for_the_same_inputs(tmp_path):
    runs = []

    def work(folder):
        runs.append(folder)
        return {"found": len(runs)}

    assert run_stage(tmp_path, "clusters", {"k": 3}, work) == {"found": 1}
    assert run_stage(tmp_path, "clusters", {"k": 3}, work) == {"found": 1}
    assert run_stage(tmp_path, "clusters", {"k": 4}, work) == {"found": 2}
    assert runs == [tmp_path / "clusters"] * 2


def test_a_stage_that_fails_is_not_marked_and_finds_what_it_left(tmp_path):
    def fail(folder):
        (folder / "half").touch()
        raise OSError("stopped")

    with pytest.raises(OSError, match="stopped"):
        run_stage(tmp_path, "masks", 1, fail)
    assert run_stage(tmp_path, "masks", 1, lambda folder: {"half": (folder / "half").exists()}) == {"half": True}
