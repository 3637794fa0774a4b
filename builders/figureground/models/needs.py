"""Finds models, packages and devices that a build needs and this machine lacks; opens and downloads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from figureground.core.devices import check_device
from figureground.core.errors import FiguregroundError, RecipeError, UsageError
from figureground.core.extras import hint, is_installed
from figureground.models import classifier_files, segmenter_files
from figureground.models.footprint import estimate_footprint
from figureground.models.loras import Lora, check_loras
from figureground.models.need import Need
from figureground.models.onnx_files import check_onnx
from figureground.models.opening import refuse_code
from figureground.models.weights import check_files, local_directory, read_index, refuse_revision
from figureground.sources.provenance import find_cached_snapshot

TIMM = "timm:"
ONNX = "onnx:"
"""Prefixes of the names of a timm network, and of an ONNX file."""
ZERO_SHOT = "clip:"
"""Prefix of the names of zero-shot classifiers."""
LOCAL = "local-dir:"
"""After `timm:`, prefix of a directory that timm saved."""


def missing_checkpoint(
    name: str,
    revision: str | None,
    inpaint: bool,
    *,
    scheduler: str | None = None,
    safety: str = "off",
    config: str | None = None,
    loras: Sequence[Lora] = (),
    steps: int | None = None,
) -> list[Need]:
    """Return the needs of a checkpoint that isn't on this machine.

    Args:
        inpaint, scheduler, safety, steps: See `weights.check_files`.
        config: The recipe's `checkpoint_config`.
        loras: LoRA files, which must fit the checkpoint.

    Raises:
        RecipeError: It is a file or directory, but a revision is given.
        UsageError: It is here, or in the Hub's cache, but unusable: of another pipeline, incomplete, without
            configuration.
    """
    try:
        folder = local_directory(name, config)
    except FiguregroundError as error:
        if Path(name).expanduser().exists() or name == "pocket" or isinstance(error, RecipeError):
            raise UsageError(str(error)) from None
        return [Need("checkpoint", f"the directory {name!r} isn't on this machine")]
    refuse_revision(name, revision, folder)
    cached = folder is None and find_cached_snapshot(name, revision)
    path = folder or cached
    if path is not None and path is not False and (folder is not None or (path / "model_index.json").is_file()):
        try:
            read_index(path, name, inpaint)
            variant = check_files(path, name, inpaint, scheduler=scheduler, safety=safety, steps=steps)
            check_loras(loras, path, name, variant)
        except FiguregroundError as error:
            if folder is None and "incomplete" in str(error):
                return [
                    _need_download(
                        "checkpoint", name, revision, estimate_footprint(name, revision).finished, "only partly "
                    )
                ]
            raise UsageError(str(error)) from None
        return []
    return [_need_download("checkpoint", name, revision, estimate_footprint(name, revision).finished)]


def missing_model(field: str, name: str, revision: str | None = None) -> list[Need]:
    """Return the needs of a model in a directory or on the Hub that isn't on this machine.

    Raises:
        UsageError: It is a directory whose files name code to run.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        try:
            refuse_code(path, f"{field} {name!r}")
        except FiguregroundError as error:
            raise UsageError(str(error)) from None
    if name == "pocket" or path.exists():
        return []
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        return [Need(field, f"no such file or directory: {name!r}")]
    from huggingface_hub import try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
    except ValueError as error:  # not a repository name
        raise UsageError(f"{field}: {name!r} is neither a directory nor a Hub id: {error}") from None
    return [] if isinstance(cached, str) else [_need_download(field, name, revision, None)]


def refuse_absent_model(field: str, name: str) -> None:
    """Refuse a transformers model whose path doesn't exist or whose files name code to run.

    Raises:
        FiguregroundError: The file or directory doesn't exist, it contains no model, or its files name code.
    """
    path = Path(name).expanduser()
    is_hub_id = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    if name != "pocket" and not is_hub_id and (not name.strip() or not path.exists()):
        raise FiguregroundError(
            f"{field}: no such file or directory: {name!r}. Give 'pocket', a transformers directory, a Hub id or "
            "timm:NAME."
        )
    if name != "pocket" and path.is_dir() and not any((path / file).is_file() for file in ("config.json", "timm.json")):
        raise FiguregroundError(f"{field}: {name!r} is not a transformers directory: config.json is missing.")
    if name != "pocket" and path.is_dir():
        refuse_code(path, f"{field} {name!r}")


