"""The command: what it prints, and how it ends."""

import io
import json
import shutil
import subprocess
import sys

import pytest
from commands import start
from PIL import Image
from tiny_checkpoints import make_checkpoint

from figureground.cli.main import main
from figureground.core.text import human_time

TINY = [
    "--set", "classes=[bird, car]", "--set", "backgrounds=[grass, snow]", "--set", "per_cell={train: 2, validation: 1}",
    "--set", "num_inference_steps=2", "--set", "size=32", "--set", "batch_size=4", "--set", "threads=1",
    "--set", "device=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(make_checkpoint("sd1", tmp_path_factory.mktemp("checkpoint")))


def test_plan_build_and_show_from_nothing(checkpoint, tmp_path, capsys):
    recipe = ["d3s", *TINY, "--set", f"checkpoint={checkpoint}"]
    assert main(["plan", *recipe]) == 0
    assert "12 images of 32 px in 2 shards, 2 foregrounds × 2 backgrounds" in capsys.readouterr().out
    out = tmp_path / "d3s"
    assert main(["build", *recipe, "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert "12 samples" in captured.out
    assert captured.err == ""  # quiet when not on a terminal
    assert main(["show", str(out)]) == 0
    assert {"preview.png", "report.html", "README.md"} <= {p.name for p in out.iterdir()}
    assert "](preview.png)" in (out / "README.md").read_text()
    assert checkpoint.rsplit("/", 1)[0] not in (out / "report.html").read_text()


def test_set_wins_over_the_recipe_and_the_recipe_over_the_config(tmp_path, capsys):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("config: pocket\nper_cell: {train: 3, validation: 1}\nnum_inference_steps: 10\n")
    assert main(["plan", "d3s", "--recipe", str(recipe), "--set", "per_cell.train=2", "--limit", "150"]) == 0
    output = capsys.readouterr().out
    assert "150 images" in output
    assert "train: 100 images" in output
    assert f"{150 * 6 * 2:,} denoiser evaluations" in output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["plan", "d4s"], 2, "METHOD: there is no builder 'd4s', did you mean 'd3s'?"),
        (["plan", "d3s", "--config", "poket"], 2, "did you mean 'pocket'"),
        (["plan", "d3s", "--set", "strenght=1"], 2, "did you mean 'strength'"),
        (["plan", "d3s", "--set", "strength"], 2, "write it as key=value"),
        (["plan", "d3s", "--set", "keep=[guide"], 2, "keep: '[guide' doesn't parse as YAML"),
        (["plan", "d3s", "--set", "per_cell=3"], 2, "per_cell: '3' is not a mapping; write it in braces"),
        (["plan", "d3s", "--set", "strength=7"], 2, "strength: 7 is not a number from 0 to 1"),
        (["plan", "d3s", "--set", "num_inference_steps=2", "--set", "strength=0.3"], 2, "is less than one step"),
        (["plan", "d3s", "--set", "classes=[brid]"], 2, "did you mean 'bird'"),
        (["plan", "d3s", "--set", "backgrounds=[gras]"], 2, "did you mean 'grass'"),
        (["plan", "d3s", "--recipe", "missing.yaml"], 2, "Recipe missing.yaml: No such file"),
        (["plan", "d3s", "--recipe", "."], 2, "Recipe .: Is a directory"),
        (["plan", "d3s", "--images-per-second", "0"], 2, "give a number above 0"),
        (["build", "d3s", "--config", "imagenet", "--out", "nowhere"], 2, "cutouts: none are given"),
        (["show", "nowhere"], 1, "nowhere"),
    ],
)
def test_wrong_use_ends_with_one_line_and_no_traceback(arguments, code, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_settings_behind_one_set_are_refused_with_what_to_write(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["plan", "d3s", "--set", "num_inference_steps=2", "size=32", "threads=1"])
    assert ended.value.code == 2
    assert "size=32 threads=1. Each setting needs its own --set: --set size=32" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["show", "x", "size=32"])
    assert "--set" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "usage", "hint"),
    [
        (["bild", "d3s"], "", "did you mean 'build'?"),
        (
            ["train", "erm", "--data", "x", "--out", "y", "--epoks", "1"],
            " train",
            "--epoks 1, did you mean '--epochs'?",
        ),
        (["plan", "d3s", "--limmit=1"], " plan", "--limmit=1, did you mean '--limit'?"),
    ],
)
def test_a_misspelt_command_or_option_names_the_nearest(arguments, usage, hint, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"usage: figureground{usage} ")
    assert hint in err


