"""Opens checkpoints of diffusion models: the bundled pocket model, a local directory, or a Hub id with a revision."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from safetensors import safe_open

from figureground.core.accelerator import choose_dtype, is_out_of_memory
from figureground.core.errors import FiguregroundError, join_names
from figureground.diffusion.autoencoder import autoencoder_dtype, compute_in_own_dtype
from figureground.diffusion.merging import merge_loras
from figureground.diffusion.placing import Offload, check_offload, place
from figureground.diffusion.quantizing import Quantization, check_quantization, quantize
from figureground.models.family import OWN, Family, recognise
from figureground.models.loras import Lora, check_loras, identify
from figureground.models.opening import (
    download_pipeline,
    fill_network,
    make_network,
    open_network,
    open_part,
    open_pipeline,
    refuse_code,
)
from figureground.models.parts import limit_tokens
from figureground.models.schedules import remove_clipping, settings_for_latents
from figureground.models.single_file import find_single_file, read_file_parts
from figureground.models.weights import (
    check_files,
    download_file,
    fingerprint,
    local_directory,
    read_family,
    read_index,
)

SCHEDULERS = {
    "ddim": DDIMScheduler,
    "ddpm": DDPMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "euler-a": EulerAncestralDiscreteScheduler,
    "pndm": PNDMScheduler,
    "unipc": UniPCMultistepScheduler,
}
"""Samplers by their names in recipes."""


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint and the pipelines that share its weights."""

    family: Family
    text_to_image: Any
    """The pipeline that holds its parts, also if it can't draw from a text alone."""
    image_to_image: Any | None
    facts: dict[str, Any]
    """Description for provenance, without paths."""
    folder: Path
    """Local folder of its files."""
    inpaint: Any | None = None
    """Inpainting pipeline; None if it wasn't requested."""
    edit: Any | None = None
    """Pipeline that edits a reference by an instruction; None for most families."""
    offloads_to: torch.device | None = None
    """The device that networks are moved to while they work; None if they stay on one."""

    @property
    def device(self) -> torch.device:
        """The device that computes."""
        return self.offloads_to or self.text_to_image.device

    @property
    def factor(self) -> int:
        """Image pixels per latent pixel."""
        return int(self.text_to_image.vae_scale_factor)

    @property
    def edge_multiple(self) -> int:
        """Pixels of which an image's edge must be a multiple."""
        return self.family.edge_multiple(self.folder)

    @property
    def needs_mask(self) -> bool:
        """Whether this checkpoint was made for inpainting, so that only `inpaint` can draw."""
        return self.family.takes_mask(self.text_to_image)

    @property
    def denoiser(self) -> Any:
        """The network that denoises, such as a UNet."""
        return getattr(self.text_to_image, self.family.DENOISER)

    @property
    def text_encoders(self) -> list[Any]:
        """The text encoders, one per tokenizer."""
        return _get_parts(self.text_to_image, self.family.TEXTS)

    @property
    def tokenizers(self) -> list[Any]:
        """The tokenizers, one per text encoder."""
        return _get_parts(self.text_to_image, self.family.TEXTS.values())

    def count_tokens(self, prompt: str) -> list[tuple[int, int]]:
        """Return, for each text encoder, a prompt's number of tokens and how many it reads.

        A learned word counts as all of its vectors.
        """
        family = self.family
        return [
            (family.count_tokens(each, family.expand_words(prompt, each)), int(each.model_max_length))
            for each in self.tokenizers
        ]

    def replace_denoiser(self, denoiser: Any) -> None:
        """Give all pipelines another denoiser, such as a compiled one."""
        for pipeline in (self.text_to_image, self.image_to_image, self.inpaint, self.edit):
            if pipeline is not None:
                setattr(pipeline, self.family.DENOISER, denoiser)


def _get_parts(pipeline: Any, names: Iterable[str]) -> list[Any]:
    return [part for name in names if (part := getattr(pipeline, name, None)) is not None]


