"""Opens models from untrusted directories without running their code; the only module that does so.

In transformers and diffusers, a configuration file can name Python code: `auto_map` and `custom_pipeline` name
modules, an attention implementation may be a compiled kernel on the Hub, and a pipeline's index names the package from
which a part is imported. All functions here read the configuration files first and refuse these entries. They then
open models with `trust_remote_code=False`, so that no library prompts on standard input either. A test searches the
sources for calls that bypass this module. Needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from figureground.core.errors import FiguregroundError
from figureground.core.files import FileError, TooDeep, read_json
from figureground.models.size import refuse_oversized

ATTENTION = ("eager", "sdpa", "flex_attention")
"""Attention implementations of transformers and torch. Other names may be kernels that are downloaded and run."""
LIBRARIES = ("diffusers", "transformers", "stable_diffusion", "stable_diffusion_xl")
"""Allowed libraries for the parts of a pipeline, as named in `model_index.json`."""
MAX_BYTES = 16 * 2**20
"""Largest configuration file, bytes. One for 21,000 classes has 1 MB."""

_IMPLEMENTATIONS = tuple(
    f"{start}{kind}_implementation" for kind in ("attn", "experts") for start in ("", "_")
)  # fmt: skip
_CODE = ("auto_map", "custom_pipeline", "custom_generate", "use_kernels")
UNBOUNDED = ("tokenizer_config.json", "generation_config.json")
"""Files in which large numbers are harmless: a tokenizer's limit of 10³⁰ tokens means no limit."""
_LABELS = ("id2label", "label2id")
"""Entries whose keys are class names, which can be arbitrary words."""


def refuse_code(folder: Path, what: str) -> None:
    """Refuse a model whose configuration files would make a library run code that came with it.

    Args:
        folder: The model's directory; its subdirectories, as in a pipeline, are checked too.
        what: The model's name in errors, such as `classifier 'mine'`.

    Raises:
        FiguregroundError: A file names code, a foreign kernel, a quantization, pickled weights, or another model to
            open instead; names file and entry. Files that don't parse are skipped; opening them reports the error.
    """
    for path in _find_configs(folder):
        where = f"{what}: its {path.relative_to(folder).as_posix()}"
        if path.name == "adapter_config.json":
            raise FiguregroundError(
                f"{where} makes the library open another model (base_model_name_or_path) instead of this one. Merge "
                "the adapter into its base model first: PeftModel.from_pretrained(…).merge_and_unload()."
            )
        if path.stat().st_size > MAX_BYTES:
            raise FiguregroundError(f"{where} has {path.stat().st_size:,} bytes, too many for a configuration.")
        try:
            content = read_json(path)
        except TooDeep:
            raise FiguregroundError(f"{where} is nested too deeply to be a configuration.") from None
        except FileError:
            continue
        if path.name.endswith("model_index.json"):
            _check_parts(content, where)
        for entries in _iterate_mappings(content):
            _check_entries(entries, where)
        if path.name not in UNBOUNDED:
            refuse_oversized(content, path, where)


def _find_configs(folder: Path) -> list[Path]:
    """Return the configuration files of a directory and its subdirectories."""
    paths = [path for pattern in ("*.json", "*/*.json") for path in sorted(folder.glob(pattern))]
    return [path for path in paths if path.name.endswith(("config.json", "model_index.json")) and path.is_file()]


def _iterate_mappings(content: Any) -> Iterator[dict[str, Any]]:
    """Yield all mappings in a parsed file, at any depth."""
    stack = [content]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            yield value
            stack += [item for name, item in value.items() if name not in _LABELS]
        elif isinstance(value, list):
            stack += value


def _check_entries(entries: dict[str, Any], where: str) -> None:
    for name in _CODE:
        if entries.get(name):
            raise FiguregroundError(
                f"{where} names code to run ({name}: {_format_value(entries[name])}), and code that comes with a "
                "model is never run. Remove the entry if the model works without it, or choose another model."
            )
    for name in _IMPLEMENTATIONS:
        value = entries.get(name)
        for implementation in value.values() if isinstance(value, dict) else [value]:
            if implementation is not None and implementation not in ATTENTION:
                raise FiguregroundError(
                    f"{where} asks for {name}: {_format_value(implementation)}, which may be downloaded and run. "
                    f"Remove the entry, or give one of {', '.join(ATTENTION)}."
                )
    if entries.get("quantization_config"):
        raise FiguregroundError(
            f"{where} declares a quantized model (quantization_config), for which libraries load kernels from "
            "elsewhere. Use the model's original weights."
        )
    weights = entries.get("transformers_weights")
    if weights is not None and not str(weights).endswith((".safetensors", ".safetensors.index.json")):
        raise FiguregroundError(
            f"{where} names weights that are not safetensors (transformers_weights: {_format_value(weights)}). If you "
            "trust them, convert them and remove the entry."
        )


def _check_parts(index: Any, where: str) -> None:
    """Refuse a pipeline, or a part of one, whose class isn't from a known library."""
    for name, value in index.items() if isinstance(index, dict) else ():
        if name == "_class_name" and not isinstance(value, str):
            raise FiguregroundError(
                f"{where} names a custom pipeline ({name}: {_format_value(value)}), and code that comes with a model "
                "is never run. Choose a checkpoint whose pipeline is part of diffusers."
            )
        library = value[0] if isinstance(value, list) and len(value) == 2 else None
        if library is not None and library not in LIBRARIES:
            raise FiguregroundError(
                f"{where} takes {name} from {_format_value(library)}, but only parts "
                f"from {' and '.join(LIBRARIES[:2])} are "
                "opened. Choose another checkpoint."
            )


