"""A plan takes the speed at which a dataset was drawn, if it is drawn in the same way."""

import json

import pytest
from shared_fixtures import bed as bed
from tiny_checkpoints import make_checkpoint

from figureground.cli.main import main
from figureground.core.errors import RecipeError
from figureground.methods.d3s import D3S
from figureground.methods.ddb import DDB
from figureground.methods.measured_speed import dataset_of, read_measured
from figureground.methods.scgs import SCGS
from figureground.methods.spurious import Spurious

TINY = {
    "classes": ["bird", "car"], "backgrounds": ["grass", "snow"], "per_cell": {"train": 2}, "num_inference_steps": 3,
    "size": 32, "batch_size": 4, "threads": 1, "device": "cpu", "shard_size": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    checkpoint = str(make_checkpoint("sd1", folder / "checkpoint"))
    return D3S("pocket", checkpoint=checkpoint, **TINY).build(folder / "set", show_progress=False), checkpoint


def test_the_speed_is_that_of_the_shards_with_where_it_is_from(drawn):
    out, checkpoint = drawn
    more = D3S("pocket", checkpoint=checkpoint, **{**TINY, "per_cell": {"train": 50}})
    found = read_measured(out, more)
    assert found is not None
    assert found.images_per_second > 0
    for word in (str(out), "1 worker", "float32", "batches of 4"):
        assert word in found.source


@pytest.mark.parametrize(("field", "value"), [("num_inference_steps", 4), ("guidance_interval", [0.5, 1.0])])
def test_a_recipe_that_is_drawn_otherwise_is_refused_by_name(drawn, field, value):
    out, checkpoint = drawn
    with pytest.raises(RecipeError, match=field):
        read_measured(out, D3S("pocket", checkpoint=checkpoint, **{**TINY, field: value}))


@pytest.mark.parametrize("kind", [Spurious, SCGS, DDB])
def test_every_method_takes_the_speed_of_a_dataset_with_its_own_settings(bed, tmp_path, kind):
    inputs = {} if kind is Spurious else {"data": str(bed)}
    method = kind("pocket", **inputs)
    folder = tmp_path / "_figureground"
    folder.mkdir()
    (folder / "recipe.json").write_text(json.dumps(method.recipe(folder)))
    assert read_measured(tmp_path, method) is None  # no shard is finished, and no setting differs
    with pytest.raises(RecipeError, match="quantization"):
        read_measured(tmp_path, kind("pocket", **inputs, quantization="int8"))


def test_images_without_a_guide_are_drawn_in_other_time(drawn):
    out, checkpoint = drawn
    with pytest.raises(RecipeError, match="guide"):
        read_measured(out, D3S("pocket", checkpoint=checkpoint, **TINY, guide="none"))


def test_plan_reads_the_speed_of_the_dataset_whose_recipe_it_is_given_or_of_one_that_is_named(drawn, tmp_path, capsys):
    out, _ = drawn
    recipe = out / "_figureground" / "recipe.json"
    assert dataset_of(recipe) == out
    assert dataset_of(tmp_path / "mine.yaml") is None
    for more in ([], ["--images-per-second", str(out)]):
        assert main(["plan", "--recipe", str(recipe), "--json", *more]) == 0
        plan = json.loads(capsys.readouterr().out)
        assert plan["seconds"] == pytest.approx(plan["images"] / plan["images_per_second"])
        assert plan["measured"]["directory"] == str(out)
    assert main(["plan", "--recipe", str(recipe), "--set", "num_inference_steps=9"]) == 0  # its speed says nothing
    assert "images/s" not in capsys.readouterr().out
    assert main(["plan", "--recipe", str(recipe), "--images-per-second", str(tmp_path)]) in (1, 2)
    assert str(tmp_path) in capsys.readouterr().err
