"""ONNX files are checked before onnxruntime opens them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from tiny_onnx import EDGE, save_beside, save_salient

from figureground.core.errors import FiguregroundError
from figureground.models.onnx_files import MAX_NESTED, check_onnx, fingerprint_onnx, open_onnx

WHAT = "segmenter 'onnx:tiny.onnx'"


@pytest.fixture
def salient(tmp_path: Path) -> Path:
    (tmp_path / "network").mkdir()
    return save_salient(tmp_path / "network" / "tiny.onnx")


def _weights(path: Path) -> bytes:
    return next(t.raw_data for t in onnx.load(path).graph.initializer if t.name == "weight")


def test_a_network_says_what_it_takes_and_gives(salient: Path) -> None:
    network = open_onnx(salient, WHAT)
    (taken,) = network.inputs
    assert (taken.name, taken.dtype, taken.shape) == ("image", "float32", (1, 3, EDGE, EDGE))
    assert [port.name for port in network.outputs] == [f"d{i}" for i in range(7)]
    assert "image (float32, 1 × 3 × 64 × 64)" in network.describe()
    (found,) = network({"image": np.zeros((1, 3, EDGE, EDGE), np.float32)}, ["d0"])
    assert found.shape == (1, 1, EDGE, EDGE)
    assert ((found > 0) & (found < 1)).all()


def test_nothing_is_written_into_the_home_directory(salient: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "import sys, pathlib, figureground.models.onnx_files as files; files.open_onnx(pathlib.Path(sys.argv[1]), 'x')"
    )
    hidden = {"XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | {"HOME": str(home)}
    subprocess.run([sys.executable, "-c", code, str(salient)], check=True, env=environment)
    assert not list(home.rglob("*"))


def test_arrays_of_another_shape_are_named(salient: Path) -> None:
    with pytest.raises(FiguregroundError, match=r"tiny\.onnx.*image.*64 × 64"):
        open_onnx(salient, WHAT)({"image": np.zeros((1, 3, 8, 8), np.float32)})


def test_its_identity_is_the_files_hash(salient: Path, tmp_path: Path) -> None:
    assert fingerprint_onnx(salient) == f"sha256:{hashlib.sha256(salient.read_bytes()).hexdigest()}"
    assert open_onnx(salient, WHAT).sha256 == fingerprint_onnx(salient)


def test_weights_beside_the_file_are_read_and_hashed(salient: Path) -> None:
    content = _weights(salient)
    beside = salient.with_name("weights.bin")
    beside.write_bytes(content)
    save_beside(salient, "weights.bin")
    assert check_onnx(salient, WHAT) == [salient, beside]
    before = fingerprint_onnx(salient)
    assert open_onnx(salient, WHAT).inputs
    beside.write_bytes(bytes(len(content)))
    assert fingerprint_onnx(salient) != before


@pytest.mark.parametrize("location", ["../outside.bin", "/etc/passwd", "sub/../../outside.bin", "link.bin", ""])
def test_weights_outside_the_folder_are_refused(salient: Path, location: str) -> None:
    (salient.parents[1] / "outside.bin").write_bytes(_weights(salient))
    os.symlink("../outside.bin", salient.with_name("link.bin"))
    save_beside(salient, location)
    with pytest.raises(FiguregroundError, match="outside its folder"):
        open_onnx(salient, WHAT)


def test_weights_in_a_branch_outside_the_folder_are_refused(salient: Path) -> None:
    save_beside(salient, "../outside.bin")
    inner = onnx.load(salient, load_external_data=False).graph
    outer = helper.make_graph([helper.make_node("If", ["yes"], ["d0"], then_branch=inner)], "outer", [], [])
    salient.write_bytes(helper.make_model(outer).SerializeToString())
    with pytest.raises(FiguregroundError, match=r"outside its folder.*outside\.bin"):
        check_onnx(salient, WHAT)


def test_missing_weights_are_named(salient: Path) -> None:
    with pytest.raises(FiguregroundError, match=r"gone\.bin"):
        check_onnx(save_beside(salient, "gone.bin"), WHAT)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"PK\x03\x04" + bytes(60), "torch.onnx.export"),
        (b"\x08\x09", "not an ONNX file"),
        (bytes(range(256)), "not an ONNX file"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    with pytest.raises(FiguregroundError, match=f"segmenter.*{named}"):
        open_onnx(path, WHAT)


def test_a_file_that_was_cut_short_is_refused(salient: Path) -> None:
    salient.write_bytes(salient.read_bytes()[:-40])
    with pytest.raises(FiguregroundError, match="cut short"):
        check_onnx(salient, WHAT)


def test_missing_files_and_pipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FiguregroundError, match=r"nothing\.onnx"):
        check_onnx(tmp_path / "nothing.onnx", WHAT)
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(FiguregroundError, match="regular file"):
        check_onnx(tmp_path / "pipe.onnx", WHAT)


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    def wrapped(content: bytes, tag: int) -> bytes:
        length, size = len(content), b""
        while length > 127:
            size, length = size + bytes([length & 127 | 128]), length >> 7
        return bytes([tag]) + size + bytes([length]) + content

    graph = b""
    for _ in range(MAX_NESTED + 2):  # graph → node → attribute → graph
        graph = wrapped(wrapped(wrapped(graph, 0x32), 0x2A), 0x0A)
    path = tmp_path / "deep.onnx"
    path.write_bytes(wrapped(graph, 0x3A))
    with pytest.raises(FiguregroundError, match="nested"):
        check_onnx(path, WHAT)


def test_unknown_operators_are_named(tmp_path: Path) -> None:
    path = save_salient(tmp_path / "tiny.onnx")
    network = onnx.load(path)
    network.graph.node[0].op_type = "Unheard"
    path.write_bytes(network.SerializeToString())
    with pytest.raises(FiguregroundError, match="Unheard"):
        open_onnx(path, WHAT)
