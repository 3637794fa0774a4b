"""Checkpoints that were distilled to a few steps are noted where a recipe asks for many."""

import pytest

from figureground.cli.main import main
from figureground.models.distilled import distilled_note


@pytest.mark.parametrize(
    "name", ["me/sdxl-turbo", "SDXL-Lightning", "x/LCM_Dreamshaper_v7", "Hyper-SD", "model_dmd2", "FLUX.1-schnell"]
)
def test_names_of_distilled_checkpoints_are_known(made, name):
    assert "50 steps" in distilled_note(made / "sd1", name, 50, 5.0)
    assert distilled_note(made / "sd1", name, 4, 1.0) is None


@pytest.mark.parametrize("name", ["me/realistic", "hyperrealism", "flashback", "stable-diffusion-v1-5"])
def test_other_names_are_not(made, name):
    assert distilled_note(made / "sd1", name, 50, 5.0) is None


def test_files_tell_where_the_name_does_not(made, edit):
    edit(made / "sd1" / "model_index.json", _name_or_path="stabilityai/sd-turbo")
    assert "'turbo'" in distilled_note(made / "sd1", "mine", 4, 5.0)
    edit(made / "sd1" / "unet" / "config.json", time_cond_proj_dim=256)
    assert "time_cond_proj_dim" in distilled_note(made / "sd1", "mine", 50, 1.0)


def test_plan_says_so(made, edit, capsys):
    edit(made / "sd1" / "model_index.json", _name_or_path="me/sd-lightning")
    assert main(["plan", "d3s", "--set", f"checkpoint={made / 'sd1'}"]) == 0
    assert "'lightning'" in capsys.readouterr().out
