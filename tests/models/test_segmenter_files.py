"""Names of segmenters: which models they name, what they are called without places, and what decides what is found."""

import shutil
import subprocess
import sys

import pytest

from figureground.core.errors import FiguregroundError
from figureground.models.bundled import SEGMENTER
from figureground.models.segmenter_files import called, contents_of, find_kind


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
    for read in (called, contents_of):
        with pytest.raises(FiguregroundError, match="give both models, as in 'grounding-dino:ID_OR_DIRECTORY"):
            read(name)


def test_a_directory_is_called_by_its_own_name_and_others_as_they_are(tmp_path, monkeypatch):
    (one, two) = make_models(tmp_path, "one", "two")
    assert called(str(one)) == called(f"{one}/") == called(f"{two}/../one") == "one"
    assert called(f"grounding-dino:{one}+sam:{two}") == "grounding-dino:one+sam:two"
    assert called(f"grounding-dino:user/a+sam:{two}") == "grounding-dino:user/a+sam:two"
    assert [called(name) for name in ("pocket", "user/clipseg")] == ["pocket", "user/clipseg"]
    monkeypatch.chdir(one)
    assert called(".") == "one"


def test_contents_are_those_of_a_directory_wherever_it_lies(tmp_path):
    (one, two) = make_models(tmp_path, "one", "two")
    (before,) = contents_of(str(one))
    assert before.startswith("sha256:")
    assert contents_of(f"grounding-dino:{one}+sam:{two}") == [before, *contents_of(str(two))]
    assert contents_of(str(two)) != [before]
    one.rename(tmp_path / "moved")
    assert contents_of(str(tmp_path / "moved")) == [before]
    (tmp_path / "moved" / "config.json").write_text('{"name": "other"}')
    (after,) = contents_of(str(tmp_path / "moved"))
    assert after != before
    (tmp_path / "moved" / "model.safetensors").write_bytes(b"weights")
    assert contents_of(str(tmp_path / "moved")) != [after]


def test_what_is_on_the_hub_is_its_id():
    assert contents_of("user/clipseg") == ["user/clipseg"]
    assert contents_of("grounding-dino:user/a+sam:user/b") == ["user/a", "user/b"]


def test_of_the_bundled_one_its_files_alone_count(tmp_path, monkeypatch):
    (bundled,) = contents_of("pocket")
    shutil.copytree(SEGMENTER, tmp_path / "copy")
    assert contents_of(str(tmp_path / "copy")) == [bundled]
    make_models(tmp_path, "pocket")
    monkeypatch.chdir(tmp_path)  # a directory of that name is another one
    assert contents_of("pocket") == [bundled]
    assert called("pocket") == "pocket"
    assert contents_of("./pocket") != [bundled]


def test_importing_it_loads_no_torch():
    code = "import sys, figureground.models.segmenter_files; print(*{'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stdout.strip()
