import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

PROJECT = Path(__file__).parents[1] / "pyproject.toml"

LIST_HEAVY = """
import sys
import {module}
print(*sorted({{"torch", "datasets", "diffusers", "transformers", "pyarrow"}} & set(sys.modules)))
"""

IMPORT_ALL = """
import importlib, pkgutil
import figureground
names = [module.name for module in pkgutil.walk_packages(figureground.__path__, "figureground.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(*names)
"""


def run(code: str) -> str:
    """Output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("module", ["figureground", "figureground.core.resources", "figureground.recipe.sample"])
def test_the_ground_floor_loads_no_heavy_library(module: str) -> None:
    assert run(LIST_HEAVY.format(module=module)) == ""


def test_show_loads_no_torch() -> None:
    assert "torch" not in run(LIST_HEAVY.format(module="figureground.report.sheet"))


def test_the_exceptions_of_the_import_contracts_are_for_types_only() -> None:
    contracts = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    exceptions = [line for contract in contracts for line in contract.get("ignore_imports", [])]
    graph = grimp.build_graph("figureground", exclude_type_checking_imports=True, cache_dir=None)
    assert exceptions
    for exception in exceptions:
        assert not graph.find_matching_direct_imports(import_expression=exception), exception


@pytest.mark.slow
def test_every_module_imports() -> None:
    assert {"figureground.report.sheet", "figureground.pocket.world"} <= set(run(IMPORT_ALL).split())
