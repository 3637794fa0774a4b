import os
import subprocess
import sys
from pathlib import Path

import pytest

import figureground
from figureground.core.resources import CHECKOUT, PACKAGE, find_resource

ROOT = Path(__file__).resolve().parents[1]
EDITABLE = Path(figureground.__file__).resolve().is_relative_to(ROOT / "builders")


@pytest.mark.skipif(not EDITABLE, reason="the tests run against an installed wheel")
def test_an_editable_install_reads_the_files_that_people_edit() -> None:
    assert find_resource("prompts") == ROOT / "prompts"
    assert find_resource("templates") == ROOT / "templates"


def test_an_unknown_resource_names_both_places() -> None:
    with pytest.raises(FileNotFoundError) as error:
        find_resource("prompts/nowhere.yaml")
    for place in (PACKAGE, CHECKOUT):
        assert str(place / "prompts" / "nowhere.yaml") in str(error.value)


@pytest.mark.slow
def test_a_wheel_carries_prompts_templates_weights_and_nothing_of_the_tests(tmp_path: Path) -> None:
    wheels, site, elsewhere = tmp_path / "wheels", tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheels), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = wheels.iterdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)

    code = (
        "from figureground.core.resources import find_resource as find\n"
        "print(find('prompts'), find('templates'), sep='\\n')"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=elsewhere, env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.splitlines() == [str(site / "figureground" / name) for name in ("prompts", "templates")]
    for name in ("prompts", "templates"):
        assert _files(site / "figureground" / name) == _files(ROOT / name)
    for name in ("weights", "matcher_weights"):
        weights = Path("figureground/pocket") / name
        assert _files(site / weights) == _files(ROOT / "builders" / weights)
    assert {path.name for path in site.iterdir() if path.is_dir() and not path.name.endswith(".dist-info")} <= {
        "figureground",
        "bin",
    }


def _files(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