def test_a_recipe_that_names_its_method_needs_no_other(tmp_path, capsys):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("builder: d3s\nconfig: imagenet\nper_cell: {train: 3}\nsize: 64\n")
    named = ["--recipe", str(recipe)]
    assert main(["plan", *named, "--limit", "150"]) == 0
    assert "d3s, config imagenet: 150 images of 64 px" in capsys.readouterr().out
    assert main(["plan", "d3s", *named, "--limit", "150"]) == 0
    assert main(["settings", *named]) == 0
    output = capsys.readouterr().out
    assert 'per_cell: {"train": 3}\n' in output
    assert "strength: 0.9\n" in output
    assert main(["build", *named, "--out", str(tmp_path / "out")]) == 2
    assert "cutouts: none are given" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "method", "named"),
    [
        ("builder: d3s\n", ["ddb"], ["METHOD", "'ddb'", "'d3s'"]),
        ("num_inference_steps: 3\n", [], ["METHOD", "d3s, spurious"]),
        ("builder: merge\n", [], ["METHOD", "merge"]), ("builder: d4s\n", [], ["METHOD", "'d4s'"]),
        ("builder: [d3s]\n", [], ["'builder'"]), (None, [], ["METHOD", "d3s, spurious"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["plan", "settings", "build"])
def test_a_method_that_is_missing_or_disagrees_is_refused(command, text, method, named, tmp_path, capsys):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(text or "")
    out = ["--out", str(tmp_path / "out")] if command == "build" else []
    assert main([command, *method, *(["--recipe", str(recipe)] if text else []), *out]) == 2
    errors = capsys.readouterr().err
    assert all(word in errors for word in named)
    assert not (tmp_path / "out").exists()


def test_plan_lists_what_is_missing_here(capsys, tmp_path):
    settings = ["--set", "checkpoint=some/checkpoint-xl", "--set", "revision=v1", "--set", "device=cuda:77"]
    assert main(["plan", "d3s", "--config", "imagenet", *settings, "--json", "--images-per-second", "50"]) == 0
    plan = json.loads(capsys.readouterr().out)
    needs = {need["field"]: need for need in plan["to_build"]}
    assert list(needs) == ["checkpoint", "device", "cutouts", "scenes"]
    assert needs["checkpoint"]["command"] == "hf download some/checkpoint-xl --revision v1"
    assert 12e9 < needs["checkpoint"]["bytes"] < 15e9
    assert needs["cutouts"]["command"] == "--set cutouts=DIR"
    assert plan["images"] == sum(map(sum, plan["splits"]["train"]["counts"])) + plan["splits"]["validation"]["images"]
    assert plan["seconds"] == plan["images"] / 50
    assert main(["plan", "d3s", "--config", "imagenet", *settings]) == 0
    listing = capsys.readouterr().out.partition("To build it:\n")[2]
    assert [line.split(":")[0].strip() for line in listing.splitlines()] == list(needs)
    assert main(["plan", "d3s", "--set", f"checkpoint={tmp_path / 'nowhere'}"]) == 0
    assert "To build it:\n  checkpoint: the directory" in capsys.readouterr().out
    assert main(["plan", "d3s"]) == 0
    assert "To build it" not in capsys.readouterr().out


def test_plan_of_repainting_lists_models_and_packages(capsys, tmp_path):
    rows = ["filename,split,y"]
    for i in range(4):
        Image.new("RGB", (100, 100), (i, 0, 0)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{i // 2},{'ab'[i % 2]}")
    (tmp_path / "data.csv").write_text("\n".join(rows))
    settings = ["--data", str(tmp_path / "data.csv"), "--set", "segmenter=grounding-dino:a/b+sam:c/d"]
    assert main(["plan", "ddb", "--config", "photographs", *settings, "--set", "size=64"]) == 0
    listing = capsys.readouterr().out.partition("To build it:\n")[2]
    fields = [line.split(":")[0].strip() for line in listing.splitlines()]
    assert fields == ["checkpoint", "training.backbone", "segmenter", "segmenter"]
    assert "hf download a/b" in listing
    assert "hf download c/d" in listing


@pytest.mark.parametrize("broken", ["a single file", "another pipeline", "a missing part"])
def test_plan_refuses_a_checkpoint_that_will_never_do(broken, checkpoint, tmp_path, capsys):
    mine = tmp_path / "mine"
    shutil.copytree(checkpoint, mine)
    index = mine / "model_index.json"
    if broken == "another pipeline":
        index.write_text(index.read_text().replace('"StableDiffusionPipeline"', '"KolorsPipeline"'))
    elif broken == "a missing part":
        (mine / "unet" / "config.json").unlink()
    else:
        mine = tmp_path / "mine.safetensors"
        mine.write_bytes(b"x")
    assert main(["plan", "d3s", "--set", f"checkpoint={mine}", "--set", "size=32"]) == 2
    captured = capsys.readouterr()
    assert "checkpoint" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.01, "less than a second"), (40, "40 seconds"), (180, "3.0 minutes"), (2e4, "5.6 hours"), (1e6, "11.6 days")],
)
def test_durations_are_never_nothing(seconds, expected):
    assert human_time(seconds) == expected


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match="strength"):
        main(["plan", "d3s", "--debug", "--set", "strength=7"])


