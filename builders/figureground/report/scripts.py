"""Data as scripts, which a page opened from a file can load where browsers block `fetch`."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np


def write_script(folder: Path, name: str, value: Any) -> None:
    """Write `name`.js below a folder; once loaded, it hands the value to the page under that name.

    Args:
        folder: The folder of the report.
        name: Path below it, without suffix.
        value: JSON.
    """
    path = folder / f"{name}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    # In ASCII: a script must not depend on how the page or a server declares its encoding.
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    path.write_text(f"figureground.put({json.dumps(name)},{text});\n", encoding="ascii")


def encode_column(values: np.ndarray) -> dict[str, str]:
    """Return a column as base64 of little-endian numbers: `u1`, `u2` or `u4` for counts, else `f4`.

    Args:
        values: Non-negative whole numbers, or floats with NaN where there is no value; (n,).
    """
    if values.dtype.kind == "f":
        kind = "f4"
    else:
        largest = int(values.max(initial=0))
        kind = "u1" if largest < 2**8 else "u2" if largest < 2**16 else "u4"
    return {"type": kind, "data": base64.b64encode(values.astype(f"<{kind}").tobytes()).decode("ascii")}
