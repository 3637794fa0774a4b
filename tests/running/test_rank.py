"""The runner `rank`: which rank a process has, and what ranks that are killed or can't see each other leave behind."""

import json
import os
import signal

import pytest
from commands import ENVIRONMENT, LONG, hashes, litter, markers, recipe, run, start, wait_for
from forked_commands import Forked

from figureground.core.errors import UsageError
from figureground.running.runners.local import order_shards
from figureground.running.runners.rank import Rank, find_rank, own_shards

"""32 images in 8 shards, long enough to be met in the middle."""
TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "6", "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "3",
}  # fmt: skip
SLURM = {
    "SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_TASKS_PER_NODE": "9",
}  # fmt: skip
ARRAY = {f"SLURM_ARRAY_TASK_{name}": n for name, n in {"ID": "12", "MIN": "10", "MAX": "14", "COUNT": "3"}.items()}
SCRIPT = {"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
"""Variables that the script of a job without --ntasks sees."""


@pytest.mark.parametrize(
    ("variables", "given", "expected"),
    [
        ({}, (None, None), (0, 1, None, 1)),
        ({}, (2, 3), (2, 3, None, 1)),
        (TORCHRUN, (None, None), (5, 8, 1, 4)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (None, None), (1, 2, None, 1)),
        (OPENMPI, (None, None), (3, 6, 0, 3)),
        (SLURM, (None, None), (2, 4, 0, 2)),
        ({**SLURM, "SLURM_GPUS_PER_TASK": "1"}, (None, None), (2, 4, 0, 1)),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "3"}, (None, None), (2, 3, 0, 2)),
        (SCRIPT, (None, None), (0, 1, None, 1)),
        ({"SLURM_NTASKS": "4"}, (None, None), (0, 1, None, 1)),  # salloc's shell
        ({**SCRIPT, **ARRAY}, (None, None), (1, 3, None, 1)),
        ({**SLURM, **ARRAY}, (None, None), (6, 12, 0, 2)),
        ({**SLURM, **ARRAY, **TORCHRUN}, (None, None), (13, 24, 1, 4)),
        ({**SLURM, **TORCHRUN, **OPENMPI}, (None, None), (5, 8, 1, 4)),
        ({**SLURM, **OPENMPI}, (None, None), (3, 6, 0, 3)),
        (TORCHRUN, (1, 2), (1, 2, 1, 4)),
        (TORCHRUN, (5, 8), (5, 8, 1, 4)),
    ],
)  # fmt: skip
def test_the_rank_is_given_or_found(variables, given, expected):
    found = find_rank(variables, *given)
    assert (found.rank, found.world, found.local_rank, found.local_world_size) == expected


def test_all_tasks_of_an_array_have_ranks_of_their_own():
    names = [str(n) for n in range(3, 21, 4)]
    array = {"SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_MAX": "19", "SLURM_ARRAY_TASK_COUNT": "5"}
    found = [
        find_rank({**array, "SLURM_ARRAY_TASK_ID": name, "SLURM_PROCID": task, "SLURM_NTASKS": "2"})
        for name in names for task in "01"
    ]  # fmt: skip
    assert [(each.rank, each.world) for each in found] == [(rank, 10) for rank in range(10)]


@pytest.mark.parametrize(
    ("variables", "given", "named"),
    [
        ({}, (1, None), "--world"),
        ({}, (None, 2), "--rank"),
        ({}, (2, 2), "--rank"),
        ({}, (-1, 2), "--rank"),
        ({}, (0, 0), "--world"),
        ({"RANK": "1"}, (None, None), "WORLD_SIZE"),
        ({"WORLD_SIZE": "2"}, (None, None), "RANK"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, (None, None), "RANK"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, (None, None), "RANK"),
        ({"OMPI_COMM_WORLD_RANK": "0"}, (None, None), "OMPI_COMM_WORLD_SIZE"),
        ({"SLURM_PROCID": "3"}, (None, None), "SLURM_NTASKS"),
        ({**SLURM, "SLURM_NTASKS": "2"}, (None, None), "SLURM_PROCID"),
        ({"SLURM_ARRAY_TASK_ID": "3"}, (None, None), "SLURM_ARRAY_TASK_MIN"),
        ({**ARRAY, "SLURM_ARRAY_TASK_MAX": "17"}, (None, None), "spaced"),
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "11"}, (None, None), "spaced"),
        (TORCHRUN, (4, 8), "torchrun's RANK"),
    ],
)
def test_a_contradiction_is_refused_and_named(variables, given, named):
    with pytest.raises(UsageError, match=named):
        find_rank(variables, *given)


@pytest.mark.parametrize(
    "flags", [["--rank", "0"], ["--rank", "2", "--world", "2"], ["--rank", "0", "--world", "1", "--runner", "local"]]
)
def test_wrong_use_is_exit_code_2_and_makes_nothing(flags, tmp_path):
    code, _, err = run("build", "d3s", "--out", str(tmp_path / "d3s"), *flags)
    assert code == 2
    assert "--rank" in err or "--world" in err
    assert list(tmp_path.iterdir()) == []


