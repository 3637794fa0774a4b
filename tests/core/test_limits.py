"""Numbers that a person types, or a recipe that came from elsewhere holds: each has an end, and the field is named."""

import pytest

from figureground.cli.main import main
from figureground.core.errors import RecipeError
from figureground.recipe.table import read_counts_csv, read_table

pytestmark = pytest.mark.timeout(60)

SMALL = ["plan", "d3s", "--set", "classes=[bird, car]", "--set", "backgrounds=[grass, snow]"]


@pytest.mark.parametrize(("setting", "field"), [
    ("per_cell.train=9223372036854775808", "per_cell.train"), (f"per_cell.train={10**400}", "per_cell.train"),
    ("limit=9223372036854775808", "limit"), (f"limit={10**400}", "limit"), (f"seed={10**400}", "seed"),
    (f"num_inference_steps={10**400}", "num_inference_steps"), (f"guidance_scale={10**400}", "guidance_scale"),
    ("shard_size=9223372036854775808", "shard_size"), (f"strength={10**400}", "strength"),
])  # fmt: skip
def test_a_number_that_no_field_can_hold_is_refused_by_field(setting, field, capsys):
    assert main([*SMALL, "--set", setting]) == 2
    assert field in capsys.readouterr().err


def test_a_plan_of_more_shards_than_a_disk_takes_files_is_refused_by_field(capsys):
    assert main([*SMALL, "--set", "per_cell.train=1000000000", "--set", "shard_size=1"]) == 2
    assert "shard_size" in capsys.readouterr().err


@pytest.mark.parametrize("count", ["9223372036854775808", "9" * 5000, "²", "-1", "1e3"])
def test_a_count_in_a_table_that_is_no_number_of_images_is_named_by_line(tmp_path, count):
    (tmp_path / "table.csv").write_text(f"foreground,background,count\nbird,grass,{count}\n")
    with pytest.raises(RecipeError, match="line 2"):
        read_counts_csv(tmp_path / "table.csv", ["train"], ["bird"], ["grass"])


def test_a_table_of_more_cells_than_memory_holds_is_refused_before_it_is_made():
    names = range(10**6)
    with pytest.raises(RecipeError, match="cells"):
        read_table("uniform", {"train": 1}, names, names)
