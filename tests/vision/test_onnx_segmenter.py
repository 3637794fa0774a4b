"""Salient-object networks as ONNX files: how images are prepared, what counts as nothing, and what is refused."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from disc_photographs import disc
from PIL import Image
from tiny_onnx import EDGE, save, save_salient

from figureground.core.errors import FiguregroundError
from figureground.models.needs import missing_segmenter, refuse_absent_segmenter
from figureground.models.onnx_files import fingerprint_onnx
from figureground.models.segmenter_files import format_public_name, identify_models
from figureground.vision.segmenters.onnx import MEAN, STD, prepare, to_probability


@pytest.fixture(scope="module")
def salient(tmp_path_factory):
    return save_salient(tmp_path_factory.mktemp("network") / "tiny.onnx")


def test_it_finds_what_stands_out_without_torch(salient, tmp_path):
    disc().save(tmp_path / "disc.png")
    code = (
        "import sys, numpy as np\nfrom PIL import Image\n"
        "from figureground.models.segmenter_files import find_kind\n"
        f"kind, rest = find_kind({f'onnx:{salient}'!r})\n"
        f"found, = kind.open(rest, 'cpu')([Image.open({str(tmp_path / 'disc.png')!r})], ['whatever'])\n"
        "y, x = np.mgrid[:90, :120]\n"
        "true = np.hypot(x - 60, y - 45) < 27\n"
        "print(found.shape, found.dtype, ((found > .5) & true).sum() / ((found > .5) | true).sum() > .9)\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["(90, 120) float32 True", "False"], done.stderr


def test_images_are_prepared_as_rembg_does():
    image = Image.new("RGB", (50, 30), (100, 50, 0))
    found = prepare(image, (EDGE, EDGE))
    assert found.shape == (1, 3, EDGE, EDGE)
    assert found.dtype == np.float32
    assert found[0, :, 5, 5] == pytest.approx((np.array([1.0, 0.5, 0.0]) - MEAN) / STD, abs=1e-5)
    assert np.isfinite(prepare(Image.new("RGB", (8, 8)), (EDGE, EDGE))).all()


def test_outputs_are_stretched_unless_nothing_stands_out():
    assert to_probability(np.array([[0.1, 0.6]], np.float32)).tolist() == [[0, 1]]
    faint = np.array([[0.01, 0.2]], np.float32)
    assert to_probability(faint).tolist() == faint.tolist()
    logits = to_probability(np.array([[-100.0, 0.0, 100.0]], np.float32))
    assert logits.tolist()[0] == pytest.approx([0, 0.5, 1])


def classifier(path):
    from onnx import helper

    weights = {"w": np.ones((3 * 8 * 8, 10), np.float32)}
    nodes = [helper.make_node("Flatten", ["pixels"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    return save(path, nodes, {"pixels": [1, 3, 8, 8]}, {"logits": [1, 10]}, weights)


def two_inputs(path):
    from onnx import helper

    nodes = [helper.make_node("Add", ["one", "two"], ["sum"])]
    return save(path, nodes, {"one": [1, 3, 8, 8], "two": [1, 3, 8, 8]}, {"sum": [1, 3, 8, 8]}, {})


@pytest.mark.parametrize(
    ("make", "named"), [(classifier, ["pixels", "logits", "1 × 10"]), (two_inputs, ["one", "two", "sum"])]
)
def test_a_network_that_is_no_segmenter_is_refused_with_what_it_takes_and_gives(make, named, tmp_path):
    from figureground.vision.segmentation import open_segmenter

    with pytest.raises(FiguregroundError, match="isn't a segmenter") as refused:
        open_segmenter(f"onnx:{make(tmp_path / 'other.onnx')}")
    assert all(name in str(refused.value) for name in named)


def test_names_and_identities_are_those_of_the_file(salient, tmp_path):
    assert format_public_name(f"onnx:{salient}") == "onnx:tiny.onnx"
    assert identify_models(f"onnx:{salient}") == [fingerprint_onnx(salient)]
    (need,) = missing_segmenter("cutouts.segmenter", f"onnx:{tmp_path / 'gone.onnx'}")
    assert "gone.onnx" in need.what
    with pytest.raises(FiguregroundError, match=r"--segmenter.*gone\.onnx"):
        refuse_absent_segmenter("--segmenter", f"onnx:{tmp_path / 'gone.onnx'}")
    with pytest.raises(FiguregroundError, match="name the file"):
        identify_models("onnx:")
