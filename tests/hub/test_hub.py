"""Publishing over real HTTP against a small Hub on loopback: what arrives, in what order, through which faults."""

import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from hub_server import Hub
from tiny_checkpoints import make_checkpoint

from figureground.checking.dataset import check
from figureground.curation.curating import curate
from figureground.hub.errors import HubError, explain_errors
from figureground.methods.d3s import D3S
from figureground.methods.extend import extend
from figureground.shards.finished import read_finished_index
from figureground.shards.formats.parquet import Parquet
from figureground.shards.markers import markers

NUMBERS = itertools.count(1)
RUNNERS = []
ADA, BOB = "hf_secretOfAda0123456789", "hf_secretOfBob0123456789"
TOKEN = re.compile(rb"hf_secretOf")

TINY = {
    "classes": ["bird", "car"], "backgrounds": ["grass", "snow"], "per_cell": {"train": 2, "validation": 1},
    "num_inference_steps": 2, "negative_prompt": "/ no path", "size": 32, "batch_size": 4, "threads": 1,
    "device": "cpu", "shard_size": 3,
    "image_format": "png",
}  # fmt: skip

# Imports once, with HF_ENDPOINT set before, and runs each command in a process of its own.
RUNNER = """
import json, os, sys
import figureground.checking.dataset, figureground.hub.push, huggingface_hub.hf_api, huggingface_hub.file_download
import datasets, httpx2, hf_xet, pyarrow.parquet, PIL.Image
from figureground.cli import main as cli
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if not child:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.environ.update(job["env"])
        code = 99
        try:
            code = cli.main(job["arguments"])
        except SystemExit as end:
            code = end.code
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


class Runner:
    """Runs `figureground` in processes whose Hub is the one on loopback."""

    def __init__(self, hub, folder, **env):
        self.folder, self.temporary, self.running = folder, folder / "tmp", False
        self.temporary.mkdir(parents=True)
        clean = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
        self.env = {
            **clean, "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "TMPDIR": str(self.temporary),
            "HF_DATASETS_CACHE": str(folder / "home" / "datasets"), "HF_UPDATE_DOWNLOAD_COUNTS": "0", **env,
        }  # fmt: skip
        RUNNERS.append(self)
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUNNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.env
        )

    def start(self, *arguments, **env):
        if self.running:  # a test failed before it waited
            self.wait()
        job = {
            "arguments": list(map(str, arguments)), "env": {"HF_TOKEN": ADA, **env},
            "out": str(self.folder / "out"), "err": str(self.folder / "err"),
        }  # fmt: skip
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        self.running = True
        return int(self.process.stdout.readline())

    def wait(self):
        code = int(self.process.stdout.readline())
        self.running = False
        done = Done(code, (self.folder / "out").read_text(), (self.folder / "err").read_text())
        for token in (ADA, BOB):
            assert token not in done.out + done.err
        return done

    def push(self, directory, name, *options, **env):
        self.start("push", directory, name, *options, **env)
        done = self.wait()
        assert "Traceback" not in done.err
        assert not list(self.temporary.glob("figureground-*"))
        return done

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(make_checkpoint("sd1", tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture(scope="module")
def dataset(checkpoint, tmp_path_factory):
    out = D3S("pocket", checkpoint=checkpoint, **TINY).build(tmp_path_factory.mktemp("d3s") / "set", False)
    (out / "report.html").write_text("drawn by show")
    (out / "report/data").mkdir(parents=True)
    (out / "report/data/index.js").write_text("drawn by show")
    (out / "_figureground" / ".index.lock").touch()
    (out / "notes.txt").write_text("somebody's")
    (out / "LICENSE").write_text("of the images")
    return out


@pytest.fixture(scope="module")
def hub(dataset, tmp_path_factory):
    with Hub(tmp_path_factory.mktemp("hub") / "store", {ADA: "ada", BOB: "bob"}) as hub:
        yield hub
        for folder in (hub.root, dataset, *(runner.folder for runner in RUNNERS)):
            for path in folder.rglob("*"):
                assert not path.is_file() or TOKEN.search(path.read_bytes()) is None, f"{path} holds a token"


@pytest.fixture(scope="module")
def http(hub, tmp_path_factory):
    runner = Runner(hub, tmp_path_factory.mktemp("http"), HF_HUB_DISABLE_XET="1")
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def xet(hub, tmp_path_factory):
    runner = Runner(hub, tmp_path_factory.mktemp("xet"))
    yield runner
    runner.close()


@pytest.fixture(params=["http", "xet"])
def runner(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def name(hub):
    """A repository that no other test has; without faults, and with empty logs."""
    hub.faults, hub.requests, hub.received = [], [], []
    return f"ada/set{next(NUMBERS)}"


@pytest.fixture
def copy(dataset, tmp_path):
    return Path(shutil.copytree(dataset, tmp_path / "copy"))


def one_line(done, code=1):
    """The message of a run that failed, which must be of one line."""
    assert done.code == code, done
    lines = [line for line in done.err.splitlines() if line.strip()]
    assert lines, done
    assert sum(line.startswith("figureground: ") for line in lines) == 1, done.err
    assert lines[-1].startswith("figureground: "), done.err
    return lines[-1]


def data_of(directory):
    return {path for marker in markers(directory).values() for path in marker["files"]}


def received(hub, kind):
    return [line.removeprefix(f"{kind} ") for line in hub.received if line.startswith(f"{kind} ")]


def download(hub, name, out, revision="main"):
    for path in hub.files(name, revision):
        if not path.startswith("."):
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            (out / path).write_bytes(hub.read(name, path, revision))
    return out


# What is sent, and that it can be read


READ = """
import hashlib, io, json, sys
from datasets import Image, load_dataset
import webdataset
name, splits = sys.argv[1], json.loads(sys.argv[2])
found = {}
for split, tars in splits.items():
    for way in ("whole", "streamed"):
        rows = load_dataset(name, split=split, streaming=way == "streamed").cast_column("image", Image(decode=False))
        found[f"{split} {way}"] = sorted(
            [row["key"], row["foreground"], row["background"], hashlib.sha256(row["image"]["bytes"]).hexdigest()]
            for row in rows
        )
    found[f"{split} webdataset"] = sorted(
        [row["__key__"], int(row["foreground.cls"]), int(row["background.cls"]), hashlib.sha256(row["png"]).hexdigest()]
        for row in webdataset.WebDataset([f"hf://datasets/{name}/{tar}" for tar in tars], shardshuffle=False)
    )
