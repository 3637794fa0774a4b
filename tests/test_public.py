"""The public names: lazy, complete, and never shadowed by a package of the same name."""

import inspect
import subprocess
import sys

import pytest

import figureground

IMPORT_ALL = """
import importlib, pkgutil, random, sys
import figureground
rooms = [each.name for each in pkgutil.iter_modules(figureground.__path__)]
random.Random(int(sys.argv[1])).shuffle(rooms)
for room in rooms:
    if room != "__main__":
        importlib.import_module(f"figureground.{room}")
for name in figureground.__all__:
    print(name, type(getattr(figureground, name)).__name__)
"""


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_room_shadows_a_public_name(seed):
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL, str(seed)], capture_output=True, text=True, check=True)
    kinds = dict(line.split() for line in done.stdout.splitlines())
    assert set(kinds) == set(figureground.__all__)
    assert {name for name, kind in kinds.items() if kind == "module"} == set()


def test_public_names_are_documented_and_typed():
    for name in set(figureground.__all__) - {"__version__"}:
        found = getattr(figureground, name)
        assert inspect.getdoc(found), name
        if inspect.isfunction(found):
            signature = inspect.signature(found)
            assert signature.return_annotation is not signature.empty, name
            assert all(each.annotation is not each.empty for each in signature.parameters.values()), name


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="D3"):
        figureground.D3  # noqa: B018


def test_importing_the_package_loads_no_heavy_library():
    code = (
        "import sys, figureground; print([m for m in ('torch', 'diffusers', 'datasets', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
