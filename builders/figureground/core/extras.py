"""Extras of this package: which packages they install, what for, and what to say where one is missing."""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

from figureground.core.errors import FiguregroundError


class Extra(NamedTuple):
    """Optional packages, installed together: `pip install 'figureground[NAME]'`."""

    packages: tuple[str, ...]
    """Their distributions."""
    purpose: str


EXTRAS = {
    "mitigate": Extra(("captum", "scikit-learn"), "scgs and ddb"),
    "onnx": Extra(("onnxruntime",), "ONNX files: segmenters and classifiers"),
    "timm": Extra(("timm",), "timm's networks as classifiers and backbones"),
    "lora": Extra(("peft",), "LoRA files, and fine-tuning low-rank adapters"),
    "quantize": Extra(("torchao",), "weights of 8 bits"),
    "erase": Extra(("concept-erasure",), "disentangle with LEACE"),
    "check": Extra(("imagehash",), "check for near duplicates"),
    "ray": Extra(("ray",), "builds on a Ray cluster"),
    "s3": Extra(("s3fs",), "datasets at s3:// URLs"),
    "gs": Extra(("gcsfs",), "datasets at gs:// URLs"),
    "sign": Extra(("c2pa-python", "cryptography"), "signed exports"),
    "train": Extra(("matplotlib",), "charts of trainings and comparisons"),
    "tensorboard": Extra(("tensorboard",), "--track tensorboard"),
    "trackio": Extra(("trackio",), "--track trackio"),
    "wandb": Extra(("wandb",), "--track wandb"),
}
"""Extras by name."""
_DISTRIBUTIONS = {"c2pa": "c2pa-python", "concept_erasure": "concept-erasure", "sklearn": "scikit-learn"}
"""Distributions of modules that are named otherwise."""


def is_installed(module: str) -> bool:
    """Whether a module can be found; it isn't imported."""
    return importlib.util.find_spec(module) is not None


def hint(module: str) -> str:
    """Return the shell command that installs a module: its extra, or the package of its name if it is of no extra."""
    package = _DISTRIBUTIONS.get(module, module)
    extra = next((name for name, each in EXTRAS.items() if package in each.packages), None)
    return f"pip install {package}" if extra is None else install_extra(extra)


def install_extra(name: str) -> str:
    """Return the shell command that installs an extra."""
    return f"pip install 'figureground[{name}]'"


def explain_missing(
    module: str, subject: str, error: ImportError | None = None, *, otherwise: str = ""
) -> FiguregroundError:
    """Return the error of a module that isn't installed.

    Args:
        subject: What needs it, such as `classifier 'timm:resnet18'`.
        error: Why it can't be imported.
        otherwise: What else to do, such as `or render with --runner local`.
    """
    reason = "" if error is None else f" ({(str(error).splitlines() or ['not found'])[0]})"
    remedy = ", ".join(filter(None, [hint(module), otherwise]))
    return FiguregroundError(f"{subject} needs {_DISTRIBUTIONS.get(module, module)}: {remedy}{reason}.")


def require(module: str, subject: str, *, otherwise: str = "") -> None:
    """Raise the error of `explain_missing` if a module isn't installed; it isn't imported."""
    if not is_installed(module):
        raise explain_missing(module, subject, otherwise=otherwise)
