"""Recipes: what a user writes, how it is laid over the defaults, saved and compared."""

import json
from pathlib import Path

import pytest

from figureground.cli.main import main
from figureground.comparison.comparing import parse_overrides
from figureground.core.differences import describe_differences
from figureground.core.errors import FiguregroundError, RecipeError, UsageError
from figureground.core.values import field_types
from figureground.methods.d3s import D3S
from figureground.methods.d3s_settings import D3SConfig
from figureground.methods.ddb import DDBConfig
from figureground.methods.spurious import Spurious
from figureground.methods.spurious_settings import SpuriousConfig
from figureground.recipe.document import (
    apply_settings,
    check_names,
    convert_fields,
    describe_recipe_differences,
    make_paths_relative,
    read_recipe,
    resolve_paths,
)
from figureground.recipe.settings import Names, find_marks

KINDS, MARKED = field_types(D3SConfig), find_marks(D3SConfig, Names)
BOMB = b"a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 10)) for i in range(1, 9)
)
"""376 bytes that stand for a billion values."""


def test_set_takes_yaml_values_and_dotted_keys():
    defaults = {"per_cell": {"train": 10, "validation": 2}, "strength": 0.9}
    fields = apply_settings(
        {}, ["per_cell.train=4", "strength=0.5", "keep=[guide]", "table.pairing.bird=grass"], defaults, KINDS
    )
    assert fields == {
        "per_cell": {"train": 4, "validation": 2},
        "strength": 0.5,
        "keep": ["guide"],
        "table": {"pairing": {"bird": "grass"}},
    }
    assert defaults["per_cell"]["train"] == 10


def test_set_wins_over_the_recipe_file():
    assert apply_settings({"strength": 0.7, "num_inference_steps": 3}, ["strength=0.5"], {}, KINDS) == {
        "strength": 0.5,
        "num_inference_steps": 3,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [("strength", "write it as key=value"), ("a..b=1", "write it as key=value"), ("keep=[a", "doesn't parse as YAML")],
)
def test_a_bad_setting_is_refused(text, message):
    with pytest.raises(FiguregroundError, match=message):
        apply_settings({}, [text], {}, KINDS)


def test_a_recipe_that_does_not_parse_names_file_and_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("size: 64\nkeep: [guide\nsteps: 3\n")
    with pytest.raises(FiguregroundError, match=r"mine\.yaml, line 3"):
        read_recipe(path)
    path.write_text("- a\n- b\n")
    with pytest.raises(FiguregroundError, match="is a list"):
        read_recipe(path)
    with pytest.raises(FiguregroundError, match="No such file"):
        read_recipe(tmp_path / "missing.yaml")


def test_paths_in_a_recipe_are_relative_to_it(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "photos" / "train").mkdir(parents=True)
    path = tmp_path / "recipes" / "mine.yaml"
    path.write_text("cutouts: {train: ../photos/train, validation: ../nowhere}\nprompt: a photo of a {class}\n")
    monkeypatch.chdir(tmp_path)
    assert resolve_paths(read_recipe(path), D3SConfig) == {
        "cutouts": {"train": "photos/train", "validation": "../nowhere"},
        "prompt": "a photo of a {class}",
    }


def test_a_saved_recipe_holds_no_absolute_path_and_reads_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    folder = tmp_path / "out" / "_figureground"
    folder.mkdir(parents=True)
    saved = make_paths_relative(MARKED["cutouts"], str(tmp_path / "photos"), folder)
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
    assert resolve_paths(read_recipe(folder / "recipe.json"), D3SConfig) == {
        "builder": "d3s",
        "config": "pocket",
        "cutouts": "photos",
        "checkpoint": "pocket",
        "workers": "2",
    }


def test_differences_name_the_fields():
    old = {"strength": 0.9, "per_cell": {"train": 5, "validation": 1}, "seed": 0}
    new = {"strength": 0.5, "per_cell": {"train": 4, "validation": 1}, "seed": 0, "eta": 1}
    assert describe_differences(old, new) == ["strength: 0.9, now 0.5", "per_cell.train: 5, now 4", "eta: null, now 1"]


