import subprocess
import sys

import pytest

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


@pytest.mark.slow
def test_every_module_imports() -> None:
    assert {"figureground.report.sheet", "figureground.pocket.world"} <= set(run(IMPORT_ALL).split())
