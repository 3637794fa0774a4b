"""How a concept is fine-tuned: every setting, checked once at the door. Needs no torch."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict

from figureground.core.errors import RecipeError
from figureground.core.files import read_json
from figureground.models.weights import fingerprint_classifier
from figureground.recipe.config import Scheduler
from figureground.recipe.settings import EXECUTION, MOST, Count, Names, Share, Text, execution_names, settings

PLACEHOLDERS = ("{V}", "{noun}")


Whole = Annotated[int, Field(ge=0, le=MOST)]
Small = Annotated[int, Field(ge=1, le=4096)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Positive = Annotated[float, Field(ge=1e-9)]
NotNegative = Annotated[float, Field(ge=0)]


@settings(frozen=True)
class Finetuning:
    """Every setting of a fine-tuning. The defaults are what is usual for Stable Diffusion 1.5 at 512 pixels.

    The settings of the paper that the method comes from (arXiv 2402.08200) were not obtainable; these are ours.
    """

    checkpoint: Annotated[Text, Names("directory")]
    """`pocket`, a directory in diffusers' layout, or a Hub id: what the concept is learned on top of."""
    revision: Text | None = None
    """Branch, tag or commit of a checkpoint on the Hub."""
    identifier: Text = "sks"
    """The rare word [V] that comes to stand for what the references show."""
    prompt: Text = "a photo of a {V} {noun}"
    """What a reference without a caption file is called."""
    prior_prompt: Text = "a photo of a {noun}"
    """What the images for prior preservation are drawn from, and called."""
    size: Annotated[int, Field(ge=8, le=16384)] | None = None
    """Edge in pixels; none is the checkpoint's own."""
    flip: bool = False
    """Whether references and prior images are also shown mirrored."""
    steps: Count = 800
    """Steps of the optimizer."""
    batch_size: Small = 1
    """References in a forward pass of each process; as many prior images come with them."""
    gradient_accumulation_steps: Small = 1
    """Forward passes whose gradients make one step."""
    learning_rate: Share | None = None
    """Of the UNet; none is 2e-6, with adapters 1e-4."""
    text_encoder_learning_rate: Share | None = None
    """Of the text encoders; none is the UNet's, 0 leaves them as they are."""
    lr_warmup_steps: Whole = 0
    """Steps in which the learning rates rise from 0; then they are constant."""
    weight_decay: Share = 0.01
    """Of AdamW."""
    max_grad_norm: Positive = 1.0
    """Gradients are shortened to this norm, over all that is trained."""
    min_snr_gamma: Positive | None = None
    """Min-SNR weighting of each sample's loss (Hang et al. 2023, arXiv 2303.09556), 5 as a rule; none is off."""
    prior_weight: Weight = 1.0
    """Weight of prior preservation; 0 leaves it out."""
    num_class_images: Annotated[int, Field(ge=1, le=1_000_000)] = 200
    """How many images the untouched model draws for prior preservation."""
    sfsl_weight: Weight = 0.1
    """Weight of the spurious-feature similarity loss (SFSL); 0 is plain DreamBooth."""
    feature_model: Annotated[Text | None, Names("file")] = None
    """The network whose features SFSL compares: `pocket`, a directory, a Hub id, `timm:NAME` or a file of weights."""
    feature_model_revision: Text | None = None
    """Branch, tag or commit of a feature network on the Hub."""
    features: Literal["penultimate", "class-weighted", "neural-pca"] = "penultimate"
    """What is compared: penultimate, class-weighted or neural-pca."""
    distance: Literal["cosine", "l2"] = "cosine"
    """How it is compared: cosine or l2."""
    weighting: Literal["alpha-bar", "threshold", "none"] = "alpha-bar"
    """How much a noise level counts in SFSL: alpha-bar, threshold or none."""
    threshold: Share = 0.5
    """The least alpha-bar that counts, with weighting threshold."""
    leading: Count = 10
    """How many leading neural-PCA components are compared, with features neural-pca."""
    class_direction: Literal["images", "head"] | None = None
    """Direction that is projected out of the features before SFSL compares them, so that the class itself is not
    learned: `images`, from the prior images to images of the class, drawn by the untouched model; `head`, the class's
    weights in the feature network's last layer; none projects nothing out."""
    class_images: Annotated[int, Field(ge=2, le=1_000_000)] = 64
    """How many images of the class the untouched model draws, for class_direction images and early_stopping
    without-class."""
    early_stopping: Literal["similarity", "without-class"] | None = None
    """Rule that stops the training, read from images that are drawn along the way and from the feature network:
    `similarity`, when their features no longer come nearer to the references'; `without-class`, the same without what
    tells images of the class from the prior images; none trains all steps. The best weights are kept."""
    stop_every: Count = 50
    """Steps between two looks, with early_stopping."""
    stop_images: Annotated[int, Field(ge=2, le=4096)] = 16
    """Images drawn for each look, from the same seeds each time, with early_stopping."""
    stop_patience: Count = 2
    """Looks in a row without a better one after which the training stops, with early_stopping."""
    tiny_autoencoder: Annotated[Text | None, Names("directory")] = None
    """Directory or Hub id of an AutoencoderTiny that decodes for SFSL, faster than the checkpoint's own."""
    lora_rank: Small | None = None
    """Trains low-rank adapters of this rank on attention instead of all weights; none trains all."""
    ema: Share = 0.0
    """Decay of an exponential moving average of the weights, which is then what is kept; 0 is off."""
    scheduler: Scheduler = "ddim"
    """Sampler of prior images and previews: ddim, ddpm, dpm++, euler, euler-a, pndm or unipc."""
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] = 50
    """Sampling steps of prior images and previews."""
    guidance_scale: Annotated[float, Field(ge=0, le=1000)] = 7.5
    """Classifier-free guidance of prior images and previews."""
    preview_every: Annotated[Whole, EXECUTION] = 0
    """Steps between previews, which are drawn from the same seeds each time; 0 draws one at the end."""
    preview_prompts: Annotated[Annotated[tuple[str, ...], Strict(False)], EXECUTION] = (
        "a photo of a {V} {noun}", "a photo of a {V} {noun} on the beach", "a photo of a {V} {noun} in the snow",
    )  # fmt: skip
    """What previews are drawn from; a row each."""
    preview_images: Annotated[Annotated[int, Field(ge=0, le=64)], EXECUTION] = 4
    """Images a row of a preview; 0 draws none."""
    save_every: Annotated[Whole, EXECUTION] = 0
    """Steps between saves of the whole state, from which a killed run goes on; 0 saves by time alone."""
    save_seconds: Annotated[NotNegative, EXECUTION] = 600.0
    """Seconds between such saves."""
    gradient_checkpointing: Annotated[bool, EXECUTION] = False
    """Whether activations are computed twice to save memory."""
    eight_bit_adam: bool = False
    """Whether the optimizer's state is kept in 8 bits, by bitsandbytes."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What is computed in: float32 or bfloat16 (weights stay float32); auto is bfloat16 where CUDA has it."""
    seed: Whole = 0
    """Everything random comes from it."""

    STOPPING: ClassVar[tuple[str, ...]] = ("early_stopping", "stop_every", "stop_images", "stop_patience")
    """Fields of early stopping."""

    def __post_init__(self) -> None:
        """Raises RecipeError for the first value that can't be used."""
        for name, text in self.prompts().items():
            if stray := unfilled(text, PLACEHOLDERS):
                raise RecipeError(name, f"nothing fills {stray!r} in {text!r}; known are {', '.join(PLACEHOLDERS)}.")
        if self.scheduler == "pndm" and self.num_inference_steps < 4:
            raise RecipeError("num_inference_steps", f"{self.num_inference_steps} is too few: pndm needs 4 or more.")
        if "{V}" not in self.prompt:
            raise RecipeError("prompt", f"{self.prompt!r} doesn't hold {{V}}, the place of the identifier.")
        if "{V}" in self.prior_prompt:
            raise RecipeError("prior_prompt", "the untouched model doesn't know {V}; say the noun alone.")
        if self.sfsl_weight > 0 and self.feature_model is None:
            raise RecipeError(
                "feature_model",
                "SFSL compares the features of an adversarially robust classifier: name one (--feature-model FILE, "
                "a directory, a Hub id or timm:NAME; pocket for the pocket world), or leave SFSL out with "
                "--sfsl-weight 0.",
            )
        if self.early_stopping is not None and self.feature_model is None:
            raise RecipeError(
                "feature_model", "early_stopping reads the features of a classifier: name one, as for SFSL, or leave "
                "early stopping out with --early-stopping none.",
            )  # fmt: skip
        self._check_against_prior()

    def _check_against_prior(self) -> None:
        """Directions and similarities are measured from the prior images."""
        if self.prior_weight == 0 and self.class_direction == "images" and self.sfsl_weight > 0:
            raise RecipeError(
                "class_direction", "images is a direction from the prior images, and prior_weight 0 draws none: take "
                "head, or a prior_weight above 0.",
            )  # fmt: skip
        if self.early_stopping is None:
            return
        if self.prior_weight == 0:
            raise RecipeError(
                "early_stopping", "its similarities are measured from the prior images, and prior_weight 0 draws none: "
                "take a prior_weight above 0, or none.",
            )  # fmt: skip
        if self.stop_every > self.steps:
            raise RecipeError("stop_every", f"{self.stop_every} is more than all {self.steps} steps; give fewer.")

    @property
    def reads_features(self) -> bool:
        """Whether a feature network takes part."""
        return self.sfsl_weight > 0 or self.early_stopping is not None

    @property
    def needs_class_images(self) -> bool:
        """Whether images of the class itself take part."""
        direction = self.sfsl_weight > 0 and self.class_direction == "images"
        return direction or self.early_stopping == "without-class"

    def prompts(self) -> dict[str, str]:
        """The prompt templates, by the name of their field."""
        previews = {f"preview_prompts[{i}]": text for i, text in enumerate(self.preview_prompts)}
        return {"prompt": self.prompt, "prior_prompt": self.prior_prompt, **previews}

    def rate(self, of: str) -> float:
        """The learning rate of `unet` or of the `text_encoder`s."""
        unet = self.learning_rate if self.learning_rate is not None else 2e-6 if self.lora_rank is None else 1e-4
        return unet if of == "unet" or self.text_encoder_learning_rate is None else self.text_encoder_learning_rate

    def to_json(self) -> dict[str, Any]:
        """All fields, as JSON has them."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    def deciding(self) -> dict[str, Any]:
        """The fields that decide what is learned, as JSON has them.

        Fields of the class's images, of its direction and of early stopping are left out where they are off, so that
        what a release without them learned counts as the same.
        """
        off = set(execution_names(type(self)))
        if self.sfsl_weight == 0 or self.class_direction is None:
            off.add("class_direction")
        if not self.needs_class_images:
            off.add("class_images")
        if self.early_stopping is None:
            off.update(self.STOPPING)
        return {name: value for name, value in self.to_json().items() if name not in off}


def unfilled(template: str, places: Iterable[str]) -> str | None:
    """The first place, or stray brace, of a prompt template that is none of `places`; None where there is none."""
    for place in places:
        template = template.replace(place, "")
    stray = re.search(r"\{[^{}]*\}?|\}", template)
    return stray and stray[0]


POCKET = Finetuning(
    "pocket", steps=350, batch_size=4, learning_rate=1.5e-4, min_snr_gamma=5.0, num_class_images=64, sfsl_weight=0.5,
    feature_model="pocket", num_inference_steps=20, guidance_scale=4.0, save_seconds=60.0, dtype="bfloat16",
    preview_prompts=tuple(f"a photo of a {{V}} {{noun}}{scene}" for scene in ("", ", in snow", ", on grass")),
)  # fmt: skip
"""For the pocket model: some three minutes on one core.

