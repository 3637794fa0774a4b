"""Settings of fine-tuning a concept. Needs no torch."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict

from figureground.core.errors import RecipeError
from figureground.models.classifier_files import fingerprint_classifier
from figureground.models.family import OWN
from figureground.models.weights import find_family
from figureground.recipe.config import Scheduler
from figureground.recipe.prompts import find_unfilled
from figureground.recipe.settings import EXECUTION, MAX_INTEGER, Count, Names, Share, Text, execution_names, settings

PLACEHOLDERS = ("{V}", "{noun}")
LORA_RANK = 16
"""Default rank of adapters where only adapters are trained."""


Whole = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Small = Annotated[int, Field(ge=1, le=4096)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Positive = Annotated[float, Field(ge=1e-9)]
NotNegative = Annotated[float, Field(ge=0)]


@settings(frozen=True)
class Finetuning:
    """Settings of a fine-tuning. The defaults are common ones for Stable Diffusion 1.5 at 512 pixels.

    The paper's settings (arXiv 2402.08200) were not obtainable, so these are this project's own.
    """

    checkpoint: Annotated[Text, Names("directory")]
    """Checkpoint to fine-tune: `pocket`, a directory in diffusers' layout, or a Hub id."""
    revision: Text | None = None
    """Branch, tag or commit of a checkpoint on the Hub."""
    identifier: Text = "sks"
    """Rare word [V] that stands for the content of the references after training."""
    prompt: Text = "a photo of a {V} {noun}"
    """Caption of references without a caption file."""
    prior_prompt: Text = "a photo of a {noun}"
    """Prompt and caption of the images for prior preservation."""
    size: Annotated[int, Field(ge=8, le=16384)] | None = None
    """Edge of the images in pixels; none means the checkpoint's own."""
    flip: bool = False
    """Whether mirrored copies of references and prior images are also used."""
    max_train_steps: Count = 800
    """Optimiser steps."""
    batch_size: Small = 1
    """References in a forward pass of each process; as many prior images are added."""
    gradient_accumulation_steps: Small = 1
    """Forward passes whose gradients make one step."""
    learning_rate: Share | None = None
    """Learning rate of the denoiser (UNet or transformer); none means 2e-6, or 1e-4 with adapters."""
    text_encoder_learning_rate: Share | None = None
    """Learning rate of the text encoders; none means the denoiser's, 0 keeps them unchanged."""
    lr_warmup_steps: Whole = 0
    """Steps in which the learning rates rise from 0; they are constant afterwards."""
    weight_decay: Share = 0.01
    """AdamW weight decay."""
    max_grad_norm: Positive = 1.0
    """Norm to which the gradients of all trained weights together are clipped."""
    noise_levels: Literal["logit-normal", "uniform"] | None = None
    """Distribution of noise levels in training, before the schedule's shift: logit-normal (Esser et al. 2024, arXiv
    2403.03206) or uniform; none means logit-normal for flow matching, and uniform otherwise."""
    min_snr_gamma: Positive | None = None
    """γ of the Min-SNR weighting of each sample's loss (Hang et al. 2023, arXiv 2303.09556), usually 5; none turns it
    off."""
    prior_weight: Weight = 1.0
    """Weight of the prior preservation loss; 0 turns it off."""
    num_class_images: Annotated[int, Field(ge=1, le=1_000_000)] = 200
    """Images that the original model draws for prior preservation."""
    sfsl_weight: Weight = 0.1
    """Weight of the spurious-feature similarity loss (SFSL); 0 is plain DreamBooth."""
    feature_model: Annotated[Text | None, Names("file")] = None
    """Network whose features SFSL compares: `pocket`, a directory, a Hub id, `timm:NAME` or a file of weights."""
    feature_model_revision: Text | None = None
    """Branch, tag or commit of a feature network on the Hub."""
    features: Literal["penultimate", "class-weighted", "neural-pca"] = "penultimate"
    """Features that SFSL compares: penultimate, class-weighted or neural-pca."""
    distance: Literal["cosine", "l2"] = "cosine"
    """Distance between features in SFSL: cosine or l2."""
    weighting: Literal["alpha-bar", "threshold", "none"] = "alpha-bar"
    """Weighting of noise levels in SFSL: alpha-bar, threshold or none."""
    threshold: Share = 0.5
    """Lowest alpha-bar that SFSL includes with weighting=threshold, 0 to 1."""
    leading: Count = 10
    """Number of leading neural-PCA components that are compared with features=neural-pca."""
    class_direction: Literal["images", "head"] | None = None
    """Direction projected out of the features before SFSL compares them, so that the class itself is not learned:
    `images`, from the prior images to images of the class, both drawn by the original model; `head`, the class's
    weights in the feature network's last layer; none projects nothing out."""
    class_images: Annotated[int, Field(ge=2, le=1_000_000)] = 64
    """Images of the class that the original model draws, for class_direction=images and
    early_stopping=without-class."""
    early_stopping: Literal["similarity", "without-class"] | None = None
    """Rule that stops training, from features of images drawn during training: `similarity`, when they no longer get
    closer to the references' features; `without-class`, the same after projecting out the direction from the prior
    images to images of the class; none trains all steps. The best weights are kept."""
    stop_every: Count = 50
    """Steps between two evaluations of early_stopping."""
    stop_images: Annotated[int, Field(ge=2, le=4096)] = 16
    """Images drawn for each evaluation of early_stopping, from the same seeds each time."""
    stop_patience: Count = 2
    """Evaluations in a row without improvement after which early_stopping stops training."""
    tiny_autoencoder: Annotated[Text | None, Names("directory")] = None
    """Directory or Hub id of an AutoencoderTiny that decodes for SFSL, faster than the checkpoint's own."""
    lora_rank: Small | None = None
    """Rank of low-rank adapters on attention, trained instead of all weights; none trains all weights. Of families of
    flow matching, only adapters are trained, of rank 16 by default."""
    ema: Share = 0.0
    """Decay of an exponential moving average of the weights, which is then kept instead of the weights; 0 turns it
    off."""
    scheduler: Scheduler = "ddim"
    """Sampler of prior images and previews: ddim, ddpm, dpm++, euler, euler-a, pndm or unipc; for flow matching `own`,
    the checkpoint's, which is then the default."""
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] = 50
    """Denoising steps of prior images and previews."""
    guidance_scale: Annotated[float, Field(ge=0, le=1000)] = 7.5
    """Classifier-free guidance scale of prior images and previews; 1 or less turns guidance off."""
    preview_every: Annotated[Whole, EXECUTION] = 0
    """Steps between previews, drawn from the same seeds each time; 0 draws one at the end."""
    preview_prompts: Annotated[Annotated[tuple[str, ...], Strict(False)], EXECUTION] = (
        "a photo of a {V} {noun}", "a photo of a {V} {noun} on the beach", "a photo of a {V} {noun} in the snow",
    )  # fmt: skip
    """Prompts of the previews, one row each."""
    preview_images: Annotated[Annotated[int, Field(ge=0, le=64)], EXECUTION] = 4
    """Images per row of a preview; 0 draws none."""
    save_every: Annotated[Whole, EXECUTION] = 0
    """Steps between saves of the whole state, from which a stopped run resumes; 0 saves only by time."""
    save_seconds: Annotated[NotNegative, EXECUTION] = 600.0
    """Seconds between saves of the whole state."""
    gradient_checkpointing: Annotated[bool, EXECUTION] = False
    """Whether activations are recomputed in the backward pass, to save memory."""
    eight_bit_adam: bool = False
    """Whether bitsandbytes keeps the optimiser's state in 8 bits."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the computation: float32 or bfloat16 (weights stay float32); auto is bfloat16 if the
    GPU or CPU computes it natively, else float32."""
    seed: Whole = 0
    """Seed for everything random."""

    STOPPING: ClassVar[tuple[str, ...]] = ("early_stopping", "stop_every", "stop_images", "stop_patience")
    """Fields of early stopping."""

    def __post_init__(self) -> None:
        """Raise RecipeError for the first invalid value."""
        for name, text in self.prompts().items():
            if stray := find_unfilled(text, PLACEHOLDERS):
                raise RecipeError(name, f"nothing fills {stray!r} in {text!r}; known are {', '.join(PLACEHOLDERS)}.")
        if self.scheduler == "pndm" and self.num_inference_steps < 4:
            raise RecipeError("num_inference_steps", f"{self.num_inference_steps} is too few: pndm needs 4 or more.")
        if "{V}" not in self.prompt:
            raise RecipeError("prompt", f"{self.prompt!r} lacks {{V}}, the placeholder of the identifier.")
        if "{V}" in self.prior_prompt:
            raise RecipeError("prior_prompt", "the original model doesn't know {V}; use the noun alone.")
        if self.sfsl_weight > 0 and self.feature_model is None:
            raise RecipeError(
                "feature_model",
                "SFSL compares the features of an adversarially robust classifier: name one (--feature-model FILE, "
                "a directory, a Hub id or timm:NAME; pocket for the pocket world), or turn SFSL off with "
                "--sfsl-weight 0.",
            )
        if self.early_stopping is not None and self.feature_model is None:
            raise RecipeError(
                "feature_model", "early_stopping uses the features of a classifier: name one, as for SFSL, or turn "
                "early stopping off with --early-stopping none.",
            )  # fmt: skip
        self._check_against_prior()

    def _check_against_prior(self) -> None:
        """Refuse settings that need prior images when there are none, and too rare evaluations."""
        if self.prior_weight == 0 and self.class_direction == "images" and self.sfsl_weight > 0:
            raise RecipeError(
                "class_direction", "images takes the direction from prior images, but with prior_weight 0 none are "
                "drawn. Use head, or a prior_weight above 0.",
            )  # fmt: skip
        if self.early_stopping is None:
            return
        if self.prior_weight == 0:
            raise RecipeError(
                "early_stopping", "it compares features with those of prior images, but with prior_weight 0 none are "
                "drawn. Use a prior_weight above 0, or set early_stopping to none.",
            )  # fmt: skip
        if self.stop_every > self.max_train_steps:
            raise RecipeError(
                "stop_every", f"{self.stop_every} is more than max_train_steps, {self.max_train_steps}; give fewer."
            )

    @property
    def reads_features(self) -> bool:
        """Whether a feature network is used."""
        return self.sfsl_weight > 0 or self.early_stopping is not None

    @property
    def needs_class_images(self) -> bool:
        """Whether images of the class itself are used."""
        direction = self.sfsl_weight > 0 and self.class_direction == "images"
        return direction or self.early_stopping == "without-class"

    def prompts(self) -> dict[str, str]:
        """Return the prompt templates by field name."""
        previews = {f"preview_prompts[{i}]": text for i, text in enumerate(self.preview_prompts)}
        return {"prompt": self.prompt, "prior_prompt": self.prior_prompt, **previews}

    def learning_rate_of(self, part: str) -> float:
        """Return the learning rate of the `text_encoder`s, or of the denoiser by its part, such as `unet`."""
        denoiser = self.learning_rate if self.learning_rate is not None else 2e-6 if self.lora_rank is None else 1e-4
        text = self.text_encoder_learning_rate
        return denoiser if part != "text_encoder" or text is None else text

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    def identity_fields(self) -> dict[str, Any]:
        """Return the fields that decide the result, as JSON.

        Fields of noise levels, class images, class direction and early stopping are left out if they are off, so that
        results of releases without them keep their identity.
        """
        excluded = set(execution_names(type(self)))
        if self.noise_levels is None:
            excluded.add("noise_levels")
        if self.sfsl_weight == 0 or self.class_direction is None:
            excluded.add("class_direction")
        if not self.needs_class_images:
            excluded.add("class_images")
        if self.early_stopping is None:
            excluded.update(self.STOPPING)
        return {name: value for name, value in self.to_json().items() if name not in excluded}