def test_libraries_do_not_see_that_others_were_launched(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    ranked = Rank()
    with ranked.build_context():
        assert not set(TORCHRUN) & set(os.environ)
    assert {name: os.environ[name] for name in TORCHRUN} == TORCHRUN


@pytest.mark.parametrize(("shards", "of"), [(0, 3), (2, 5), (7, 3), (8, 8), (1000, 7)])
def test_shares_cover_every_shard_once_and_differ_by_one(shards, of):
    shares = [own_shards(shards, rank, of) for rank in range(of)]
    assert sorted(number for each in shares for number in each) == list(range(shards))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_each_process_begins_with_its_share_and_goes_on_in_an_order_of_its_own():
    orders = [order_shards(40, rank, 4) for rank in range(4)]
    for rank, order in enumerate(orders):
        assert sorted(order) == list(range(40))
        assert order[:10] == own_shards(40, rank, 4)
    elsewhere = [[number for number in order[10:] if number >= 20] for order in orders[:2]]
    assert elsewhere[0] != elsewhere[1]


def events(log):
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.slow
def test_a_rank_takes_over_the_shards_of_one_that_is_killed(checkpoint, undisturbed, tmp_path):
    out, log = tmp_path / "d3s", tmp_path / "log.jsonl"
    arguments = ["build", *recipe(checkpoint, **LONG), "--out", str(out), "--log-json", str(log)]
    ranks = [start(*arguments, "--rank", str(rank), "--world", "2") for rank in range(2)]
    wait_for(lambda: len(markers(out)) >= 2, ranks[0])
    held: list[str] = []  # by the second rank: none for a moment between two shards

    def found() -> bool:
        working = json.loads(run("status", str(out), "--json")[1])["working"]
        held[:] = [each["shard"] for each in working if each["pid"] == ranks[1].pid]
        return bool(held)

    wait_for(found, ranks[1])
    (killed,) = held
    ranks[1].send_signal(signal.SIGKILL)
    ranks[1].communicate()
    output, err = ranks[0].communicate(timeout=120)
    assert (ranks[0].returncode, err) == (0, "")
    assert "32 samples" in output
    assert hashes(out) == hashes(undisturbed)
    assert litter(out) == []
    shards = [(each["shard"], each["rank"]) for each in events(log) if each["event"] == "shard"]
    assert len(shards) == len({shard for shard, _ in shards}) == 8
    assert dict(shards)["train-00000-of-00007"] == 0
    assert killed in dict(shards)
    assert run(*arguments, "--rank", "1", "--world", "2")[0] == 0  # started again, it finds nothing to do


@pytest.mark.slow
def test_ranks_that_end_together_are_all_done_and_the_card_is_written_once(checkpoint, undisturbed, tmp_path):
    out = tmp_path / "d3s"
    arguments = ["build", *recipe(checkpoint, **LONG), "--out", str(out), "--runner", "rank"]
    ranks = []
    for variables in ({"RANK": "0", "WORLD_SIZE": "2"}, {"RANK": "1", "WORLD_SIZE": "2"}):
        environment = {**ENVIRONMENT, **variables, "LOCAL_RANK": variables["RANK"], "MASTER_ADDR": "localhost"}
        ranks.append(Forked(arguments, env=environment))
    ended = [(*process.communicate(timeout=240), process.returncode) for process in ranks]
    assert [(code, err) for _, err, code in ended] == [(0, ""), (0, "")]
    assert hashes(out) == hashes(undisturbed)
    assert litter(out) == []


NO_LOCKS = """
import errno, fcntl, sys

from figureground.cli.main import main


def flock(*_):
    raise OSError(errno.ENOLCK, "No locks available")


fcntl.flock = flock
sys.exit(main())
"""
"""Runs the command on a system that has no locks."""


@pytest.mark.slow
def test_without_locks_each_rank_renders_its_share_and_the_last_writes_the_card(checkpoint, undisturbed, tmp_path):
    out, log = tmp_path / "d3s", tmp_path / "log.jsonl"
    arguments = ["build", *recipe(checkpoint, **LONG), "--out", str(out), "--log-json", str(log), "--world", "2"]
    late, first = (Forked([*arguments, "--rank", rank], NO_LOCKS, env=ENVIRONMENT) for rank in "10")
    ended = {}
    for rank, process in enumerate((first, late)):
        output, err = process.communicate(timeout=240)
        ended[rank] = (process.returncode, output, err)
    assert [ended[rank][0] for rank in (0, 1)] == [0, 0]
    assert "rank 1 waits until rank 0" in ended[1][2]
    assert hashes(out) == hashes(undisturbed)
    shards = [(each["shard"], each["rank"]) for each in events(log) if each["event"] == "shard"]
    assert sorted(rank for _, rank in shards) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert any("32 samples" in output for _, output, _ in ended.values())
    assert run("status", str(out))[0] == 0


@pytest.mark.slow
def test_without_locks_a_rank_that_ends_first_says_so(checkpoint, tmp_path):
    arguments = ["build", *recipe(checkpoint, **LONG), "--limit", "8", "--out", str(tmp_path / "d3s")]
    process = Forked([*arguments, "--rank", "0", "--world", "2"], NO_LOCKS, env=ENVIRONMENT)
    output, err = process.communicate(timeout=120)
    assert (process.returncode, output) == (0, "")
    assert "rank 0 of 2 has finished its share" in err
    assert not (tmp_path / "d3s" / "README.md").exists()
    assert json.loads(run("status", str(tmp_path / "d3s"), "--json")[1])["finished"] is False