def _format_value(value: Any) -> str:
    """Return an untrusted value as JSON, truncated, in one line of ASCII."""
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def open_network(kind: Any, folder: Path, what: str, **options: Any) -> Any:
    """Open a network; with `output_loading_info=True`, return a pair of it and its loading info.

    Args:
        kind: A transformers or diffusers class with weights.
        folder: A directory on this machine.
        what: The model's name in errors.
        options: Passed to the library; weights are always safetensors and nothing is downloaded.

    Raises:
        FiguregroundError: See `refuse_code`. Exceptions of the libraries are passed on.
    """
    return open_part(kind, folder, what, use_safetensors=True, **options)


def open_part(kind: Any, folder: Path, what: str, **options: Any) -> Any:
    """Open a part without weights, such as a tokenizer or an image processor; see `open_network`."""
    refuse_code(folder, what)
    if kind.__module__.startswith("transformers."):
        options["trust_remote_code"] = False
    return kind.from_pretrained(folder, local_files_only=True, **options)


def fill_network(
    kind: Any, folder: Path, what: str, convert: Callable[[Mapping[str, Any], Any], Mapping[str, Any]], dtype: Any
) -> tuple[Any, list[str], list[str]]:
    """Make a network from its configuration and fill it with weights that lie elsewhere.

    Args:
        kind: A transformers or diffusers class with weights.
        folder: The directory of its configuration.
        what: The model's name in errors.
        convert: Returns the weights under the network's names, from its configuration and the network.
        dtype: Dtype of the weights.

    Returns:
        The network, the names of weights that it lacks, and the names of those that it has no place for.

    Raises:
        FiguregroundError: See `refuse_code`. Exceptions of the libraries and of `convert` are passed on.
    """
    from accelerate import init_empty_weights

    refuse_code(folder, what)
    is_transformers = kind.__module__.startswith("transformers.")
    config = (
        kind.config_class.from_pretrained(folder, local_files_only=True)
        if is_transformers
        else kind.load_config(folder, local_files_only=True)
    )
    with init_empty_weights():
        network = kind(config) if is_transformers else kind.from_config(config)
    weights = convert(config.to_dict() if is_transformers else config, network)
    _, unexpected = network.load_state_dict({n: w.to(dtype) for n, w in weights.items()}, strict=False, assign=True)
    if hasattr(network, "tie_weights"):
        network.tie_weights()
    missing = [name for name, weight in network.named_parameters() if weight.is_meta]
    return network.eval(), missing, list(unexpected)


def open_pipeline(kind: Any, folder: Path, what: str, **options: Any) -> Any:
    """Open a diffusers pipeline; see `open_network`. Parts given as options are not opened."""
    refuse_code(folder, what)
    return kind.from_pretrained(folder, use_safetensors=True, local_files_only=True, trust_remote_code=False, **options)


def make_network(kind: Any, config: Any, **options: Any) -> Any:
    """Make a network with random weights, or a scheduler, from a loaded configuration.

    Args:
        kind: A class of transformers or diffusers.
        config: A transformers configuration object or a mapping.

    Raises:
        FiguregroundError: The configuration names code; see `refuse_code`.
    """
    entries = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    for mapping in _iterate_mappings(entries):
        _check_entries(mapping, f"the configuration of a {kind.__name__}")
    if kind.__module__.startswith("transformers."):
        options["trust_remote_code"] = False
    return kind.from_config(config, **options)


def make_timm(name: str, **options: Any) -> Any:
    """Make a timm network by name, without the prefix `timm:`."""
    import timm

    return timm.create_model(name, **options)


def download_pipeline(name: str, revision: str | None) -> Path:
    """Download a diffusers checkpoint from the Hub, or find it in the cache; return its snapshot directory.

    Weights are downloaded in half precision only if there are no others. No code is downloaded. Exceptions of the
    library are passed on.
    """
    from diffusers import DiffusionPipeline

    options = {"revision": revision, "use_safetensors": True, "trust_remote_code": False}
    try:
        return Path(DiffusionPipeline.download(name, **options))
    except OSError as error:
        if "necessary `safetensors` weights" not in str(error):
            raise
        for variant in ("fp16", "bf16"):
            with suppress(OSError, ValueError):  # there is no such variant
                return Path(DiffusionPipeline.download(name, variant=variant, **options))
        raise


def load_adapters(pipeline: Any, folder: Path, weight_name: str, name: str | None = None) -> None:
    """Load low-rank adapters from a safetensors file into a pipeline, under a name of their own if one is given."""
    pipeline.load_lora_weights(
        folder, weight_name=weight_name, adapter_name=name, use_safetensors=True, local_files_only=True
    )


def read_adapters(pipeline: Any, folder: Path, weight_name: str) -> dict[str, Any]:
    """Return the tensors of a safetensors file with low-rank adapters, by diffusers' names."""
    unet = getattr(pipeline, "unet", None)
    options = {} if unet is None else {"unet_config": unet.config}
    state = pipeline.lora_state_dict(
        folder, weight_name=weight_name, use_safetensors=True, local_files_only=True, **options
    )
    return dict(state[0] if isinstance(state, tuple) else state)
