"""Checkpoints that a build downloads from the Hub, which is one on loopback here."""

import json
import os
import subprocess
import sys

import pytest
from commands import recipe
from hub_server import Hub
from tiny_checkpoints import make_checkpoint
from tiny_transformers import make_transformer

SETTINGS = {"per_cell": "{train: 1}", "num_inference_steps": 2, "strength": 1.0, "limit": 2}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """One with a checkpoint of flow matching and one of Stable Diffusion."""
    with Hub(tmp_path_factory.mktemp("hub"), {}) as hub:
        for name, make in (("flux", make_transformer), ("sd1", make_checkpoint)):
            folder = make(name, tmp_path_factory.mktemp(name))
            hub.create(f"ada/{name}")
            files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}
            hub.edit(f"ada/{name}", {**files, "README.md": b"---\nlicense: mit\n---\n"})
        yield hub


def run(hub, home, *arguments):
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "figureground", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.parametrize(("name", "sampler"), [("flux", "own"), ("sd1", "ddim")])
def test_the_sampler_follows_from_the_family_of_a_checkpoint_that_is_downloaded_by_the_build(
    hub, tmp_path, name, sampler
):
    settings, out = recipe(f"ada/{name}", **SETTINGS), tmp_path / "out"
    done = run(hub, tmp_path / "home", "build", *settings, "--out", str(out))
    assert done.returncode == 0, done.stderr
    saved = json.loads((out / "_figureground" / "recipe.json").read_text())
    assert saved["identity"]["scheduler"] == sampler
    assert "under mit, whose terms may bind them" in (out / "README.md").read_text()
    again = run(hub, tmp_path / "home", "build", *settings, "--out", str(out))
    assert again.returncode == 0, again.stderr
    assert json.loads((out / "_figureground" / "recipe.json").read_text())["sha256"] == saved["sha256"]


def test_a_checkpoint_that_cannot_draw_as_asked_is_refused_before_its_weights_are_downloaded(hub, tmp_path):
    settings = recipe("ada/flux", **SETTINGS, guide="photograph", edit="true")
    del settings[settings.index("strength=1.0") - 1 : settings.index("strength=1.0") + 1]
    done = run(hub, tmp_path / "home", "build", *settings, "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "flux2-klein" in done.stderr
    assert not list((tmp_path / "home").rglob("*.safetensors"))