def open_checkpoint(
    checkpoint: str,
    revision: str | None = None,
    *,
    device: torch.device,
    dtype: torch.dtype | str,
    scheduler: str | None = None,
    safety: str = "reject",
    inpaint: bool = False,
    config: str | None = None,
    loras: Sequence[Lora] = (),
    quantization: Quantization | None = None,
    offload: Offload = "none",
) -> Checkpoint:
    """Open a checkpoint for the ways in which its family draws, inpainting only if asked for, with shared weights.

    Args:
        checkpoint: `pocket`, a directory in diffusers' layout, a `.safetensors` file, or a Hub id.
        revision: Branch, tag or commit on the Hub.
        dtype: Dtype of the weights; `auto` depends on device and family, and a name is allowed too.
        scheduler: A name from `SCHEDULERS`, with which the checkpoint's noise schedule and prediction type are kept, or
            `own` for the checkpoint's own; None for the family's usual one.
        safety: `off` drops the safety checker, `reject` keeps it if the checkpoint has one.
        inpaint: Whether to open an inpainting pipeline. An ordinary checkpoint inpaints by masked latents. An
            inpainting checkpoint (a UNet of 9 channels: latents, mask, masked image) can only be opened with it.
        config: Directory that configures a single file; None to look in the Hub's cache.
        loras: LoRA files to merge into the weights.
        quantization: Format of 8 bits for the denoiser's weights; None for `dtype`.
        offload: Whether networks are on the device only while they work; see `placing.place`.

    Raises:
        FiguregroundError: The checkpoint is missing, incomplete, pickle-only, of an unsupported kind, or unreachable.
        RecipeError: The device can't do what `quantization` or `offload` says.
    """
    check_offload(offload, device)
    if quantization is not None:
        check_quantization(quantization, device)
    folder = local_directory(checkpoint, config)
    is_local = folder is not None
    if folder is None:
        folder = download(checkpoint, revision)
    file = find_single_file(checkpoint)
    what = f"checkpoint {checkpoint!r}"
    refuse_code(folder, what)
    index = read_index(folder, checkpoint, inpaint)
    family = recognise(index["_class_name"][0], what).variant(index)
    scheduler = scheduler or family.SCHEDULER
    variant = check_files(folder, checkpoint, inpaint, scheduler=scheduler, safety=safety)
    if loras:
        check_loras(loras, folder, checkpoint, variant)
    if isinstance(dtype, str):
        dtype = choose_dtype(dtype, device, family.HALF)
    vae_dtype = autoencoder_dtype(folder, dtype, device)
    pipeline = _open_pipeline(family, folder, index, checkpoint, dtype, vae_dtype, variant, safety, device)
    if loras:
        merge_loras(pipeline, loras)
    _refuse_non_finite(pipeline, family, checkpoint, dtype)
    if quantization is not None:
        quantize(getattr(pipeline, family.DENOISER), quantization)
    try:
        if offload == "none":
            place([pipeline], device, offload)
    except RuntimeError as error:
        raise _make_open_error(checkpoint, error, device) from error
    pipeline.scheduler = _choose_scheduler(scheduler, pipeline.scheduler, family, checkpoint)
    # On a CPU in float32, channels last slows down a UNet of small images by a quarter, but speeds up an autoencoder.
    if device.type != "cpu":
        _use_channels_last(getattr(pipeline, family.DENOISER))
    _use_channels_last(pipeline.vae)
    image, inpainting, edit = siblings = _make_siblings(pipeline, family, inpaint)
    for each in (pipeline, *siblings):
        if each is not None:
            each.set_progress_bar_config(disable=True)
    if offload != "none":
        place([pipeline, *(sibling for sibling in siblings if sibling is not None)], device, offload)
    facts: dict[str, Any] = {
        "checkpoint": checkpoint if checkpoint == "pocket" or not is_local else (file or folder).name,
        "revision": fingerprint(checkpoint, None, config)[:19] if is_local else folder.name,
        "family": family.NAME,
        "prediction_type": family.prediction_type(pipeline.scheduler.config),
    }
    if loras:
        facts["loras"] = [
            {"name": lora.path.name, "content": identity["content"][:19], "scale": lora.scale}
            for lora, identity in zip(loras, identify(loras), strict=True)
        ]
    if quantization is not None:
        facts["quantization"] = quantization
    return Checkpoint(family, pipeline, image, facts, folder, inpainting, edit, None if offload == "none" else device)