POCKET = Finetuning(
    "pocket", max_train_steps=350, batch_size=4, learning_rate=1.5e-4, min_snr_gamma=5.0, num_class_images=64,
    sfsl_weight=0.5,
    feature_model="pocket", num_inference_steps=20, guidance_scale=4.0, save_seconds=60.0,
    preview_prompts=tuple(f"a photo of a {{V}} {{noun}}{scene}" for scene in ("", ", in snow", ", on grass")),
)  # fmt: skip
"""Settings for the pocket model: about three minutes on one core.

Features and weight of SFSL are from `benchmarks/spurious.py`. The best values for a real checkpoint weren't measured.
"""


def settings_for(checkpoint: str, **changes: Any) -> Finetuning:
    """Return the settings for a checkpoint: `POCKET` for the pocket model, else the defaults; with `changes`.

    For a checkpoint on this machine, sampler and adapters are those that its family needs.

    Raises:
        RecipeError: A value is invalid.
    """
    if checkpoint == POCKET.checkpoint:
        return dataclasses.replace(POCKET, **changes)
    defaults: dict[str, Any] = {}
    if (family := find_family(checkpoint, changes.get("revision"))) is not None:
        if family.SCHEDULER == OWN:
            defaults["scheduler"] = OWN
        if family.ADAPTERS_ONLY:
            defaults["lora_rank"] = LORA_RANK
    return Finetuning(checkpoint, **{**defaults, **changes})


def fingerprint_network(settings: Finetuning) -> str | None:
    """Return the feature network's fingerprint: `sha256:…` of local files, or id and revision on the Hub.

    None if no feature network is used.
    """
    if not settings.reads_features or settings.feature_model is None:
        return None
    return fingerprint_classifier(settings.feature_model, settings.feature_model_revision)