print(json.dumps(found))
"""


def test_what_is_pushed_is_read_back_by_load_dataset_and_webdataset(runner, hub, dataset, name):
    done = runner.push(dataset, name)
    assert (done.code, done.out.strip()) == (0, f"{hub.url}/datasets/{name}"), done
    samples = {
        split: sorted(
            [s.key, s.labels["foreground"], s.labels["background"], hashlib.sha256(s.image).hexdigest()]
            for path in sorted((dataset / "data").glob(f"{split}-*"))
            for s in Parquet().read(path)
        )
        for split in ("train", "validation")
    }
    tars = {
        split: [f"webdataset/{p.name}" for p in sorted((dataset / "webdataset").glob(f"{split}-*"))]
        for split in samples
    }
    read = subprocess.run(
        [sys.executable, "-c", READ, name, json.dumps(tars)],
        env={**runner.env, "HF_TOKEN": ADA}, capture_output=True, text=True,
    )  # fmt: skip
    assert read.returncode == 0, read.stderr
    assert json.loads(read.stdout.splitlines()[-1]) == {
        f"{split} {way}": rows for split, rows in samples.items() for way in ("whole", "streamed", "webdataset")
    }
    assert len(samples["train"]) == 8


def test_the_recipe_comes_first_then_data_then_the_index_and_the_card_last(runner, hub, dataset, name):
    assert runner.push(dataset, name).code == 0
    commits = hub.commits(name)
    assert commits[0] == ["_figureground/recipe.json"]
    assert {path for paths in commits[1:-2] for path in paths} > data_of(dataset)
    assert "_figureground/index.json" in commits[-2]
    assert commits[-1] == ["README.md", "_figureground/README.md"]
    assert hub.read(name, "README.md") == (dataset / "README.md").read_bytes()


def test_only_what_belongs_to_the_dataset_is_published(http, hub, dataset, name):
    assert http.push(dataset, name).code == 0
    here = {p.relative_to(dataset).as_posix() for p in dataset.rglob("*") if p.is_file()}
    left_out = {"report.html", "report/data/index.js", "notes.txt"} | {p for p in here if "/." in p or "/stages/" in p}
    assert "_figureground/.index.lock" in left_out
    assert set(hub.files(name)) == here - left_out | {".gitattributes", "_figureground/README.md"}


def test_a_second_run_sends_nothing(runner, hub, dataset, name):
    assert runner.push(dataset, name).code == 0
    commits, hub.received = hub.commits(name), []
    assert runner.push(dataset, name).code == 0
    assert hub.received == []
    assert hub.commits(name) == commits


def test_what_was_published_is_a_dataset_without_findings(http, hub, dataset, name, tmp_path):
    assert http.push(dataset, name).code == 0
    assert check(download(hub, name, tmp_path), show_progress=False).findings == []


@pytest.mark.parametrize(("kind", "folder"), [("parquet", "data"), ("webdataset", "webdataset")])
def test_one_format_alone_is_published_with_a_card_that_tells_of_it(http, hub, dataset, name, tmp_path, kind, folder):
    assert http.push(dataset, name, "--formats", kind).code == 0
    assert {p.split("/")[0] for p in hub.files(name) if p.split("/")[0] in ("data", "webdataset")} == {folder}
    there = download(hub, name, tmp_path)
    assert f"path: {folder}/train-" in (there / "README.md").read_text()
    assert read_finished_index(there)["formats"] == [kind]
    assert check(there, show_progress=False).findings == []
    assert json.loads((there / "_figureground" / "recipe.json").read_text())["execution"]["formats"] == [kind]
    assert http.push(dataset, name).code == 0
    assert data_of(dataset) <= set(hub.files(name))
    assert "in this dataset" in one_line(http.push(dataset, name, "--formats", kind))


def test_published_rejects_are_a_config_of_their_own(http, hub, dataset, name, tmp_path):
    chosen = curate(dataset, tmp_path / "chosen", "background != 'snow'", publish_rejects=True, show_progress=False)
    assert http.push(chosen, name).code == 0
    assert {path for path in data_of(chosen) if path.startswith("rejects/")} <= set(hub.files(name))
    load = (
        "import sys\nfrom datasets import load_dataset\n"
        "print(*(len(load_dataset(sys.argv[1], c, split='train')) for c in ('default', 'rejects')))"
    )
    read = subprocess.run(
        [sys.executable, "-c", load, name], env={**http.env, "HF_TOKEN": ADA}, capture_output=True, text=True
    )
    assert read.stdout.split() == ["4", "4"], read.stderr
    tars = f"ada/set{next(NUMBERS)}"
    assert http.push(chosen, tars, "--formats", "webdataset").code == 0
    assert not [path for path in hub.files(tars) if path.endswith(".parquet")]
    assert check(download(hub, tars, tmp_path / "there"), show_progress=False).findings == []


def test_a_format_that_the_dataset_lacks_is_wrong_use(http, dataset, name):
    assert "--formats: unknown format 'zip'; known are parquet, webdataset" in one_line(
        http.push(dataset, name, "--formats", "zip"), 2
    )


def test_places_on_this_machine_are_not_published(http, hub, dataset, name, checkpoint):
    assert http.push(dataset, name).code == 0
    assert "sd1" in hub.read(name, "_figureground/recipe.json").decode()
    for path in ("_figureground/recipe.json", "_figureground/index.json", "README.md"):
        assert str(Path(checkpoint).parent.name) not in hub.read(name, path).decode()


# Faults


def test_a_moment_of_trouble_is_waited_out(runner, hub, dataset, name):
    hub.fail("POST", f"{name}/commit/", 503, after=1)
    done = runner.push(dataset, name)
    assert done.code == 0, done
    assert hub.read(name, "README.md") == (dataset / "README.md").read_bytes()


def test_lasting_trouble_is_one_line_and_the_next_run_sends_the_rest(http, hub, dataset, name):
    hub.fail("POST", f"{name}/commit/", 503, after=2, times=100)
    message = one_line(http.push(dataset, name))
    assert "503" in message
    assert "the same command sends the rest" in message
    assert "README.md" not in hub.files(name)
    sent, hub.received, hub.faults = received(hub, "lfs"), [], []
    assert sent
    assert http.push(dataset, name).code == 0
    assert received(hub, "put") == received(hub, "lfs") == []


@pytest.mark.parametrize(("way", "at"), [("http", 1), ("http", 2), ("http", 3), ("xet", 2)])
def test_a_refusal_in_the_middle_announces_nothing_and_the_next_run_sends_the_rest(
    request, hub, dataset, name, way, at
):
    runner = request.getfixturevalue(way)
    hub.fail("POST", f"{name}/commit/", 403, after=at, times=100)
    message = one_line(runner.push(dataset, name))
    assert "403" in message
    assert "no write access" in message
    assert "README.md" not in hub.files(name)
    before, hub.received, hub.faults = set(hub.files(name)), [], []
    assert runner.push(dataset, name).code == 0
    assert not before & {*received(hub, "file"), *received(hub, "lfs")}
    assert data_of(dataset) <= set(hub.files(name))


def test_a_dropped_connection_is_gone_over(http, hub, dataset, name):
    hub.fail("PUT", "/lfs/", after=1)
    hub.fail("POST", f"{name}/commit/", after=1)
    assert http.push(dataset, name).code == 0
    assert hub.read(name, "README.md") == (dataset / "README.md").read_bytes()


def test_a_killed_push_is_gone_on_with_by_the_same_command(http, hub, dataset, name):
    held = threading.Event()
    hub.fail("PUT", "/lfs/", after=2, times=1, hold=held)
    child = http.start("push", dataset, name)
    assert held.wait(60)
    os.kill(child, signal.SIGKILL)
    assert http.wait().code == -signal.SIGKILL
    for left in http.temporary.glob("figureground-push-*"):
        shutil.rmtree(left)
    arrived = set(received(hub, "put"))
    assert arrived
    assert "README.md" not in hub.files(name)
    hub.received = []
    assert http.push(dataset, name).code == 0
    again = received(hub, "put")
    assert again
    assert not arrived & set(again)
    assert data_of(dataset) <= set(hub.files(name))


def test_what_the_hub_loses_is_reported_and_the_card_held_back(http, hub, dataset, name):
    lost = sorted(data_of(dataset))[0]
    hub.lost = {f"{name}/{lost}"}
    message = one_line(http.push(dataset, name))
    assert f"{lost} is missing" in message
    assert "README.md" not in hub.files(name)
    hub.lost = set()
    assert http.push(dataset, name).code == 0


# Errors


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"HF_TOKEN": "hf_wrong"}, "log in with `hf auth login`"),
        ({"HF_TOKEN": ""}, "log in with `hf auth login`"),
        ({"HF_TOKEN": BOB}, "no write access"),
    ],
)
def test_who_may_not_write_is_told_what_to_do(http, hub, dataset, name, env, says):
    assert says in one_line(http.push(dataset, name, **env))
    assert name not in hub.repositories


@pytest.mark.parametrize(
    ("env", "says"),
    [({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"), ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "no connection to http://127.0.0.1:9")],
)  # fmt: skip
def test_without_a_network_the_error_says_so(http, dataset, name, env, says):
    done = subprocess.run(
        [sys.executable, "-m", "figureground.cli.main", "push", dataset, name],
        env={**http.env, "HF_TOKEN": ADA, **env}, capture_output=True, text=True,
    )  # fmt: skip
    assert says in one_line(Done(done.returncode, done.stdout, done.stderr))


@pytest.mark.parametrize("bad", ["set", "a/b/c", "ada/--set", "ada/se t", "https://huggingface.co/ada/set"])
def test_a_malformed_name_is_wrong_use(http, hub, dataset, name, bad):
    assert "USER/NAME" in one_line(http.push(dataset, bad), 2)
    assert hub.requests == []


def test_a_gated_repository_of_somebody_else_is_named(http, hub, dataset, name):
    hub.create("bob/gated").gated = True
    assert "gated" in one_line(http.push(dataset, "bob/gated"))


@pytest.mark.parametrize(("status", "says"), [(429, "Wait a few minutes"), (413, "storage limit"), (404, "not found")])
def test_other_answers_of_the_hub_are_explained(http, hub, dataset, name, status, says):
    hub.fail("POST", f"{name}/commit/", status, times=100, headers={"Retry-After": "0"})
    assert says in one_line(http.push(dataset, name))


def test_a_full_disk_is_named():
    with (
        pytest.raises(HubError, match=r"ada/set: No space left on device: /tmp/x\. Free space there"),
        explain_errors("ada/set"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/x")


def test_a_license_that_the_hub_does_not_know_is_named(http, hub, copy, name):
    card = copy / "README.md"
    card.write_text(card.read_text().replace("license: unknown", "license: my own"))
    assert '"license" must be one of a list' in one_line(http.push(copy, name))


def test_a_dataset_with_findings_is_not_pushed(http, hub, copy, name):
    shard = sorted((copy / "data").iterdir())[0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    done = http.push(copy, name)
    assert done.code == 1
    assert "finding" in done.err
    assert shard.name in done.err
    assert name not in hub.repositories


def test_an_unfinished_build_is_not_pushed(http, hub, copy, name):
    marker = sorted((copy / "_figureground" / "shards").iterdir())[0]
    marker.unlink()
    assert "isn't finished" in one_line(http.push(copy, name))
    (copy / "_figureground" / "index.json").unlink()
    assert "no finished dataset" in one_line(http.push(copy, name))
    assert "no finished dataset" in one_line(http.push(copy / "nowhere", name))
    assert hub.requests == []


# What is there already


def test_a_repository_of_another_recipe_is_left_as_it_is(http, hub, dataset, checkpoint, name, tmp_path):
    other = D3S("pocket", checkpoint=checkpoint, **TINY, seed=1).build(tmp_path / "other", False)
    assert http.push(dataset, name).code == 0
    before = hub.files(name)
    assert "another recipe" in one_line(http.push(other, name))
    assert hub.files(name) == before


def test_a_repository_that_holds_something_else_is_left_as_it_is(http, hub, dataset, name):
    hub.create(name)
    hub.edit(name, {"train.csv": b"a,b"})
    before = hub.files(name)
    assert "holds something else (train.csv)" in one_line(http.push(dataset, name))
    assert hub.files(name) == before


def test_files_on_the_hub_that_are_not_the_datasets_stay(http, hub, dataset, name):
    assert http.push(dataset, name).code == 0
    hub.edit(name, {"paper.pdf": b"read me"})
    assert http.push(dataset, name).code == 0
    assert hub.read(name, "paper.pdf") == b"read me"


def test_a_shard_rendered_again_replaces_the_one_on_the_hub(http, hub, dataset, name):
    assert http.push(dataset, name).code == 0
    shard = sorted(data_of(dataset))[0]
    hub.edit(name, {shard: b"broken"})
    hub.received = []
    assert http.push(dataset, name).code == 0
    assert hub.read(name, shard) == (dataset / shard).read_bytes()
    assert hub.received == [f"lfs {shard}"]


def test_an_extended_dataset_is_pushed_over_the_earlier_one_and_not_the_other_way(http, hub, dataset, copy, name):
    assert http.push(dataset, name).code == 0
    extend(copy, {"train": 3}, show_progress=False)
    hub.received = []
    assert http.push(copy, name).code == 0
    assert {p for p in received(hub, "lfs") if p.startswith(("data/", "webdataset/"))} == data_of(copy) - data_of(
        dataset
    )
    before = hub.files(name)
    assert one_line(http.push(dataset, name))
    assert hub.files(name) == before


def test_what_was_written_on_the_hub_into_the_card_survives(http, hub, copy, name):
    hub.create(name)
    hub.edit(name, {"README.md": b"---\nlicense: mit\n---\n"})
    assert http.push(copy, name).code == 0
    there = hub.read(name, "README.md").decode()
    assert "license: mit" in there
    hub.edit(name, {"README.md": there.replace("# ", "# My ", 1).encode() + b"\nThanks to all.\n"})
    (copy / "README.md").write_text((copy / "README.md").read_text().replace("tags:", "language: en\ntags:"))
    assert http.push(copy, name).code == 0
    there = hub.read(name, "README.md").decode()
    for text in ("license: mit", "language: en", "# My ", "Thanks to all."):
        assert text in there
    commits = hub.commits(name)
    assert http.push(copy, name).code == 0
    assert hub.commits(name) == commits


# Branches, pull requests, rights


def test_a_branch_is_made_and_main_is_left_alone(http, hub, dataset, name):
    hub.create(name)
    done = http.push(dataset, name, "--revision", "v2/draft")
    assert (done.code, done.out.strip()) == (0, f"{hub.url}/datasets/{name}/tree/v2/draft")
    assert set(hub.files(name)) == {".gitattributes"}
    assert data_of(dataset) <= set(hub.files(name, "v2/draft"))


def test_a_pull_request_that_does_not_exist_is_named(http, hub, dataset, name):
    hub.create(name)
    assert "--revision" in one_line(http.push(dataset, name, "--revision", "refs/pr/9"))


def test_all_goes_into_one_pull_request_also_after_a_fault(runner, hub, dataset, name):
    hub.create(name)
    hub.fail("POST", f"{name}/commit/", 403, after=2)
    assert "403" in one_line(runner.push(dataset, name, "--create-pr"))
    done = runner.push(dataset, name, "--create-pr")
    assert (done.code, done.out.strip()) == (0, f"{hub.url}/datasets/{name}/discussions/1"), done
    assert len(hub.repositories[name].pulls) == 1
    assert set(hub.files(name)) == {".gitattributes"}
    assert data_of(dataset) <= set(hub.files(name, "refs/pr/1"))
    assert hub.commits(name, "refs/pr/1")[-1] == ["README.md", "_figureground/README.md"]


def test_who_has_no_right_to_write_can_propose_the_files(http, hub, dataset, name):
    hub.create(name)
    assert http.push(dataset, name, "--create-pr", HF_TOKEN=BOB).code == 0
    assert set(hub.files(name)) == {".gitattributes"}
    assert data_of(dataset) <= set(hub.files(name, "refs/pr/1"))


def test_a_pull_request_against_a_branch_is_wrong_use(http, dataset, name):
    assert "--create-pr" in one_line(http.push(dataset, name, "--create-pr", "--revision", "next"), 2)


def test_a_private_repository_is_created_private_and_a_public_one_refused(http, hub, dataset, name):
    assert http.push(dataset, name, "--private").code == 0
    assert hub.repositories[name].private
    hub.repositories[name].private = False
    hub.received = []
    assert "is public" in one_line(http.push(dataset, name, "--private"))
    assert hub.received == []
