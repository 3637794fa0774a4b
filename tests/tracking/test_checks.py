"""Trackers that can't be used are refused before any work."""

import pytest

from figureground.cli.main import main
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.tracking.tracker import TRACKERS, check_tracker


def test_an_unknown_tracker_is_refused_with_the_nearest_name():
    with pytest.raises(RecipeError, match="'tensorboard'") as refused:
        check_tracker("tensorbord")
    assert refused.value.field == "track"


def test_a_folder_of_the_name_is_no_package(tmp_path, monkeypatch, diary):
    (tmp_path / "a_package_that_is_not_installed").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(FiguregroundError, match="figureground\\[absent\\]"):
        check_tracker("absent")


@pytest.mark.parametrize("command", [
    ["build", "d3s", "--out", "out", "--limit", "4"],
    ["train", "erm", "--data", "{bed}", "--out", "out"],
    ["compare", "{bed}", "--methods", "erm", "--out", "out"],
    ["disentangle", "{bed}", "--method", "none", "--out", "out"],
    ["finetune", "--references", "{bed}", "--noun", "flower", "--class", "bird", "--out", "out"],
])  # fmt: skip
def test_every_command_refuses_a_missing_package_and_names_its_pip_command(
    command, bed, diary, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    arguments = [each.format(bed=bed) for each in command]
    assert main([*arguments, "--track", "absent"]) == 1
    assert "pip install 'figureground[absent]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_trackers_of_this_package_name_an_extra_of_it():
    for name in ("trackio", "tensorboard", "wandb"):
        assert f"figureground[{name}]" in TRACKERS[name].INSTALL
