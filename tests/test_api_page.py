"""The page on the Python API is the one that the docstrings give."""

import importlib.util
from pathlib import Path

import figureground

SCRIPT = Path(__file__).resolve().parents[1] / "docs" / "make_api.py"


def test_the_page_is_made_of_the_docstrings_and_has_every_public_name():
    spec = importlib.util.spec_from_file_location("make_api", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.PAGE.read_text(encoding="utf-8")
    assert text == module.render(), "run python docs/make_api.py"
    for name in set(figureground.__all__) - {"__version__"}:
        assert f"### {name}\n" in text
