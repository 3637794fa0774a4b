"""Reads what `show` writes beside its page."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np


def script(out: Path, name: str) -> Any:
    """Return what a script hands to the page."""
    text = (out / "report" / f"{name}.js").read_text(encoding="ascii")
    begin = f"figureground.put({json.dumps(name)},"
    assert text.startswith(begin)
    assert text.endswith(");\n")
    return json.loads(text[len(begin) : -3])


def numbers(encoded: dict[str, str]) -> list[float]:
    """Return a column."""
    return np.frombuffer(base64.b64decode(encoded["data"]), f"<{encoded['type']}").tolist()


def column(out: Path, name: str) -> list[float]:
    """Return a column of labels."""
    return numbers(script(out, "data/labels")[name])


def score(out: Path, name: str) -> list[float]:
    """Return a score of all images, and NaN for each reject."""
    entry = next(each for each in script(out, "data/index")["scores"] if each["name"] == name)
    return numbers(script(out, entry["file"]))


def details(out: Path) -> list[dict[str, Any]]:
    """Return the details of all images, then of all rejects, with the facts that a chunk shares."""
    index = script(out, "data/index")
    rows = []
    for folder, _, count, kind in index["blocks"]:
        for chunk in range(-(-count // index["chunk"])):
            content = script(out, f"details/{folder}/{kind}{chunk}")
            rows += [{**row, "facts": dict([*row["facts"], *content["shared"]])} for row in content["rows"]]
    return rows
