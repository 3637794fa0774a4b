"""Locates the files shipped with the code: `prompts/` and `templates/`."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
"""Directory of the package; a wheel contains the resources here."""

CHECKOUT = PACKAGE.parents[1]
"""Root of a checkout, from which an editable install reads the resources."""


def resource(name: str) -> Path:
    """Return the file or folder `name`, such as `"prompts"` or `"templates/report.html.jinja"`.

    Searches the package first, then the checkout's root.

    Raises:
        FileNotFoundError: It is in neither; names both places.
    """
    places = [PACKAGE / name, CHECKOUT / name]
    for place in places:
        if place.exists():
            return place
    looked = " nor ".join(f"'{place}'" for place in places)
    raise FileNotFoundError(
        f"figureground's own {name!r} is neither {looked}. "
        "Reinstall figureground; in a checkout, restore the file with git."
    )
