"""Networks of several families that benchmarks train from random weights, named as `Training` takes them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import biased
import torch

from figureground.learn.settings import POCKET
from figureground.pocket import robust

NAMES = (POCKET, *biased.FAMILIES)


def training(name: str, folder: Path) -> dict[str, Any]:
    """What `Training` is told of a backbone.

    Args:
        name: One of `NAMES`.
        folder: Where the directories of backbones lie. It is made there unless it is there already; the same bytes each
            time.
    """
    if name == POCKET:
        return {"backbone": POCKET}
    out = folder / name
    if not out.exists():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = biased.build(name)
        part = out.with_name(f".{name}.{os.getpid()}.part")
        robust.save(model, part)
        try:
            part.rename(out)
        except OSError:  # another process was as quick
            shutil.rmtree(part)
    return {"backbone": str(out), "from_scratch": True, "learning_rate": biased.FAMILIES[name].learning_rate}
