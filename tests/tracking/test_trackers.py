"""The trackers of this package, with their real packages; skipped where those aren't installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ENVIRONMENT
from PIL import Image

from figureground.tracking.tracker import TRACKERS, Run

CONFIG = {"method": "erm", "epochs": 2, "nested": {"a": [1, None]}}


def report(name, image, steps=range(1, 7), resumed=False, step=0):
    """A run with a value a step, a picture and a table."""
    tracker = TRACKERS[name]()
    tracker.begin(Run("0a1b2c3d", "erm-seed-0", "group", CONFIG, resumed, step))
    for each in steps:
        tracker.log({"train/total": 10.0 * each + resumed, "train/learning_rate": 0.5}, each)
    tracker.image("preview", image, steps[-1])
    tracker.table("comparison", ["method", "worst", "worst_std"], [["erm", 0.25, None], ["jtt", 0.5, 0.125]])
    tracker.end(True)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "preview.png"
    Image.new("RGB", (12, 8), "red").save(path)
    return path


@pytest.fixture
def events(tmp_path, monkeypatch):
    """Read the event files of a run back."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "runs"))

    def read():
        found = reader.EventAccumulator(str(tmp_path / "runs" / "group" / "erm-seed-0-0a1b2c3d"), {"scalars": 0})
        return found.Reload()

    return read


def test_tensorboard_writes_scalars_a_picture_the_settings_and_a_table(events, image):
    report("tensorboard", image)
    found = events()
    assert [(each.step, each.value) for each in found.Scalars("train/total")] == [(n, 10.0 * n) for n in range(1, 7)]
    (picture,) = found.Images("preview")
    assert (picture.step, picture.width, picture.height) == (6, 12, 8)
    assert picture.encoded_image_string == image.read_bytes()
    (config,) = found.Tensors("config")
    assert json.loads(config.tensor_proto.string_val[0].decode().strip("`json\n")) == CONFIG
    (table,) = found.Tensors("comparison")
    assert table.tensor_proto.string_val[0].decode().splitlines() == [
        "| method | worst | worst_std |", "| --- | --- | --- |", "| erm | 0.25 | – |", "| jtt | 0.5 | 0.125 |",
    ]  # fmt: skip


def test_tensorboard_hides_what_a_resumed_run_repeats(events, image):
    report("tensorboard", image)
    report("tensorboard", image, range(5, 9), resumed=True, step=4)
    values = [(each.step, each.value) for each in events().Scalars("train/total")]
    assert values == [(n, 10.0 * n + (n > 4)) for n in range(1, 9)]


def test_tensorboard_shows_each_value_at_once(events, image):
    """A process that is killed loses none."""
    tracker = TRACKERS["tensorboard"]()
    tracker.begin(Run("0a1b2c3d", "erm-seed-0", "group", CONFIG, False, 0))
    tracker.log({"train/total": 3.0}, 1)
    assert [each.value for each in events().Scalars("train/total")] == [3.0]
    tracker.end(False)


def test_tensorboard_needs_neither_torch_nor_tensorflow(events, image, tmp_path):
    script = f"""
import sys
from pathlib import Path
from pathlib import Path
sys.modules["torch"] = sys.modules["tensorflow"] = None  # importing them fails
sys.path.insert(0, {str(__file__.rpartition("/")[0])!r})
from test_trackers import report
report("tensorboard", Path({str(image)!r}))
"""
    environment = {**ENVIRONMENT, "TENSORBOARD_LOGGING_DIR": str(tmp_path / "runs")}
    environment["PYTHONPATH"] = ":".join(filter(None, sys.path))
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
    assert len(events().Scalars("train/total")) == 6


def test_trackio_writes_to_its_local_database_and_resumes(image, tmp_path):
    """In a process of its own: trackio reads where its database is when it is imported."""
    pytest.importorskip("trackio")
    script = f"""
import sys
from pathlib import Path
from pathlib import Path
sys.path.insert(0, {str(__file__.rpartition("/")[0])!r})
from test_trackers import report
image = Path({str(image)!r})
report("trackio", image)
report("trackio", image, range(7, 9), resumed=True, step=6)
from trackio.sqlite_storage import SQLiteStorage
import json
import os
runs = SQLiteStorage.get_run_records("figureground")
logs = SQLiteStorage.get_logs("figureground", "erm-seed-0-0a1b2c3d")
config = SQLiteStorage.get_run_config("figureground", "erm-seed-0-0a1b2c3d")
Path("read.json").write_text(json.dumps([len(runs), config, logs]))
"""
    environment = {**ENVIRONMENT, "TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": ":".join(sys.path)}
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_PROJECT"):
        environment.pop(name, None)
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == ""  # it is for results
    count, config, logs = json.loads((tmp_path / "read.json").read_text())
    assert count == 1
    assert config["nested"] == CONFIG["nested"]
    values = {each["step"]: each["train/total"] for each in logs if "train/total" in each}
    assert values == {n: 10.0 * n + (n > 6) for n in range(1, 9)}
    assert any("preview" in each for each in logs)
    assert any("comparison" in each for each in logs)


def test_wandb_writes_locally_if_the_environment_says_so_and_names_no_machine(image, tmp_path):
    pytest.importorskip("wandb")
    script = f"""
import sys
from pathlib import Path
from pathlib import Path
sys.path.insert(0, {str(__file__.rpartition("/")[0])!r})
from test_trackers import report
report("wandb", Path({str(image)!r}))
"""
    environment = {**ENVIRONMENT, "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", script, "an-argument"]
    ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == ""
    (path,) = tmp_path.glob("wandb/offline-run-*/run-0a1b2c3d.wandb")
    written = path.read_bytes()
    assert b"train/total" in written
    assert b"erm-seed-0" in written
    for private in (str(tmp_path), "an-argument", sys.executable, "transformers"):
        assert private.encode() not in written


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_tensorboard_raises_at_the_value_that_a_full_disk_refuses(events, image, tmp_path, monkeypatch):
    tracker = TRACKERS["tensorboard"]()
    tracker.begin(Run("0a1b2c3d", "erm-seed-0", "group", CONFIG, False, 0))
    with Path("/dev/full").open("wb") as full:
        (file,) = (tmp_path / "runs" / "group" / "erm-seed-0-0a1b2c3d").iterdir()
        descriptor = next(int(each.name) for each in Path("/proc/self/fd").iterdir() if each.resolve() == file)
        os.dup2(full.fileno(), descriptor)
    with pytest.raises(OSError, match="No space left"):
        tracker.log({"train/total": 1.0}, 1)
