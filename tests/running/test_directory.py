"""A directory holds one recipe, and what fails there leaves it as it was found."""

import json

import pytest
from commands import TINY, markers
from tiny_checkpoints import make_checkpoint

from figureground import D3S
from figureground.core.errors import FiguregroundError
from figureground.core.values import field_types
from figureground.methods.d3s_settings import D3SConfig
from figureground.methods.extend import extend
from figureground.recipe.document import apply_settings
from figureground.running.directory import RECIPE, claim_directory, describe_progress
from figureground.shards.shard import MARKERS

SETTINGS = apply_settings({}, [f"{name}={value}" for name, value in TINY.items()], {}, field_types(D3SConfig))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(make_checkpoint("sd1", tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture
def built(checkpoint, tmp_path):
    return D3S("pocket", checkpoint=checkpoint, **SETTINGS, limit=8).build(tmp_path / "d3s", show_progress=False)


def test_another_recipe_is_refused_again_and_again_before_a_shard_is_done(checkpoint, tmp_path):
    first = D3S("pocket", checkpoint=checkpoint, **SETTINGS)
    other = D3S("pocket", checkpoint=checkpoint, **SETTINGS, strength=0.5)
    out = tmp_path / "d3s"
    with claim_directory(out, first.recipe(out / "_figureground"), lambda: ""):
        saved = (out / RECIPE).read_bytes()
    for _ in range(2):
        with pytest.raises(FiguregroundError, match="another recipe"):
            other.build(out, show_progress=False)
        assert (out / RECIPE).read_bytes() == saved


def test_a_failing_run_in_a_finished_dataset_whose_markers_are_gone_takes_nothing_from_it(checkpoint, built):
    for marker in (built / MARKERS).glob("*.json"):
        marker.unlink()
    before = sorted(p for p in built.rglob("*") if p.is_file() and p.suffix in (".json", ".md", ".parquet", ".tar"))
    with pytest.raises(FiguregroundError):
        D3S("pocket", checkpoint=checkpoint, **{**SETTINGS, "device": "cuda:7"}, limit=8).build(built, False)
    assert all(path.exists() for path in before)
    D3S("pocket", checkpoint=checkpoint, **SETTINGS, limit=8).build(built, show_progress=False)
    assert len(markers(built)) == 3


def test_a_marker_that_can_not_be_read_does_not_hide_what_went_wrong(checkpoint, built):
    (next((built / MARKERS).glob("*.json"))).write_text("{")
    with pytest.raises(FiguregroundError, match=r"another recipe"):
        D3S("pocket", checkpoint=checkpoint, **SETTINGS, limit=8, strength=0.5).build(built, show_progress=False)
    assert json.loads((built / RECIPE).read_text())["identity"]["strength"] == 0.6


def test_a_dataset_is_not_built_inside_another(checkpoint, built):
    before = sorted(built.rglob("*"))
    with pytest.raises(FiguregroundError, match=r"sub/deep lies in the dataset .*outside"):
        D3S("pocket", checkpoint=checkpoint, **SETTINGS).build(built / "sub/deep", show_progress=False)
    assert sorted(built.rglob("*")) == before


def test_how_far_a_build_came_is_counted(built):
    from figureground.methods.registry import open_dataset
    from figureground.shards.shard import as_shard

    shards = [as_shard(s) for s in open_dataset(built).plan().shards()]
    assert describe_progress(built, shards) == "3 of 3 shards are done and kept."


def test_the_first_command_is_sent_on_to_extend_where_that_was_used(checkpoint, tmp_path):
    settings = {**SETTINGS, "per_cell": {"train": 1, "validation": 1}}
    first = D3S("pocket", checkpoint=checkpoint, **settings)
    out = first.build(tmp_path / "d3s", show_progress=False)
    extend(out, {"train": 2}, show_progress=False)
    with pytest.raises(FiguregroundError, match=r"was extended since.*--per-cell train=2 --per-cell validation=1"):
        first.build(out, show_progress=False)
