"""Locates the files shipped with the code: `prompts/` and `templates/`."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
"""Directory of the package; a wheel contains the resources here."""

CHECKOUT = PACKAGE.parents[1]
"""Root of a checkout, from which an editable install reads the resources."""


def find_resource(name: str) -> Path:
    """Return the file or folder `name`, such as `"prompts"` or `"templates/report.html.jinja"`.

    Searches the package first, then the checkout's root.

    Raises:
        FileNotFoundError: It is in neither; names both places.
    """
    paths = [PACKAGE / name, CHECKOUT / name]
    for path in paths:
        if path.exists():
            return path
    searched = " nor ".join(f"'{path}'" for path in paths)
    raise FileNotFoundError(
        f"figureground's own {name!r} is neither {searched}. "
        "Reinstall figureground; in a checkout, restore the file with git."
    )