def missing_onnx(field: str, file: str) -> list[Need]:
    """Return the needs of a model in an ONNX file."""
    exists = Path(file).expanduser().exists()
    return [*([] if exists else [Need(field, f"no such file: {file!r}")]), *missing_packages(field, ["onnxruntime"])]


def refuse_absent_onnx(field: str, file: str) -> None:
    """Refuse an ONNX file that doesn't exist or can't be used, or whose package is missing.

    Raises:
        FiguregroundError: The check failed.
    """
    check_onnx(Path(file).expanduser(), f"{field} {ONNX + file!r}")
    refuse_missing_package(field, ONNX + file, "onnxruntime")


def timm_directory(name: str) -> Path | None:
    """Return the directory of `timm:local-dir:PATH`; None for other names."""
    prefix = f"{TIMM}{LOCAL}"
    return Path(name.removeprefix(prefix)).expanduser() if name.startswith(prefix) else None


def refuse_missing_package(field: str, name: str, module: str) -> None:
    """Raise FiguregroundError if a package that a model needs can't be imported."""
    for need in missing_packages(field, [module]):
        raise FiguregroundError(f"{field}: {name!r}: {need.what}: {need.command}")


def missing_classifier(field: str, name: str, revision: str | None = None) -> list[Need]:
    """Return the needs of a classifier or backbone.

    Raises:
        UsageError: See `models.classifier_files.ClassifierKind.needs`.
    """
    kind, rest = classifier_files.find_kind(name)
    return kind.needs(field, rest, revision)


def refuse_absent_classifier(field: str, name: str) -> None:
    """Refuse a classifier or backbone that is missing or unusable, without opening it.

    Raises:
        FiguregroundError: See `models.classifier_files.ClassifierKind.refuse_absent`.
    """
    kind, rest = classifier_files.find_kind(name)
    kind.refuse_absent(field, rest)


def refuse_featureless(field: str, name: str) -> None:
    """Refuse a classifier that gives no gradients and no features, or needs a list of classes, where that can't be.

    Raises:
        FiguregroundError: It is such a one; names the field.
    """
    kind, _ = classifier_files.find_kind(name)
    if kind.NEEDS_CLASSES:
        raise FiguregroundError(f"{field}: {name!r} is a zero-shot classifier, which only `evaluate` takes.")
    if not kind.GIVES_FEATURES:
        raise FiguregroundError(
            f"{field}: {name!r} gives no gradients and no features, which are needed here. Give a transformers "
            "directory, a Hub id or timm:NAME."
        )


def missing_segmenter(field: str, name: str) -> list[Need]:
    """Return the needs of a segmenter, which may consist of two models."""
    kind, rest = segmenter_files.find_kind(name)
    return kind.needs(field, rest)


def refuse_absent_segmenter(field: str, name: str) -> None:
    """Refuse a segmenter whose models are missing or unusable, without opening them.

    Raises:
        FiguregroundError: See `models.segmenter_files.SegmenterKind.refuse_absent`.
    """
    kind, rest = segmenter_files.find_kind(name)
    kind.refuse_absent(field, rest)


def missing_packages(field: str, modules: Sequence[str]) -> list[Need]:
    """Return the packages of modules that can't be imported."""
    return [
        Need(field, f"the package {module} isn't installed", hint(module))
        for module in modules
        if not is_installed(module)
    ]


def missing_device(name: str) -> list[Need]:
    """Return the need for a device that torch doesn't see. Imports torch only for a CUDA or MPS device.

    Raises:
        RecipeError: The name is not a device.
    """
    check_device(name)
    kind, _, number = name.partition(":")
    if kind not in ("cuda", "mps"):
        return []
    import torch

    count = torch.cuda.device_count() if kind == "cuda" else int(torch.backends.mps.is_available())
    devices = f"{count} CUDA devices" if kind == "cuda" else "no MPS device" if not count else "one MPS device"
    return [] if int(number or 0) < count else [Need("device", f"{name} is requested, but torch sees {devices} here")]


def _need_download(field: str, name: str, revision: str | None, size: int | None, extent: str = "not ") -> Need:
    command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    return Need(field, f"{name!r} is {extent}in this machine's cache", command, size)
