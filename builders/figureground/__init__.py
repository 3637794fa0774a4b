"""Image-classification datasets whose foreground and background labels are as correlated as you choose.

    from figureground import D3S
    D3S("pocket").build("out/d3s")

The names below are the public interface (docs/api.md). They are imported on first use, so `import figureground`
doesn't load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from figureground.core.version import VERSION

if TYPE_CHECKING:
    from figureground.annotation.reviewing import review
    from figureground.auditing.auditing import audit
    from figureground.checking.dataset import check
    from figureground.comparison.comparing import compare
    from figureground.curation.curating import curate
    from figureground.curation.merging import merge
    from figureground.disentangling.model import Disentangled
    from figureground.disentangling.training import disentangle
    from figureground.evaluation.evaluating import evaluate
    from figureground.exporting.exporting import export
    from figureground.hub.push import push
    from figureground.learn.settings import Training
    from figureground.learn.training import train
    from figureground.materials.cutouts import cutouts
    from figureground.methods.d3s import D3S
    from figureground.methods.ddb import DDB
    from figureground.methods.extend import extend
    from figureground.methods.forecast import plan
    from figureground.methods.scgs import SCGS
    from figureground.methods.spurious import Spurious
    from figureground.report.showing import show
    from figureground.running.building import build
    from figureground.verification.scenes import scenes
    from figureground.verification.verifying import verify

__version__ = VERSION
__all__ = [
    "D3S", "DDB", "SCGS", "Disentangled", "Spurious", "Training", "__version__", "audit", "build", "check", "compare",
    "curate", "cutouts", "disentangle", "evaluate", "export", "extend", "merge", "plan", "push", "review", "scenes",
    "show", "train", "verify",
]  # fmt: skip

_MODULES = {
    "D3S": "methods.d3s", "Spurious": "methods.spurious", "SCGS": "methods.scgs", "DDB": "methods.ddb",
    "audit": "auditing.auditing", "train": "learn.training", "Training": "learn.settings",
    "compare": "comparison.comparing",
    "plan": "methods.forecast", "build": "running.building", "extend": "methods.extend", "check": "checking.dataset",
    "show": "report.showing", "evaluate": "evaluation.evaluating", "curate": "curation.curating",
    "Disentangled": "disentangling.model", "disentangle": "disentangling.training",
    "export": "exporting.exporting", "merge": "curation.merging", "push": "hub.push", "review": "annotation.reviewing",
    "verify": "verification.verifying", "cutouts": "materials.cutouts", "scenes": "verification.scenes",
}  # fmt: skip
"""Module of each public name."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"figureground.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
