"""Builds where only what they need is installed."""

import json
import subprocess
import sys

from commands import ENVIRONMENT, recipe

ABSENT = """
import sys
for name in ("pyarrow", "datasets", "pandas", "scipy", "matplotlib", "psutil", "accelerate", "peft"):
    sys.modules[name] = None  # its import fails, and it isn't found
from figureground.cli.main import main
sys.exit(main())
"""


def build(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ABSENT, "build", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)


def test_tars_alone_need_neither_pyarrow_nor_datasets(checkpoint, tmp_path):
    settings = recipe(checkpoint, limit=3, batch_size="null", num_inference_steps=2)
    out = tmp_path / "tars"
    done = build(*settings, "--set", "formats=[webdataset]", "--out", str(out))
    assert done.returncode == 0, done.stderr
    names = ["train-00000-of-00001.tar", "validation-00000-of-00001.tar"]
    assert sorted(path.name for path in out.glob("*/*.tar")) == names
    assert "class_label" in (out / "README.md").read_text()
    numerics = json.loads((out / "_figureground" / "numerics.json").read_text())
    assert numerics["versions"]["pyarrow"]  # what metadata says
    assert numerics["batch_size"] == 2  # a shard of two images doesn't cost sixteen

    done = build(*settings, "--out", str(tmp_path / "both"))
    assert done.returncode == 2
    for word in ("formats", "parquet", "pyarrow", "datasets", "[webdataset]"):
        assert word in done.stderr
    assert not (tmp_path / "both").exists()
