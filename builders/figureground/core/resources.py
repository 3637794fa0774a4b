"""Where the files lie that ship beside the code: `prompts/` and `templates/`."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
"""The package itself; a wheel carries its resources in here."""

CHECKOUT = PACKAGE.parents[1]
"""The root of a checkout; an editable install reads the resources here, where people edit them."""


def resource(name: str) -> Path:
    """The file or folder `name`, such as `"prompts"` or `"templates/report.html.jinja"`.

    Looked for in the package first, then at the checkout's root.

    Raises:
        FileNotFoundError: It is in neither; the message names both places.
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
