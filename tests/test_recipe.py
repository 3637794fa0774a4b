"""Recipes: what a user writes, how it is laid over the defaults, saved and compared."""

import json

import pytest

from figureground.errors import FiguregroundError, RecipeError, UsageError
from figureground.recipe import apply_settings, check_names, differences, for_file, parse_setting, read_recipe


def test_set_takes_yaml_values_and_dotted_keys():
    defaults = {"per_cell": {"train": 10, "validation": 2}, "strength": 0.9}
    fields = apply_settings(
        {}, ["per_cell.train=4", "strength=0.5", "keep=[guide]", "table.pairing.bird=grass"], defaults
    )
    assert fields == {
        "per_cell": {"train": 4, "validation": 2},
        "strength": 0.5,
        "keep": ["guide"],
        "table": {"pairing": {"bird": "grass"}},
    }
    assert defaults["per_cell"]["train"] == 10


def test_set_wins_over_the_recipe_file():
    assert apply_settings({"strength": 0.7, "steps": 3}, ["strength=0.5"], {}) == {"strength": 0.5, "steps": 3}


@pytest.mark.parametrize(
    ("text", "message"), [("strength", "write it as key=value"), ("keep=[a", "doesn't parse as YAML")]
)
def test_a_bad_setting_is_refused(text, message):
    with pytest.raises(FiguregroundError, match=message):
        parse_setting(text)


def test_a_recipe_that_does_not_parse_names_file_and_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("size: 64\nkeep: [guide\nsteps: 3\n")
    with pytest.raises(FiguregroundError, match=r"mine\.yaml, line 3"):
        read_recipe(path)
    path.write_text("- a\n- b\n")
    with pytest.raises(FiguregroundError, match="not list"):
        read_recipe(path)
    with pytest.raises(FiguregroundError, match="No such file"):
        read_recipe(tmp_path / "missing.yaml")


def test_paths_in_a_recipe_are_relative_to_it(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "photos" / "train").mkdir(parents=True)
    path = tmp_path / "recipes" / "mine.yaml"
    path.write_text("cutouts: {train: ../photos/train, validation: ../nowhere}\nprompt: a photo of a {class}\n")
    monkeypatch.chdir(tmp_path)
    assert read_recipe(path) == {
        "cutouts": {"train": "photos/train", "validation": "../nowhere"},
        "prompt": "a photo of a {class}",
    }


def test_a_saved_recipe_holds_no_absolute_path_and_reads_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    folder = tmp_path / "out" / "_figureground"
    folder.mkdir(parents=True)
    saved = for_file("cutouts", str(tmp_path / "photos"), folder)
    assert saved == "../../photos"
    (folder / "recipe.json").write_text(
        json.dumps(
            {
                "builder": "d3s",
                "config": "pocket",
                "identity": {"cutouts": saved, "checkpoint": "pocket"},
                "execution": {"workers": 2},
            }
        )
    )
    assert read_recipe(folder / "recipe.json") == {
        "builder": "d3s",
        "config": "pocket",
        "cutouts": "photos",
        "checkpoint": "pocket",
        "workers": 2,
    }


def test_differences_name_the_fields():
    old = {"strength": 0.9, "per_cell": {"train": 5, "validation": 1}, "seed": 0}
    new = {"strength": 0.5, "per_cell": {"train": 4, "validation": 1}, "seed": 0, "eta": 1}
    assert differences(old, new) == ["strength: 0.9, now 0.5", "per_cell.train: 5, now 4", "eta: null, now 1"]


def test_an_unknown_field_names_the_nearest():
    with pytest.raises(RecipeError, match="strenght: d3s has no such field, did you mean 'strength'"):
        check_names(["strenght"], ["strength", "steps"], "d3s")


def test_names_of_shipped_lists_stay_names_even_where_a_folder_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("imagenet", "pocket", "d3s"):
        (tmp_path / name).mkdir()
    assert for_file("classes", "imagenet", tmp_path / "out") == "imagenet"
    assert for_file("cutouts", "pocket", tmp_path / "out") == "pocket"
    assert for_file("prompt", "d3s", tmp_path / "out") == "d3s"


def test_a_bare_directory_in_a_recipe_is_beside_it(tmp_path, monkeypatch):
    (tmp_path / "recipes" / "photos").mkdir(parents=True)
    (tmp_path / "recipes" / "mine.yaml").write_text("cutouts: photos\n")
    monkeypatch.chdir(tmp_path)
    assert read_recipe(tmp_path / "recipes" / "mine.yaml") == {"cutouts": "recipes/photos"}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.yaml", b"size: 64\n\tsteps: 3\n", "a.yaml, line 2, column 1: found character"),
        ("a.yaml", b"size: 64\nsteps: 3\nsize: 32\n", "a.yaml, line 3, column 1: 'size' is given twice"),
        ("a.yaml", b"per_cell: {train: 1, train: 2}\n", "a.yaml, line 1, column 22: 'train' is given twice"),
        ("a.yaml", b"size: !!python/object:os.system 1\n", "a.yaml, line 1, column 7: could not determine"),
        ("a.yaml", b"size: *nowhere\n", "a.yaml, line 1, column 7: found undefined alias"),
        ("a.yaml", b"", "this one is empty"),
        ("a.yaml", b"just words\n", "not str"),
        ("a.yaml", b"\x89PNG\r\n\x1a\n\xff", "that is no text"),
        ("a.yaml", b"size: 64\x00\n", "doesn't parse: unacceptable character"),
        ("a.yaml", b"a: " + b"[" * 5000, "doesn't parse: maximum recursion depth|line 1"),
        ("a.yaml", b"seed: 2024-99-99\n", "doesn't parse: month must be in 1..12"),
        ("a.json", b'{"size": 64,,}', "a.json, line 1, column 13"),
    ],
)  # fmt: skip
def test_what_is_no_recipe_is_wrong_use_and_says_where(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=words) as refused:
        read_recipe(tmp_path / name)
    assert "\n" not in str(refused.value)


def test_yaml_may_still_merge_mappings(tmp_path):
    (tmp_path / "a.yaml").write_text("per_cell: &n {train: 1}\ntable: {<<: *n, strength: 1}\n")
    assert read_recipe(tmp_path / "a.yaml")["table"] == {"train": 1, "strength": 1}
