"""Imports model libraries: silenced, faster, and without a torchvision that doesn't fit torch."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import importlib.util
import logging
import multiprocessing
import os
import sys
import warnings
from collections.abc import Iterator
from importlib import metadata

from figureground.core.terminal import print_note

NOISY = (
    "accelerate", "datasets", "diffusers", "huggingface_hub", "peft", "timm", "torchao", "torchvision", "transformers",
    "torch.utils._pytree",  # what it says of torchao, which diffusers imports wherever it is installed
)  # fmt: skip
"""Libraries with warnings about deprecations and files that a user of this package can't act on."""
VERBOSITY = {
    "datasets": "DATASETS_VERBOSITY", "diffusers": "DIFFUSERS_VERBOSITY", "huggingface_hub": "HF_HUB_VERBOSITY",
    "transformers": "TRANSFORMERS_VERBOSITY",
}  # fmt: skip
"""Environment variables for the logging level of libraries; the user's own settings are kept."""


def silence_warnings() -> None:
    """Suppress library warnings in a process that runs the command or one of its workers.

    Call it before the libraries are imported. Errors are still shown, and so are all warnings if requested from
    Python: with `PYTHONWARNINGS=default`, or `python -W default -m figureground`.
    """
    for variable in VERBOSITY.values():
        os.environ.setdefault(variable, "error")
    for name in NOISY:
        if name not in VERBOSITY:
            logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.warnoptions:
        for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
            warnings.filterwarnings("ignore", category=category)
        warnings.filterwarnings("ignore", module=rf"({'|'.join(NOISY)})(\.|$)")


@contextlib.contextmanager
def pause_garbage_collector() -> Iterator[None]:
    """Pause the cyclic garbage collector within the context, for imports of torch and what is built on it.

    They make half a million objects that stay. The collector would look through all of them several times, which takes
    a fifth of the CPU time of the imports.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def import_silently(*libraries: str) -> None:
    """Import model libraries, and turn off their progress bars and warnings.

    A torchvision that doesn't fit torch is hidden from them, because they import it but don't need it.

    Args:
        libraries: `diffusers`, `transformers`. Their bars and warnings concern unused parts (image processors that
            need torchvision), files and steps, not images.
    """
    with pause_garbage_collector():
        hide_mismatched_torchvision()
        utilities_by_library = {name: importlib.import_module(f"{name}.utils.logging") for name in libraries}
    for name, utilities in utilities_by_library.items():
        utilities.disable_progress_bar()
        if os.environ.get(VERBOSITY[name], "error") == "error":
            utilities.set_verbosity_error()


@functools.cache
def hide_mismatched_torchvision() -> str | None:
    """Make an installed torchvision that can't be imported look absent; the main process says so once.

    Returns:
        The sentence that names the mismatch, with both versions; None if torchvision can be imported or is absent.
    """
    mismatch = find_torchvision_mismatch()
    if mismatch is not None:
        for name in [module for module in sys.modules if module.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.modules["torchvision"] = None  # type: ignore[assignment]  # Python's mark of a module that can't be imported
        if multiprocessing.parent_process() is None:
            print_note(f"{mismatch} It is ignored.")
    return mismatch


def find_torchvision_mismatch() -> str | None:
    """Import torchvision if it is installed; if it can't be imported, return a sentence that names both versions."""
    if importlib.util.find_spec("torchvision") is None:
        return None
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # its compiled operators fail in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        return (
            f"torchvision {_version('torchvision')} doesn't fit torch {_version('torch')} ({reason}): install matching "
            "releases from the same source (pip install --upgrade torch torchvision), or remove it (pip uninstall "
            "torchvision), because only timm needs it."
        )
    return None


def _version(name: str) -> str:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    return "(unknown version)"