def test_differences_lead_with_what_was_set_and_hashes_that_follow_come_last():
    def recipe(identity, content):
        return {"builder": "d3s", "identity": identity, "content": content}

    same = {"checkpoint": "sha256:" + "2" * 64}
    old = recipe(
        {"cutouts": "a", "table": "uniform", "num_inference_steps": 5, "size": 32, "checkpoint": "x"},
        {"table": {"train": "0" * 64}, "cutouts": {"train": "1" * 64}, **same},
    )
    new = recipe(
        {"cutouts": "b", "table": "uniform", "num_inference_steps": 4, "size": 32, "checkpoint": "y"},
        {"table": {"train": "3" * 64}, "cutouts": {"train": "4" * 64}, **same},
    )
    fields = [line.partition(":")[0] for line in describe_recipe_differences(old, new)]
    assert fields == ["cutouts", "num_inference_steps", "table.train"]  # the same checkpoint in another place is none
    assert describe_recipe_differences(old, {**new, "builder": "ddb"})[0] == 'METHOD: "d3s", now "ddb"'
    assert describe_differences({"a": "0" * 64, "b": 1}, {"a": "1" * 64, "b": 2})[0] == "b: 1, now 2"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[]", "JSON object"), ("{}", "'builder'"), ("{", "recipe.json"),
        ('{"builder": "d3s", "sha256": 3, "identity": {}, "execution": {}, "content": {}}', "'sha256'"),
        ('{"builder": "d3s", "sha256": "3", "identity": [], "execution": {}, "content": {}}', "'identity'"),
        ('{"builder": ["d3s"], "sha256": "3", "identity": {}, "execution": {}, "content": {}}', "'builder'"),
        ('{"builder": "d3s", "sha256": "3", "identity": {}, "execution": {}}', "'content'"),
    ],
)  # fmt: skip
def test_a_foreign_recipe_in_a_dataset_is_refused_by_what_is_wrong_with_it(text, named, tmp_path, capsys):
    private = tmp_path / "out" / "_figureground"
    private.mkdir(parents=True)
    (private / "recipe.json").write_text(text)
    for command in (["extend", "--per-cell", "train=9"], ["build", "d3s", "--out"]):
        assert main([*command, str(tmp_path / "out")]) == 1
        errors = capsys.readouterr().err
        assert named in errors
        assert "recipe.json" in errors
        assert "--debug" not in errors


def test_an_unknown_field_names_the_nearest():
    with pytest.raises(RecipeError, match="strenght: d3s has no such field, did you mean 'strength'"):
        check_names(["strenght"], ["strength", "num_inference_steps"], "d3s")


def test_names_of_shipped_lists_stay_names_even_where_a_folder_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("imagenet", "pocket", "d3s"):
        (tmp_path / name).mkdir()
    assert make_paths_relative(MARKED["classes"], "imagenet", tmp_path / "out") == "imagenet"
    assert make_paths_relative(MARKED["cutouts"], "pocket", tmp_path / "out") == "pocket"
    assert make_paths_relative(MARKED["prompt"], "d3s", tmp_path / "out") == "d3s"


@pytest.mark.parametrize("prefix", ["timm:local-dir:", "onnx:", "clipseg:"])
def test_paths_behind_the_prefix_of_a_model_are_relative_to_the_recipe(tmp_path, monkeypatch, prefix):
    (tmp_path / "there" / "mine").mkdir(parents=True)
    (tmp_path / "there" / "my.yaml").write_text(f"builder: ddb\nclassifier: '{prefix}mine'\n")
    monkeypatch.chdir(tmp_path)
    assert resolve_paths(read_recipe(Path("there/my.yaml")), DDBConfig)["classifier"] == f"{prefix}there/mine"
    assert make_paths_relative(Names("file"), f"{prefix}there/mine", tmp_path / "there") == f"{prefix}mine"
    assert make_paths_relative(Names("file"), f"{prefix}user/name", tmp_path / "there") == f"{prefix}user/name"


def test_a_bare_directory_in_a_recipe_is_beside_it(tmp_path, monkeypatch):
    (tmp_path / "recipes" / "photos").mkdir(parents=True)
    (tmp_path / "recipes" / "mine.yaml").write_text("cutouts: photos\n")
    monkeypatch.chdir(tmp_path)
    fields = resolve_paths(read_recipe(tmp_path / "recipes" / "mine.yaml"), D3SConfig)
    assert fields == {"cutouts": "recipes/photos"}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.yaml", b"size: 64\n\tsteps: 3\n", "a.yaml, line 2, column 1: found character"),
        ("a.yaml", b"size: 64\nsteps: 3\nsize: 32\n", "a.yaml, line 3, column 1: 'size' is given twice"),
        ("a.yaml", b"per_cell: {train: 1, train: 2}\n", "a.yaml, line 1, column 22: 'train' is given twice"),
        ("a.yaml", b"size: !!python/object:os.system 1\n", "a.yaml, line 1, column 7: the tag .*os.system"),
        ("a.yaml", b"size: *nowhere\n", "a.yaml, line 1, column 7: found undefined alias"),
        ("a.yaml", b"", "this one is empty"),
        ("a.yaml", b"just words\n", "is a single value"),
        ("a.yaml", b"\x89PNG\r\n\x1a\n\xff", "not text"),
        ("a.yaml", b"size: 64\x00\n", "doesn't parse: unacceptable character"),
        ("a.yaml", b"a: " + b"[" * 5000, "nested more than 50 deep"),
        ("a.yaml", b"a: &a [*a]\n", "a.yaml, line 1, column 4: .*an alias contains itself"),
        ("a.yaml", b"? [a, b]\n: 3\n", "a.yaml, line 1, column 3: a key must be"),
        ("a.yaml", b"a: 1\n---\nb: 2\n", "a.yaml, line 2, column 1"),
        ("a.yaml", b"a: " + b"x" * 2**20, "more than 1,048,576 bytes"),
        ("a.yaml", BOMB, "its aliases expand to more than 200,000 values"),
        ("a.json", b'{"size": 64, "size": 32}', "'size' is given twice"),
        ("a.json", b'{"size": "\\ud800"}', "is not a character"),
        ("a.yaml", b'size: "\\ud800"', "a.yaml, line 1, column 7: .*is not a character"),
        ("a.json", b"[" * 100_000, "nested more than 50 deep"),
        ("a.json", b'[{"builder": "d3s"}]', "this one is a list"),
        ("a.json", b'{"identity": [1], "execution": {}}', "'identity' "),
        ("a.json", b'{"identity": {}, "execution": 3}', "'execution' "),
        ("a.json", b'{"config": ["pocket"]}', "'config' "),
        ("a.json", b'{"size": 64,,}', "a.json, line 1, column 13"),
    ],
)  # fmt: skip
def test_what_is_no_recipe_is_wrong_use_and_says_where(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=words) as refused:
        read_recipe(tmp_path / name)
    assert "\n" not in str(refused.value)


