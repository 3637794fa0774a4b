"""`figureground init` writes a recipe that says what people change, and means what its config means."""

import re

import pytest
import yaml
from commands import TINY, run
from tiny_checkpoints import make_checkpoint

from figureground.cli.main import main
from figureground.methods.recipe_files import make_config
from figureground.methods.registry import METHODS, method_class
from figureground.recipe.document import read_recipe
from figureground.recipe.settings import describe_fields, execution_names, field_names

EACH = [(name, config) for name in METHODS.names() for config in method_class(name).CONFIGS]


@pytest.mark.parametrize(("name", "config"), EACH, ids=map("-".join, EACH))
def test_read_back_it_is_the_config_and_every_field_says_what_it_takes(name, config, tmp_path):
    kind, file = method_class(name), tmp_path / "recipe.yaml"
    assert main(["init", name, "--config", config, "--out", str(file)]) == 0
    fields = read_recipe(file)
    assert (fields["builder"], fields["config"]) == (name, config)
    read, plain = make_config(kind, config, fields), kind.CONFIGS[config]
    same = [each for each in field_names(type(plain)) if each not in kind.EXAMPLES]
    assert {each: getattr(read, each) for each in same} == {each: getattr(plain, each) for each in same}

    text = re.sub(r"\n# (?!\w+: )", " ", file.read_text())  # a comment's lines, joined
    texts, run_by = describe_fields(type(plain)), execution_names(type(plain))
    for each in kind.STARTER:
        assert re.search(rf"^(# )?{each}: ", text, re.MULTILINE), each
        assert texts[each] in text
    order = [line.split(":")[0] for line in file.read_text().splitlines() if re.match(r"\w+: ", line)]
    assert [each in run_by for each in order] == sorted(each in run_by for each in order)
    assert max(map(len, file.read_text().splitlines())) <= 120


def test_it_says_choices_and_ranges_from_the_declarations(capsys):
    assert main(["init", "d3s", "--out", "-"]) == 0
    output = capsys.readouterr().out
    for phrase in (
        "[one of jpg, webp, png]", "[a whole number from 8 to 16384]", "[a number from 0 to 1]", "in pixels",
        "[a list of parquet, webdataset]", "[one of none, foreground]",
    ):  # fmt: skip
        assert phrase in output
    assert yaml.safe_load(output)["cutout_scale"] == [0.45, 0.6]


def test_it_never_overwrites_and_names_what_it_does_not_know(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "d3s"]) == 0
    before = (tmp_path / "d3s.yaml").read_text()
    assert main(["init", "d3s", "--config", "imagenet"]) == 2
    assert "d3s.yaml exists" in capsys.readouterr().err
    assert (tmp_path / "d3s.yaml").read_text() == before
    assert main(["init", "d4s"]) == 2
    assert "d3s" in capsys.readouterr().err
    assert main(["init", "d3s", "--config", "pockets", "--out", "new.yaml"]) == 2
    assert "'pocket'" in capsys.readouterr().err
    assert not (tmp_path / "new.yaml").exists()


@pytest.mark.slow
def test_it_can_be_planned_and_built_as_it_is(tmp_path):
    checkpoint = make_checkpoint("sd1", tmp_path / "checkpoint")
    assert run("init", "d3s", cwd=tmp_path)[0] == 0
    code, output, _ = run("plan", "--recipe", "d3s.yaml", cwd=tmp_path)
    assert (code, "To build it" in output) == (0, False)
    quick = {**TINY, "checkpoint": checkpoint, "per_cell": "{train: 1}", "num_inference_steps": 2}
    sets = [part for name, value in quick.items() for part in ("--set", f"{name}={value}")]
    code, output, err = run("build", "--recipe", "d3s.yaml", *sets, "--out", "set", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert "4 samples" in output
