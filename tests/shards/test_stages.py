"""A finished stage is never done twice, unless what it stands on changes."""

import pytest

from figureground.core.errors import FiguregroundError
from figureground.core.hashing import digest
from figureground.shards.shard import STAGES
from figureground.shards.stages import COPIES, DONE, find_dataset, has_work, read_finished_facts, run_stage


def test_the_dataset_of_stages_is_found_from_their_folder(tmp_path):
    assert find_dataset(tmp_path / "out" / STAGES) == tmp_path / "out"


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


@pytest.mark.parametrize(
    "damage",
    [lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: b"\xff" + whole, lambda whole: b"[]",
     lambda whole: whole.replace(b'"facts"', b'"fact"')],
    ids=["cut short", "empty", "no text", "no mapping", "no facts"],
)  # fmt: skip
def test_a_damaged_marker_is_named_with_what_to_do_and_nothing_is_done(tmp_path, damage):
    run_stage(tmp_path, "masks", 1, lambda folder: {"files": 3})
    marker = tmp_path / "masks" / DONE
    marker.write_bytes(damage(marker.read_bytes()))
    with pytest.raises(FiguregroundError, match=rf"{marker} is damaged \(.*\). Remove {marker.parent}"):
        run_stage(tmp_path, "masks", 1, lambda folder: pytest.fail("it was done again"))


def test_copies_and_locks_are_no_work(tmp_path):
    assert not has_work(tmp_path / "nothing")
    for name in (f"{COPIES}/bird/0.png", "concepts/.bird.lock"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert not has_work(tmp_path)
    (tmp_path / "concepts" / "state.pt").touch()
    assert has_work(tmp_path)


def test_facts_are_those_of_a_finished_stage_with_the_same_inputs_and_follow_its_marker(tmp_path):
    folder = tmp_path / "masks"
    assert read_finished_facts(folder, digest(1)) is None
    run_stage(tmp_path, "masks", 1, lambda folder: {"files": 3})
    assert read_finished_facts(folder, digest(1)) == {"files": 3}
    assert read_finished_facts(folder, digest(2)) is None
    run_stage(tmp_path, "masks", 2, lambda folder: {"files": 14})
    assert read_finished_facts(folder, digest(1)) is None
    assert read_finished_facts(folder, digest(2)) == {"files": 14}
    (folder / DONE).write_text("{")
    assert read_finished_facts(folder, digest(2)) is None