def test_yaml_may_still_merge_mappings(tmp_path):
    (tmp_path / "a.yaml").write_text("per_cell: &n {train: 1}\ntable: {<<: *n, correlation: 1}\n")
    assert read_recipe(tmp_path / "a.yaml")["table"] == {"train": "1", "correlation": "1"}


NAMES = ["no", "yes", "on", "007", "12:30", "1e3", "~", "null", "2024-01-01", "7", "0x1F", "1_000", ".5", "true"]


@pytest.mark.parametrize("form", ["yaml", "json", "set"])
def test_names_are_what_was_typed(form, tmp_path):
    typed = ", ".join("'7'" if name == "7" else name for name in NAMES)
    settings = []
    if form == "set":
        settings = [f"classes=[{typed}]", f"backgrounds={{{', '.join(f'{name}: {name}' for name in NAMES)}}}"]
    elif form == "yaml":
        texts = "".join(f"  {name}: {name}\n" for name in NAMES if name not in ("~", "null"))
        (tmp_path / "a.yaml").write_text(f"classes: [{typed}]\nbackgrounds:\n{texts}  '~': '~'\n  'null': 'null'\n")
    else:
        (tmp_path / "a.json").write_text(json.dumps({"classes": NAMES, "backgrounds": {name: name for name in NAMES}}))
    fields = convert_fields(read_recipe(tmp_path / f"a.{form}"), KINDS) if form != "set" else {}
    fields = apply_settings(fields, settings, {}, KINDS)
    assert fields["classes"] == NAMES
    none = {"~": None, "null": None} if form == "set" else {}
    assert fields["backgrounds"] == {name: none.get(name, name) for name in sorted(fields["backgrounds"])}
    assert set(fields["backgrounds"]) == set(NAMES)
    assert {type(name) for name in [*fields["classes"], *fields["backgrounds"]]} == {str}


