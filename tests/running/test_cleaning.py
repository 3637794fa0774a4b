"""`figureground clean` frees what a build leaves, says how much, and takes no work from a build unasked."""

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
from commands import LONG, litter, markers, recipe, run, start, wait_for
from repaint_datasets import EASY

from figureground.checking.dataset import check
from figureground.methods.ddb import DDB
from figureground.pocket import birds
from figureground.running.cleaning import clean
from figureground.shards.journal import count_rendered


def contents(out: Path, *but: str) -> dict[str, bytes]:
    """Every file of a dataset, but for those below some folders."""
    paths = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in paths.items() if not name.startswith(but)}


@pytest.mark.slow
def test_an_unfinished_build_is_cleaned_only_if_asked_and_can_be_finished(checkpoint, tmp_path):
    out = tmp_path / "d3s"
    process = start("build", *recipe(checkpoint, **{**LONG, "shard_size": 8}), "--out", str(out))

    def stopped_within_a_shard():
        process.send_signal(signal.SIGSTOP)
        if markers(out) and count_rendered(out)[0]:
            return True
        process.send_signal(signal.SIGCONT)
        return False

    wait_for(stopped_within_a_shard, process)
    code, _, err = run("clean", str(out), "--unfinished")
    assert code == 1
    assert "running" in err
    process.send_signal(signal.SIGKILL)
    process.communicate()

    files = sorted((out / "_figureground" / "journal").glob("*.journal"))
    size, before = sum(path.stat().st_size for path in files), contents(out)
    code, _, err = run("clean", str(out))
    assert code == 1
    assert re.search(r"\d+ rendered images?.*--unfinished", err)
    code, output, _ = run("clean", str(out), "--dry-run")
    assert (code, contents(out)) == (0, before)
    assert "would free" in output
    result = clean(out, unfinished=True)
    assert (result.journals, result.unfinished) == (size, True)
    assert not (out / "_figureground" / "journal").exists()
    assert run("build", *recipe(checkpoint, **{**LONG, "shard_size": 8}), "--out", str(out))[0] == 0
    assert check(out, show_progress=False).findings == []


@pytest.mark.slow
def test_of_a_finished_set_the_stages_go_and_all_else_stays(tmp_path):
    out = tmp_path / "ddb"
    data = birds.write(tmp_path / "birds", 40, 8, 8, bias_aligned_share=0.95, size=32, show_progress=False)
    DDB("pocket", data=str(data), **EASY).build(out, show_progress=False)
    answers = out / "_figureground" / "annotations" / "anna.jsonl"
    answers.parent.mkdir()
    answers.write_text("{}\n")
    copies = out / "_figureground" / "stages" / "references" / "a.png"
    copies.parent.mkdir()
    copies.write_bytes(b"an image")
    draft = out / "_figureground" / "scores" / ".ddb.csv.123-0123456789abcdef.tmp"
    draft.write_bytes(b"half")
    there = contents(out, "_figureground/stages")
    del there[draft.relative_to(out).as_posix()]
    assert there["_figureground/scores/ddb.csv"]
    stages = {path.name for path in (out / "_figureground" / "stages").iterdir()}

    code, output, err = run("clean", str(out))
    assert (code, err) == (0, "")
    left = {path.name for path in (out / "_figureground" / "stages").iterdir()}
    freed = set(re.findall(r"stage ([\w-]+):", output))
    assert freed == stages - left
    assert {"errors", "jobs", "masks"} & freed
    assert "drafts: 4 B" in output
    assert contents(out, "_figureground/stages") == there
    assert copies.read_bytes() == b"an image"
    assert litter(out) == []
    assert check(out, show_progress=False).findings == []
    assert clean(out).bytes == 0


def test_what_is_no_dataset_of_this_machine_is_refused(tmp_path, undisturbed):
    code, _, err = run("clean", "s3://bucket/set")
    assert code == 2
    assert "s3://bucket/set/_figureground/stages" in err
    (tmp_path / "photos").mkdir()
    code, _, err = run("clean", str(tmp_path / "photos"))
    assert code == 1
    assert "recipe.json" in err
    scratch = tmp_path / "scratch"
    shutil.copytree(undisturbed, scratch)
    (scratch / "_figureground" / ".store.json").write_text(json.dumps({"url": "s3://bucket/set"}))
    code, _, err = run("clean", str(scratch))
    assert code == 1
    assert "s3://bucket/set" in err
