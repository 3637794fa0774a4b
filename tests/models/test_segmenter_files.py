"""Names of segmenters: which models they name, what they are called without places, and what decides what is found."""

import shutil
import subprocess
import sys

import pytest

from figureground.core.errors import FiguregroundError
from figureground.models.bundled import SEGMENTER
from figureground.models.segmenter_files import find_kind, format_public_name, identify_models


def make_models(root, *names):
    """Directories that each hold a file which makes it a model of its own."""
    for name in names:
        (root / name).mkdir()
        (root / name / "config.json").write_text(f'{{"name": "{name}"}}')
    return [root / name for name in names]


@pytest.mark.parametrize(
    ("name", "models"),
    [
        ("pocket", ["pocket"]),
        ("user/clipseg", ["user/clipseg"]),
        ("some/where/clipseg", ["some/where/clipseg"]),
        ("grounding-dino:user/a+sam:b/c/d", ["user/a", "b/c/d"]),
        ("grounding-dino:a+sam:b+sam:c", ["a", "b+sam:c"]),
    ],
)
def test_a_name_says_one_model_or_two(name, models):
    kind, rest = find_kind(name)
    assert kind.models(rest) == models


@pytest.mark.parametrize(
    "name", ["grounding-dino:", "grounding-dino:a", "grounding-dino:+sam:b", "grounding-dino:a+sam:"]
)
def test_of_two_models_both_are_named(name):
    for read in (format_public_name, identify_models):
        with pytest.raises(FiguregroundError, match="give both models, as in 'grounding-dino:ID_OR_DIRECTORY"):
            read(name)


def test_a_directory_is_called_by_its_own_name_and_others_as_they_are(tmp_path, monkeypatch):
    (one, two) = make_models(tmp_path, "one", "two")
    assert format_public_name(str(one)) == format_public_name(f"{one}/") == format_public_name(f"{two}/../one") == "one"
    assert format_public_name(f"grounding-dino:{one}+sam:{two}") == "grounding-dino:one+sam:two"
    assert format_public_name(f"grounding-dino:user/a+sam:{two}") == "grounding-dino:user/a+sam:two"
    assert [format_public_name(name) for name in ("pocket", "user/clipseg")] == ["pocket", "user/clipseg"]
    monkeypatch.chdir(one)
    assert format_public_name(".") == "one"


def test_contents_are_those_of_a_directory_wherever_it_lies(tmp_path):
    (one, two) = make_models(tmp_path, "one", "two")
    (before,) = identify_models(str(one))
    assert before.startswith("sha256:")
    assert identify_models(f"grounding-dino:{one}+sam:{two}") == [before, *identify_models(str(two))]
    assert identify_models(str(two)) != [before]
    one.rename(tmp_path / "moved")
    assert identify_models(str(tmp_path / "moved")) == [before]
    (tmp_path / "moved" / "config.json").write_text('{"name": "other"}')
    (after,) = identify_models(str(tmp_path / "moved"))
    assert after != before
    (tmp_path / "moved" / "model.safetensors").write_bytes(b"weights")
    assert identify_models(str(tmp_path / "moved")) != [after]


def test_what_is_on_the_hub_is_its_id():
    assert identify_models("user/clipseg") == ["user/clipseg"]
    assert identify_models("grounding-dino:user/a+sam:user/b") == ["user/a", "user/b"]


def test_of_the_bundled_one_its_files_alone_count(tmp_path, monkeypatch):
    (bundled,) = identify_models("pocket")
    shutil.copytree(SEGMENTER, tmp_path / "copy")
    assert identify_models(str(tmp_path / "copy")) == [bundled]
    make_models(tmp_path, "pocket")
    monkeypatch.chdir(tmp_path)  # a directory of that name is another one
    assert identify_models("pocket") == [bundled]
    assert format_public_name("pocket") == "pocket"
    assert identify_models("./pocket") != [bundled]


def test_importing_it_loads_no_torch():
    code = "import sys, figureground.models.segmenter_files; print(*{'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stdout.strip()
