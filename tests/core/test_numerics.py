"""The processor in the numerics: what the last bit depends on, and what earlier releases wrote there."""

import json
import os
import platform
import subprocess
import sys

import pytest
import torch

from figureground.core.accelerator import processor_name
from figureground.core.errors import FiguregroundError
from figureground.core.numerics import cpu_model, record_numerics, refuse_other_numerics

MINE = {
    "device": "cpu", "dtype": "float32", "batch_size": 4, "threads": 1, "revision": None, "versions": {},
    "processor": "A CPU, AVX2",
}  # fmt: skip


def recorded(path, **changes):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**MINE, **changes, "mixed": []}))
    return path


def test_the_processor_is_the_cpu_and_the_instructions_that_torch_uses():
    name = processor_name(torch.device("cpu"))
    assert name == f"{cpu_model()}, {torch.backends.cpu.get_cpu_capability()}"
    assert cpu_model() not in ("", "x86_64")


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="torch has one set of instructions here")
def test_fewer_instructions_are_another_processor():
    script = "import torch; from figureground.core.accelerator import processor_name as name; "
    script += "print(name(torch.device('cpu')))"
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    result = subprocess.run([sys.executable, "-c", script], env=environment, text=True, capture_output=True, check=True)
    assert result.stdout.strip() == f"{cpu_model()}, DEFAULT"


def test_two_cpus_are_not_mixed(tmp_path):
    path = recorded(tmp_path / "private" / "numerics.json", processor="Another CPU, AVX512")
    with pytest.raises(FiguregroundError, match=r'processor: "Another CPU, AVX512", now "A CPU, AVX2"'):
        record_numerics(path, MINE, False, started=True)


def test_the_architecture_that_earlier_releases_recorded_is_resumed_and_replaced(tmp_path, capsys):
    path = recorded(tmp_path / "private" / "numerics.json", processor=platform.machine())
    refuse_other_numerics(path, MINE, False)
    record_numerics(path, MINE, False, started=True)
    assert json.loads(path.read_text()) == {**MINE, "mixed": []}
    assert platform.machine() in capsys.readouterr().err
    with pytest.raises(FiguregroundError, match="processor"):
        record_numerics(path, {**MINE, "processor": "Another CPU, AVX512"}, False, started=True)


def test_another_architecture_than_an_earlier_release_recorded_is_refused(tmp_path):
    path = recorded(tmp_path / "private" / "numerics.json", processor="sparc64")
    with pytest.raises(FiguregroundError, match="sparc64"):
        record_numerics(path, MINE, False, started=True)
