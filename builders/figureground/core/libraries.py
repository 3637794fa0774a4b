"""Libraries of models: what they print is kept off the terminal, and a torchvision that doesn't fit torch is named."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import sys
import warnings
from importlib import metadata

from figureground.core.errors import FiguregroundError

TALKING = ("accelerate", "datasets", "diffusers", "huggingface_hub", "peft", "timm", "torchvision", "transformers")
"""Libraries that warn of their own future and of files, where a person who builds datasets can do nothing."""
VERBOSITY = {
    "datasets": "DATASETS_VERBOSITY", "diffusers": "DIFFUSERS_VERBOSITY", "huggingface_hub": "HF_HUB_VERBOSITY",
    "transformers": "TRANSFORMERS_VERBOSITY",
}  # fmt: skip
"""Variables of the environment from which libraries take their level of logging; a person's own setting stays."""


def quieten() -> None:
    """Keep warnings of libraries off the terminal, in a process that runs the command or one of its workers.

    Called before they are imported. Errors still show, and all warnings where Python was asked for them: with
    `PYTHONWARNINGS=default`, or `python -W default -m figureground`.
    """
    for variable in VERBOSITY.values():
        os.environ.setdefault(variable, "error")
    for name in TALKING:
        if name not in VERBOSITY:
            logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.warnoptions:
        for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
            warnings.filterwarnings("ignore", category=category)
        warnings.filterwarnings("ignore", module=rf"({'|'.join(TALKING)})(\.|$)")


def prepare(*libraries: str) -> None:
    """Make sure that libraries of models can be imported, and turn off their bars and warnings.

    Args:
        libraries: `diffusers`, `transformers`. Their bars and warnings speak of parts that are not used (image
            processors that want torchvision), of files and of steps, not of images.

    Raises:
        FiguregroundError: An installed torchvision doesn't fit torch.
    """
    check_torchvision()
    for name in libraries:
        utilities = importlib.import_module(f"{name}.utils.logging")
        utilities.disable_progress_bar()
        if os.environ.get(VERBOSITY[name], "error") == "error":
            utilities.set_verbosity_error()


def check_torchvision() -> None:
    """Import torchvision where it is installed: diffusers, timm and transformers do, and hide what went wrong.

    Raises:
        FiguregroundError: It can't be imported; the error names its version and torch's.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # its compiled operators fail in many ways
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise FiguregroundError(
            f"torchvision {_version('torchvision')} doesn't fit torch {_version('torch')} ({first}). Install the two "
            "releases that belong together, from the same place (pip install --upgrade torch torchvision), or remove "
            "it: pip uninstall torchvision. Only timm needs it."
        ) from error


def _version(name: str) -> str:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    return "of an unknown version"
