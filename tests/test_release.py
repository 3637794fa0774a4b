"""A release: its version is one, and what is built from it works where the checkout isn't."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
from datetime import date
from pathlib import Path

import pytest
import yaml

import figureground

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = ROOT / "pyproject.toml"

pytestmark = pytest.mark.skipif(not PYPROJECT.exists(), reason="the tests run against an installed wheel")


def project() -> dict:
    return tomllib.loads(PYPROJECT.read_text())["project"]


def test_version_changelog_and_citation_agree():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project()["version"] == figureground.__version__ == cited["version"]
    assert project()["license"] == cited["license"]
    headings = re.findall(r"^## (\S+) \((.+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    versions = [version for version, _ in headings]
    assert versions[0] == figureground.__version__
    assert len(set(versions)) == len(versions)
    released = headings[0][1]
    if released == "unreleased":
        assert "date-released" not in cited
    else:
        assert date.fromisoformat(released).isoformat() == str(cited["date-released"])
    for _, when in headings[1:]:
        date.fromisoformat(when)


def test_pythons_are_the_ones_that_the_pages_name():
    lowest, beyond = re.findall(r"3\.\d+", project()["requires-python"])
    named = {each.rpartition(" ")[2] for each in project()["classifiers"] if re.search(r":: 3\.\d+$", each)}
    minors = range(int(lowest[2:]), int(beyond[2:]))
    assert named == {f"3.{minor}" for minor in minors}
    for page in ("README.md", "docs/install.md"):
        assert f"3.{minors[0]} to 3.{minors[-1]}" in (ROOT / page).read_text()


def test_the_table_of_extras_names_each_once_with_its_purpose_and_size():
    rows = re.findall(
        r"^\| `(\w+)` \| (.+?) \| (.+?) \| ([\d,]+) MB \|$", (ROOT / "docs/install.md").read_text(), re.MULTILINE
    )
    extras = project()["optional-dependencies"]
    assert [name for name, *_ in rows] == sorted(extras, key=lambda name: (name == "dev", name))
    for name, packages, purpose, _ in rows:
        if name != "dev":
            needed = {re.split(r"[\[<>=]", each)[0] for each in extras[name]}
            assert {each.strip("` ") for each in packages.split(",")} == needed
        assert len(purpose) > 10


@pytest.mark.slow
def test_wheel_and_sdist_work_where_the_checkout_is_not(tmp_path):
    """Dependencies aren't installed anew, which takes minutes: the new environment sees this one's packages."""
    made = tmp_path / "made"
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(made), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)  # the sdist, and the wheel from the sdist
    (sdist,), (wheel,) = made.glob("*.tar.gz"), made.glob("*.whl")
    assert sdist.name == f"figureground-{figureground.__version__}.tar.gz"
    with tarfile.open(sdist) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    assert {"LICENSE", "CHANGELOG.md", "CITATION.cff", "docs/evaluate.md", "tests/test_release.py"} <= names
    assert not [name for name in names if name.startswith((".venv", "out/")) or name.endswith(".pyc")]

    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, capture_output=True)
    python = venv / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", wheel],
        check=True, capture_output=True,
    )  # fmt: skip
    (site,) = venv.glob("lib/*/site-packages")
    paths = dict.fromkeys(sysconfig.get_paths()[name] for name in ("purelib", "platlib"))
    (site / "others.pth").write_text("".join(f"{path}\n" for path in paths))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run(str(python), "-c", "import figureground; print(figureground.__file__)")
    assert Path(where.strip()).is_relative_to(site)
    command = str(venv / "bin" / "figureground")
    assert run(command, "--version").strip() == figureground.__version__
    run(command, "init", "d3s")
    small = ["--set", "classes=[bird, car]", "--set", "backgrounds=[grass, snow]", "--set", "per_cell={train: 1}"]
    assert "4 images" in run(command, "plan", "--recipe", "d3s.yaml", *small)
    assert "4 samples" in run(command, "build", "--recipe", "d3s.yaml", *small, "--out", "d3s")
    assert "no findings" in run(command, "check", "d3s")
    run(command, "verify", "d3s", "--device", "cpu")
    run(command, "show", "d3s")
    assert (elsewhere / "d3s" / "report.html").is_file()