def test_numbers_of_json_are_names_where_names_are_wanted(tmp_path):
    (tmp_path / "a.json").write_text('{"classes": [7, 1e3, true, null], "per_cell": {"1": 2}, "negative_prompt": 12}')
    fields = convert_fields(read_recipe(tmp_path / "a.json"), KINDS)
    assert fields == {"classes": ["7", "1e3", "true", "null"], "per_cell": {"1": 2}, "negative_prompt": "12"}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_inference_steps=1e3", 1000), ("num_inference_steps=007", 7), ("num_inference_steps=1_000", 1000),
        ("strength=1", 1), ("strength=5e-1", 0.5),
        ("guidance_scale=.5", 0.5), ("limit=~", None), ("limit=null", None), ("limit=", None), ("revision=", None),
        ("revision=null", None), ("revision='null'", "null"), ("revision=007", "007"), ("revision=1e3", "1e3"),
        ("compile=true", True), ("compile=False", False), ("keep=[]", []), ("cutout_scale=[0.3, 1]", [0.3, 1]),
        ("cutout_scale=0.3", 0.3), ("table=uniform", "uniform"),
        ("table.bias_aligned_share=95%", {"bias_aligned_share": "95%"}),
        ("table={correlation: 0.9, pairing: {no: yes}}", {"correlation": 0.9, "pairing": {"no": "yes"}}),
        ("table={train: {correlation: 1}, dev: uniform}", {"train": {"correlation": 1}, "dev": "uniform"}),
        ("prompt=a {class} on {background}", "a {class} on {background}"),
        ("prompt={class}, no. 1 # on: {background}", "{class}, no. 1 # on: {background}"),
        ("prompt='a {class} on {background}'", "a {class} on {background}"), ("prompt=[V] a: b", "[V] a: b"),
        ("prompt='tis a {class}", "'tis a {class}"), ("negative_prompt=", ""), ("negative_prompt=''", ""),
        ("classes.no=a # b: c", {"no": "a # b: c"}), ("formats=\n- parquet", ["parquet"]), ("classes=no", "no"),
        ("per_cell={train: 3, 1: 2}", {"train": 3, "1": 2}), ("checkpoint=a=b", "a=b"),
    ],
)  # fmt: skip
def test_a_setting_is_what_its_field_takes(setting, value):
    (found,) = apply_settings({}, [setting], {}, KINDS).values()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("setting", "field"),
    [
        ("num_inference_steps='7'", "num_inference_steps"), ("num_inference_steps=12:30", "num_inference_steps"),
        ("num_inference_steps=true", "num_inference_steps"), ("num_inference_steps=~", "num_inference_steps"),
        ("num_inference_steps=7.5.1", "num_inference_steps"),
        ("num_inference_steps=" + "9" * 5000, "num_inference_steps"),
        ("num_inference_steps=[1]", "num_inference_steps"),
        ("seed=2024-01-01", "seed"),
        ("strength=50%", "strength"), ("compile=yes", "compile: 'yes' .* Write true"), ("compile=0", "Write false"),
        ("compile=", "compile"), ("keep=guide", "keep"), ("per_cell={train: 1, train: 2}", "'train' is given twice"),
        ("per_cell.train=1.5e-1x", r"per_cell\.train"), ("extended=[3]", r"extended\[0\]"), ("prompt=~", "quotes"),
        ("checkpoint=null", "quotes"), ("classes={a: [b]}", r"classes\.a"), ("cutout_scale=[a]", r"cutout_scale\[0\]"),
        ("classes=[\udcff]", "UTF-8"), ("prompt=\udcff", "UTF-8"), ("keep={a: 1}", "keep"),
    ],
)  # fmt: skip
def test_what_a_field_does_not_take_is_refused_by_name(setting, field):
    with pytest.raises(RecipeError, match=field) as refused:
        apply_settings({}, [setting], {}, KINDS)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_settings_of_trainings_and_learned_words_have_types_too():
    settings = ["training.epochs=1e1", "training.backbone=007", "training.augment=false", "nouns.no=yes",
                "inversion={max_train_steps: 3, templates: ['no {token}', '7 {token}'], flip: true}"]  # fmt: skip
    fields = apply_settings({}, settings, {"training": {"epochs": 3}}, field_types(DDBConfig))
    assert fields == {
        "training": {"epochs": 10, "backbone": "007", "augment": False}, "nouns": {"no": "yes"},
        "inversion": {"max_train_steps": 3, "templates": ["no {token}", "7 {token}"], "flip": True},
    }  # fmt: skip
    fields = apply_settings({}, ["features.no={noun: on, component: [1, 2]}", "features.bee=no"], {},
                            field_types(SpuriousConfig))  # fmt: skip
    assert fields == {"features": {"no": {"noun": "on", "component": [1, 2]}, "bee": "no"}}
    assert parse_overrides(["jtt.upweight=1e1", "paste.masks=true", "paste.quantile=.5", "ddb.phrases.no=007"]) == {
        "jtt": {"upweight": 10}, "paste": {"masks": "true", "quantile": 0.5}, "ddb": {"phrases": {"no": "007"}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "earlier", "found"),
    [
        (D3S, {"steps": 3, "templates": "pocket"}, {"num_inference_steps": 3, "scenes": "pocket"}),
        (
            Spurious, {"scenes": ["snow"], "finetuning": {"steps": 3, "sampling_steps": 2}},
            {"backgrounds": ["snow"], "finetuning": {"max_train_steps": 3, "num_inference_steps": 2}},
        ),
    ],
)  # fmt: skip
def test_earlier_names_of_fields_are_accepted_in_a_datasets_recipe_and_named_in_errors_about_ones_own(
    method, earlier, found, tmp_path
):
    saved = tmp_path / "recipe.json"
    saved.write_text(json.dumps({"builder": method.METHOD, "config": "pocket", "identity": earlier, "execution": {}}))
    config = method.from_recipe(read_recipe(saved)).config
    assert {name: getattr(config, name) for name in found} == found
    own = tmp_path / "mine.yaml"
    own.write_text(json.dumps({"config": "pocket", **earlier}))
    with pytest.raises(RecipeError, match=f"called {next(iter(found))} now"):
        method.from_recipe(read_recipe(own))
