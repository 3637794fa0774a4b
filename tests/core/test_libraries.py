"""Output of libraries stays off the terminal, and a torchvision that doesn't fit torch is named."""

import gc
import importlib
import os
from importlib import metadata

import pytest
from colour_datasets import make_coloured
from commands import ENVIRONMENT, run
from PIL import Image

from figureground.core import libraries

COMPONENTS = ("components", "--class", "mug", "--images", "images", "--out", "out", "--classifier")


def write_package(folder, name, version, source):
    """An installed package of another version, in a directory for `PYTHONPATH`."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(source)
    about = folder / f"{name}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def run_with(folder, *arguments):
    (folder / "images").mkdir()
    for color in ("red", "blue"):
        Image.new("RGB", (32, 32), color).save(folder / "images" / f"{color}.png")
    path = os.pathsep.join(p for p in (str(folder), os.environ.get("PYTHONPATH")) if p)
    return run(*arguments, env={**ENVIRONMENT, "PYTHONPATH": path}, cwd=folder)


MISFIT = "raise RuntimeError('operator torchvision::nms does not exist')\n"


def test_a_torchvision_that_does_not_fit_torch_is_named_in_a_sentence_and_ignored(tmp_path):
    write_package(tmp_path, "torchvision", "0.15.2", MISFIT)
    dataset = make_coloured(tmp_path / "set", [("train", "bird", "grass", 0, "bird")])
    code, out, err = run_with(tmp_path, "evaluate", str(dataset), "--classifier", "pocket")
    assert code == 0, err
    assert "pocket: accuracy" in out
    assert err.count("torchvision 0.15.2 doesn't fit torch") == 1
    assert f"torch {metadata.version('torch')}" in err
    assert "torchvision::nms" in err
    assert err.count("\n") == 1


def test_where_torchvision_is_needed_its_misfit_is_the_error(tmp_path):
    write_package(tmp_path, "torchvision", "0.15.2", MISFIT)
    write_package(tmp_path, "timm", "1.0.0", "import torchvision\n")
    code, _, err = run_with(tmp_path, *COMPONENTS, "timm:resnet18")
    assert code == 1
    assert "classifier 'timm:resnet18' needs torchvision: torchvision 0.15.2 doesn't fit torch" in err


def test_warnings_and_chatter_of_libraries_stay_off_the_terminal(tmp_path):
    talk = (
        "import logging, warnings\n"
        "warnings.warn('timm.old is deprecated', FutureWarning)\n"
        "warnings.warn('a word about timm', UserWarning)\n"
        "logging.getLogger('timm.models').warning('overwriting a model')\n"
        "import transformers\n"
        "transformers.utils.logging.get_logger('transformers.x').warning('some weights were not used')\n"
        "import datasets, huggingface_hub\n"
        "datasets.logging.get_logger('datasets.x').warning('a cache was found')\n"
        "huggingface_hub.logging.get_logger('huggingface_hub.x').warning('unauthenticated requests')\n"
        "def create_model(name, pretrained): raise RuntimeError('no such model')\n"
    )
    write_package(tmp_path, "timm", "1.0.0", talk)
    (tmp_path / "timm" / "data.py").write_text("")
    code, out, err = run_with(tmp_path, *COMPONENTS, "timm:x")
    assert (code, out) == (1, "")
    assert err == "figureground: classifier 'timm:x' doesn't open: no such model\n"


@pytest.mark.parametrize("enabled", [True, False])
def test_an_import_leaves_the_garbage_collector_as_it_was_also_when_it_fails(enabled):
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with libraries.pause_garbage_collector():
            assert not gc.isenabled()
        assert gc.isenabled() == enabled
        with pytest.raises(ModuleNotFoundError), libraries.pause_garbage_collector():
            importlib.import_module("figureground.absent")
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