def _open_pipeline(
    family: Family, folder: Path, index: dict[str, Any], checkpoint: str, dtype: torch.dtype, vae_dtype: torch.dtype,
    variant: str | None, safety: str, device: torch.device,
) -> Any:  # fmt: skip
    """Open a checkpoint's text-to-image pipeline on the CPU, with its own scheduler.

    Args:
        dtype, vae_dtype: Dtypes of the weights, and of the autoencoder's.
        variant: Variant of the weights' files, such as fp16.
        device: The device that the pipeline is meant for, named in error messages.

    Raises:
        FiguregroundError: A part can't be opened.
    """
    kinds, what = family.pipelines(), f"checkpoint {checkpoint!r}"
    options: dict[str, Any] = {"dtype": dtype}
    if variant:
        options["variant"] = variant
    try:
        options.update(_open_networks(family, folder, index, checkpoint, options, {"vae": vae_dtype}))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _make_open_error(checkpoint, error, device) from error
    options.update(family.pipeline_options(index, safety))
    try:
        pipeline = open_pipeline(kinds.text, folder, what, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _make_open_error(checkpoint, error, device) from error
    for name, part in family.open_others(folder, what).items():
        setattr(pipeline, name, part)
    for encoder, tokenizer in family.TEXTS.items():
        if getattr(pipeline, tokenizer, None) is not None and getattr(pipeline, encoder, None) is not None:
            limit_tokens(getattr(pipeline, tokenizer), family.tokens_read(folder, encoder))
    for name, part in pipeline.components.items():  # a checkpoint may hold its parts in several dtypes
        part_dtype = vae_dtype if name == "vae" else dtype
        if isinstance(part, torch.nn.Module) and part.dtype != part_dtype:
            part.to(part_dtype)
    if vae_dtype != dtype:
        compute_in_own_dtype(pipeline.vae)
    return pipeline


def _make_siblings(pipeline: Any, family: Family, inpaint: bool) -> tuple[Any, Any, Any]:
    """Make a pipeline's image-to-image, inpainting and editing siblings, which share its parts.

    Returns:
        The three; None for those that the family doesn't have, and for inpainting unless `inpaint`.
    """
    parts, kinds = {**pipeline.components, **family.sibling_options(pipeline)}, family.pipelines()

    def make(kind: Any) -> Any:
        return kind(**{name: parts[name] for name in inspect.signature(kind.__init__).parameters if name in parts})

    image, inpainting, edit = (
        None if kind is None else make(kind) for kind in (kinds.image, kinds.inpaint if inpaint else None, kinds.edit)
    )
    return image, inpainting, edit


def _use_channels_last(network: Any) -> None:
    """Lay out the weights of convolutions with channels last, unless they are three-dimensional."""
    if all(weight.dim() < 5 for weight in network.parameters()):
        network.to(memory_format=torch.channels_last)


def _open_networks(
    family: Family,
    folder: Path,
    index: dict[str, Any],
    checkpoint: str,
    options: dict[str, Any],
    dtypes: Mapping[str, torch.dtype],
) -> dict[str, torch.nn.Module]:
    """Open the networks of a checkpoint one by one, because a pipeline would fill missing weights with noise.

    Args:
        options: Passed to diffusers and transformers.
        dtypes: Dtypes of parts that differ from that in `options`.
    """
    networks, classes = {}, family.network_classes()
    file = find_single_file(checkpoint)
    file_parts = read_file_parts(file, folder, family) if file else {}
    for part in family.networks:
        kind = classes.get(str(index.get(part, [None])[-1]))
        if kind is None:
            continue
        where = f"checkpoint {checkpoint!r}: {part}"
        part_options = {**options, "dtype": dtypes.get(part, options["dtype"])}
        if file is not None and part in file_parts:
            networks[part], missing = _open_from_file(
                family, part, kind, folder / part, file, file_parts[part], part_options["dtype"]
            )
        else:
            networks[part], info = open_network(kind, folder / part, where, output_loading_info=True, **part_options)
            missing = info["missing_keys"]
        if missing:
            raise FiguregroundError(
                f"checkpoint {checkpoint!r} is incomplete: the weights of {part} lack "
                f"{join_names(sorted(missing), 2)}. Download or write it again."
            )
    return networks


def _open_from_file(
    family: Family, part: str, kind: Any, config: Path, file: Path, beginning: str, dtype: torch.dtype
) -> tuple[torch.nn.Module, list[str]]:
    """Open a network whose weights lie in a single file.

    Args:
        kind: The network's class.
        config: Directory of the network's configuration.
        beginning: That of its tensors' names in the file.

    Returns:
        The network, and the names of weights that the file lacks.
    """
    what = f"checkpoint {file.name!r}: its {part}"
    with safe_open(file, "pt") as tensors_file:
        names = [name for name in tensors_file.keys() if name.startswith(beginning)]  # noqa: SIM118 - it isn't iterable
        tensors = {name: tensors_file.get_tensor(name) for name in names}
    try:
        network, missing, unexpected = fill_network(
            kind, config, what, lambda entries, network: family.convert_part(part, tensors, entries, network), dtype
        )
    except (KeyError, AttributeError, IndexError) as error:  # the conversion looks tensors up by name
        raise FiguregroundError(f"{what} is incomplete or of another structure: it lacks {error}.") from error
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        first = next((line.strip() for line in str(error).splitlines()[1:]), str(error))
        raise FiguregroundError(f"{what} doesn't fit the configuration {config.parent.name!r}: {first}") from error
    if unexpected:
        raise FiguregroundError(
            f"{what} has {len(unexpected):,} weights that the configuration {config.parent.name!r} has no place for, "
            f"such as {unexpected[0]}. Give the configuration of a checkpoint of the same kind (checkpoint_config)."
        )
    return network, missing


def open_scheduler(folder: Path, checkpoint: str, name: str) -> Any:
    """Open a sampler for a checkpoint's directory, without its networks.

    Args:
        checkpoint: The checkpoint's name in errors.
        name: A name from `SCHEDULERS`, or `own`.

    Raises:
        FiguregroundError: The sampler can't express the checkpoint's noise levels.
    """
    import diffusers

    check_files(folder, checkpoint, inpaint=True, scheduler=name)
    kind = getattr(diffusers, str(read_index(folder, checkpoint, inpaint=True)["scheduler"][-1]))
    own = open_part(kind, folder / "scheduler", f"checkpoint {checkpoint!r}")
    return _choose_scheduler(name, own, read_family(folder, checkpoint), checkpoint)


def _choose_scheduler(name: str, own: Any, family: Family, checkpoint: str) -> Any:
    """Return the sampler with that name, or the checkpoint's own, which clips no latents either."""
    if name != OWN:
        return _make_scheduler(name, own, checkpoint)
    return own if family.SCHEDULER == OWN else make_network(type(own), remove_clipping(own.config))


def _make_scheduler(name: str, own: Any, checkpoint: str) -> Any:
    """Return the sampler with that name, with the noise levels of the checkpoint's own scheduler.

    Raises:
        FiguregroundError: The sampler's noise levels differ.
    """
    sampler = make_network(SCHEDULERS[name], settings_for_latents(own.config))
    levels, expected = sampler.alphas_cumprod, own.alphas_cumprod
    # The last level may be zero, which some samplers replace with a very small number.
    if levels.shape != expected.shape or not torch.allclose(levels[:-1], expected[:-1], rtol=1e-3, atol=1e-6):
        raise FiguregroundError(
            f"checkpoint {checkpoint!r}: the sampler {name} changes the noise levels of its {type(own).__name__}. "
            "Choose another --set scheduler=…."
        )
    return sampler


def _refuse_non_finite(pipeline: Any, family: Family, checkpoint: str, dtype: torch.dtype) -> None:
    """Raise FiguregroundError for non-finite weights, including overflow in a small dtype, which spoil every image."""
    for part in family.networks:
        network = getattr(pipeline, part, None)
        for name, weight in network.named_parameters() if network is not None else ():
            if not torch.isfinite(weight).all():
                advice = "" if dtype == torch.float32 else ", or larger numbers than it holds: try --set dtype=float32"
                raise FiguregroundError(
                    f"checkpoint {checkpoint!r}: the weights of {part} hold NaN or infinity in "
                    f"{str(dtype).removeprefix('torch.')}{advice} ({name}). No image could be used."
                )


def _make_open_error(checkpoint: str, error: Exception, device: torch.device) -> FiguregroundError:
    if is_out_of_memory(error):
        return FiguregroundError(
            f"checkpoint {checkpoint!r} doesn't fit into the memory of {device}. Free memory, lower --set workers=…, "
            "or choose another --set device=…."
        )
    return FiguregroundError(f"checkpoint {checkpoint!r} doesn't open: {(str(error).splitlines() or ['?'])[0]}")


def download(checkpoint: str, revision: str | None) -> Path:
    """Download a checkpoint from the Hub, or find it in the cache; return its snapshot folder."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        folder = download_pipeline(checkpoint, revision)
        if not (folder / "README.md").exists():  # it names the licence, and isn't a part of the pipeline
            download_file(checkpoint, "README.md", folder.name)
        return folder
    except (OSError, ValueError) as error:
        is_unreachable = isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled | ConnectionError)
        if is_unreachable or "not fully cached locally" in str(error):
            raise FiguregroundError(
                f"checkpoint {checkpoint!r} is not in this machine's cache and the Hub can't be reached. Download it "
                f"where there is a network (hf download {checkpoint}), or give a local directory."
            ) from None
        raise FiguregroundError(f"checkpoint {checkpoint!r}: {str(error).splitlines()[0]}") from error