def test_no_command_and_unknown_options_are_wrong_use():
    done = subprocess.run([sys.executable, "-m", "figureground.cli.main", "plan"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "METHOD" in done.stderr


def test_a_dataset_whose_sources_are_gone_is_still_shown(checkpoint, tmp_path, capsys):
    out = tmp_path / "d3s"
    main(["build", "d3s", *TINY, "--set", f"checkpoint={checkpoint}", "--limit", "2", "--out", str(out)])
    saved = out / "_figureground" / "recipe.json"
    saved.write_text(json.dumps({**json.loads(saved.read_text()), "sha256": "another"}))
    capsys.readouterr()
    assert main(["show", str(out)]) == 0
    assert "the report shows no guides" in capsys.readouterr().err.replace("\n", " ")


def test_settings_lists_every_field_with_its_default(capsys):
    assert main(["settings", "d3s", "--config", "imagenet"]) == 0
    output = capsys.readouterr().out
    assert "strength: 0.9\n    Share of the steps that are run on a guide, 0 to 1.\n" in output
    assert 'per_cell: {"train": 10, "validation": 2}\n' in output
    assert main(["settings", "d3s", "--config", "imagnet"]) == 2
    assert "did you mean 'imagenet'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "size", "message"),
    [("pocket", 65, "65 is not a multiple of 8"), ("imagenet", 516, "516 is not a multiple of 8")],
)
def test_plan_refuses_a_size_that_a_build_would_refuse(config, size, message, capsys):
    assert main(["plan", "d3s", "--config", config, "--set", f"size={size}"]) == 2
    assert message in capsys.readouterr().err


def test_output_that_cannot_be_written_is_one_line(monkeypatch, capfd):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["plan", "d3s"]) == 1
    errors = capfd.readouterr().err
    assert "the output can't be written: No space left on device" in errors
    assert "--debug" not in errors


def test_a_closed_output_goes_nowhere():
    command = f"{sys.executable} -m figureground plan d3s >&- 2>&- <&-; echo $?"
    assert subprocess.run(["sh", "-c", command], capture_output=True, text=True).stdout == "0\n"


def test_a_terminal_that_knows_ascii_alone_gets_codes_and_json_stays_json(monkeypatch):
    settings = ["--set", "classes={鸟: a bird, café: a café}", "--set", "guide=none"]
    for arguments in (["plan", "d3s", *settings], ["plan", "d3s", *settings, "--json"]):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
        assert main(arguments) == 0
    assert json.loads(raw.getvalue().decode("ascii"))["foregrounds"] == ["鸟", "café"]


def test_a_working_directory_that_is_gone_is_reported(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["plan", "d3s"]) == 2
    assert "working directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["build", "d3s", "--out", "o\udcff"], ["check", "o\udcff"], ["plan", "d3s", "--set", "checkpoint=/o\udcff"],
     ["merge", "a", "o\udcff", "--out", "b"], ["plan", "--recipe", "o\udcff"]],
)  # fmt: skip
def test_an_argument_that_is_no_text_is_reported_by_name(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert "UTF-8" in errors
    assert "o\\udcff" in errors
    assert not list(tmp_path.iterdir())


def test_a_reader_who_has_enough_is_no_error():
    process = start("settings", "d3s")
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == ""


@pytest.mark.parametrize(
    "arguments",
    [["clean", ""], ["check", ""], ["build", "d3s", "--out", ""], ["train", "erm", "--data", "", "--out", "x"]],
)
def test_an_empty_path_is_no_name_of_the_current_directory(arguments, tmp_path, monkeypatch, capsys):
    """As from an unset variable in a script."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "empty" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
