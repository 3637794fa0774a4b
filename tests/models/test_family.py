"""Answers of families about checkpoints that aren't opened."""

import json
import subprocess
import sys

import pytest

from figureground.core.errors import FiguregroundError
from figureground.models.bundled import WEIGHTS
from figureground.models.family import FAMILIES, recognise
from figureground.models.weights import edge_multiple, find_family

REFUSED = """
import sys
from figureground.cli.main import main
code = main(["plan", "d3s", "--set", "checkpoint=" + sys.argv[1]])
print(code, "torch" in sys.modules)
"""


def test_a_checkpoint_of_no_family_is_refused_without_torch_saying_how_to_add_one(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "KolorsPipeline"}))
    done = subprocess.run([sys.executable, "-c", REFUSED, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.split() == ["2", "False"], done.stderr
    accepted = [name for name, family in FAMILIES.items() if family.PIPELINES]
    for named in ("KolorsPipeline", *accepted, "docs/models.md"):
        assert named in done.stderr


@pytest.mark.parametrize("name", FAMILIES.names())
def test_every_family_recognises_its_own_pipelines_and_no_other_family_does(name):
    family = FAMILIES[name]
    for pipeline in (*family.PIPELINES, *family.INPAINTING):
        assert type(recognise(pipeline, "it")) is family
    for pipeline in family.INPAINTING:
        with pytest.raises(FiguregroundError, match=rf"is a {pipeline}; supported are .*sdxl") as refused:
            recognise(pipeline, "it", inpaint=False)
        assert "()" not in str(refused.value)
        assert "made for inpainting" in str(refused.value)


@pytest.mark.parametrize(("strength", "steps", "run"), [(0.58, 50, 29), (0.9, 16, 14), (1.0, 50, 50), (0.05, 16, 0)])
def test_stable_diffusion_rounds_the_steps_on_a_guide_down_as_its_pipelines_do(strength, steps, run):
    start = recognise("StableDiffusionPipeline", "it").start(strength, steps)
    assert start.steps == run == min(int(steps * start.strength), steps)


def test_a_family_is_known_by_files_alone(tmp_path):
    assert find_family("pocket", None).NAME == "sd"
    assert find_family(str(tmp_path), None) is None
    assert find_family("nobody/nothing", None) is None
    assert edge_multiple(WEIGHTS, "pocket") == 8