Features and weight of SFSL are those of `benchmarks/spurious.py`; what is best for a real checkpoint wasn't measured.
"""


def settings_for(checkpoint: str, **changes: Any) -> Finetuning:
    """The settings for a checkpoint: `POCKET` for the pocket model, else the usual; with what differs.

    Raises:
        RecipeError: A value that can't be used.
    """
    if checkpoint == POCKET.checkpoint:
        return dataclasses.replace(POCKET, **changes)
    return Finetuning(checkpoint, **changes)


def fill(template: str, noun: str, identifier: str) -> str:
    """A prompt from a template or a caption: `{V}` and `{noun}` are filled in, `a` becomes `an` where it has to."""
    values = {"{V}": identifier, "{noun}": noun}

    def put(match: re.Match[str]) -> str:
        article, place = match[1] or "", values[match[2]]
        return (f"{article.rstrip()}n " if article and place[:1].lower() in "aeiou" and place else article) + place

    return " ".join(re.sub(r"(\b[Aa] )?(\{V\}|\{noun\})", put, template).split())


def fingerprint_network(settings: Finetuning) -> str | None:
    """Names the feature network's content: `sha256:…` over a local one's files, id and revision of one on the Hub.

    None where it takes no part.
    """
    if not settings.reads_features or settings.feature_model is None:
        return None
    return fingerprint_classifier(settings.feature_model, settings.feature_model_revision)


def done_message(out: Path) -> str:
    """What the command says when a concept is finished."""
    facts = read_json(out / "concept.json")
    how = f"{out / 'checkpoint'} is a checkpoint of its own"
    if facts["kind"] == "lora":
        how = f"{out / 'lora.safetensors'} is for {facts['base']['checkpoint']}"
    steps = f"{facts['steps']:,} steps"
    if stopped := facts.get("early_stopping"):
        steps += f" (the best of {stopped['trained_steps']:,}, by {stopped['rule']})"
    previews = "previews/ and " if (out / "previews").is_dir() else ""
    return (
        f"{out}: {facts['identifier']} {facts['noun']}, {steps}, learned in "
        f"{facts['seconds']:,.0f} s. {how}; see {previews}curves.png."
    )
