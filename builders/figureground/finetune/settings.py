"""How a concept is fine-tuned: every setting, checked once at the door. Needs no torch."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from figureground.core.errors import RecipeError, nearest
from figureground.core.files import read_json
from figureground.models.weights import fingerprint_classifier
from figureground.recipe.fields import check_number, texts_below

SCHEDULERS = ("ddim", "ddpm", "dpm++", "euler", "euler-a", "pndm", "unipc")
FEATURES = ("penultimate", "class-weighted", "neural-pca")
DISTANCES = ("cosine", "l2")
WEIGHTINGS = ("alpha-bar", "threshold", "none")
CLASS_DIRECTIONS = ("images", "head")
STOPPING_RULES = ("similarity", "without-class")
DTYPES = ("auto", "float32", "bfloat16")
PLACEHOLDERS = ("{V}", "{noun}")


@dataclass(frozen=True)
class Finetuning:
    """Every setting of a fine-tuning. The defaults are what is usual for Stable Diffusion 1.5 at 512 pixels.

    The settings of the paper that the method comes from (arXiv 2402.08200) were not obtainable; these are ours.
    """

    checkpoint: str
    """`pocket`, a directory in diffusers' layout, or a Hub id: what the concept is learned on top of."""
    revision: str | None = None
    """Branch, tag or commit of a checkpoint on the Hub."""
    identifier: str = "sks"
    """The rare word [V] that comes to stand for what the references show."""
    prompt: str = "a photo of a {V} {noun}"
    """What a reference without a caption file is called."""
    prior_prompt: str = "a photo of a {noun}"
    """What the images for prior preservation are drawn from, and called."""
    size: int | None = None
    """Edge in pixels; none is the checkpoint's own."""
    flip: bool = False
    """Whether references and prior images are also shown mirrored."""
    steps: int = 800
    """Steps of the optimizer."""
    batch_size: int = 1
    """References in a forward pass of each process; as many prior images come with them."""
    accumulate: int = 1
    """Forward passes whose gradients make one step."""
    learning_rate: float | None = None
    """Of the UNet; none is 2e-6, with adapters 1e-4."""
    text_encoder_learning_rate: float | None = None
    """Of the text encoders; none is the UNet's, 0 leaves them as they are."""
    warmup: int = 0
    """Steps in which the learning rates rise from 0; then they are constant."""
    weight_decay: float = 0.01
    """Of AdamW."""
    max_gradient_norm: float = 1.0
    """Gradients are shortened to this norm, over all that is trained."""
    min_snr_gamma: float | None = None
    """Min-SNR weighting of each sample's loss (Hang et al. 2023, arXiv 2303.09556), 5 as a rule; none is off."""
    prior_weight: float = 1.0
    """Weight of prior preservation; 0 leaves it out."""
    prior_images: int = 200
    """How many images the untouched model draws for prior preservation."""
    sfsl_weight: float = 0.1
    """Weight of the spurious-feature similarity loss (SFSL); 0 is plain DreamBooth."""
    feature_model: str | None = None
    """The network whose features SFSL compares: `pocket`, a directory, a Hub id, `timm:NAME` or a file of weights."""
    feature_model_revision: str | None = None
    """Branch, tag or commit of a feature network on the Hub."""
    features: str = "penultimate"
    """What is compared: penultimate, class-weighted or neural-pca."""
    distance: str = "cosine"
    """How it is compared: cosine or l2."""
    weighting: str = "alpha-bar"
    """How much a noise level counts in SFSL: alpha-bar, threshold or none."""
    threshold: float = 0.5
    """The least alpha-bar that counts, with weighting threshold."""
    leading: int = 10
    """How many leading neural-PCA components are compared, with features neural-pca."""
    class_direction: str | None = None
    """Direction that is projected out of the features before SFSL compares them, so that the class itself is not
    learned: `images`, from the prior images to images of the class, drawn by the untouched model; `head`, the class's
    weights in the feature network's last layer; none projects nothing out."""
    class_images: int = 64
    """How many images of the class the untouched model draws, for class_direction images and early_stopping
    without-class."""
    early_stopping: str | None = None
    """Rule that stops the training, read from images that are drawn along the way and from the feature network:
    `similarity`, when their features no longer come nearer to the references'; `without-class`, the same without what
    tells images of the class from the prior images; none trains all steps. The best weights are kept."""
    stop_every: int = 50
    """Steps between two looks, with early_stopping."""
    stop_images: int = 16
    """Images drawn for each look, from the same seeds each time, with early_stopping."""
    stop_patience: int = 2
    """Looks in a row without a better one after which the training stops, with early_stopping."""
    tiny_autoencoder: str | None = None
    """Directory or Hub id of an AutoencoderTiny that decodes for SFSL, faster than the checkpoint's own."""
    lora_rank: int | None = None
    """Trains low-rank adapters of this rank on attention instead of all weights; none trains all."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, which is then what is kept; 0 is off."""
    scheduler: str = "ddim"
    """Sampler of prior images and previews: ddim, ddpm, dpm++, euler, euler-a, pndm or unipc."""
    sampling_steps: int = 50
    """Sampling steps of prior images and previews."""
    guidance_scale: float = 7.5
    """Classifier-free guidance of prior images and previews."""
    preview_every: int = 0
    """Steps between previews, which are drawn from the same seeds each time; 0 draws one at the end."""
    preview_prompts: tuple[str, ...] = (
        "a photo of a {V} {noun}", "a photo of a {V} {noun} on the beach", "a photo of a {V} {noun} in the snow",
    )  # fmt: skip
    """What previews are drawn from; a row each."""
    preview_images: int = 4
    """Images a row of a preview; 0 draws none."""
    save_every: int = 0
    """Steps between saves of the whole state, from which a killed run goes on; 0 saves by time alone."""
    save_seconds: float = 600.0
    """Seconds between such saves."""
    gradient_checkpointing: bool = False
    """Whether activations are computed twice to save memory."""
    eight_bit_adam: bool = False
    """Whether the optimizer's state is kept in 8 bits, by bitsandbytes."""
    dtype: str = "auto"
    """What is computed in: float32 or bfloat16 (weights stay float32); auto is bfloat16 where CUDA has it."""
    seed: int = 0
    """Everything random comes from it."""

    EXECUTION: ClassVar[tuple[str, ...]] = (
        "preview_every", "preview_prompts", "preview_images", "save_every", "save_seconds", "gradient_checkpointing",
    )  # fmt: skip
    """Fields that change nothing of what is learned."""
    STOPPING: ClassVar[tuple[str, ...]] = ("early_stopping", "stop_every", "stop_images", "stop_patience")
    """Fields of early stopping."""

    def __post_init__(self) -> None:
        """Raises RecipeError for the first value that can't be used."""
        for name, (least, most, whole) in _NUMBERS.items():
            check_number(name, getattr(self, name), least, most, whole, "None" in _annotation(name))
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if value not in known and not (value is None and "None" in _annotation(name)):
                raise RecipeError(name, f"{value!r} is not one of {', '.join(known)}{nearest(str(value), known)}")
        self._check_kinds()
        for name, text in self.prompts().items():
            if stray := unfilled(text, PLACEHOLDERS):
                raise RecipeError(name, f"nothing fills {stray!r} in {text!r}; known are {', '.join(PLACEHOLDERS)}.")
        if self.scheduler == "pndm" and self.sampling_steps < 4:
            raise RecipeError("sampling_steps", f"{self.sampling_steps} is too few: pndm needs 4 or more.")
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

    def _check_kinds(self) -> None:
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), str(field.type)
            if kind == "bool" and not isinstance(value, bool):
                raise RecipeError(field.name, f"{value!r} is not true or false.")
            unset = value is None and "None" in kind
            if kind.startswith("str") and not unset and not (isinstance(value, str) and value.strip()):
                raise RecipeError(field.name, f"{value!r} is not a text.")
            if kind.startswith("tuple") and not (isinstance(value, tuple) and all(isinstance(v, str) for v in value)):
                raise RecipeError(field.name, f"{value!r} is not a list of texts.")

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
        off = set(self.EXECUTION)
        if self.sfsl_weight == 0 or self.class_direction is None:
            off.add("class_direction")
        if not self.needs_class_images:
            off.add("class_images")
        if self.early_stopping is None:
            off.update(self.STOPPING)
        return {name: value for name, value in self.to_json().items() if name not in off}

    @classmethod
    def told(cls) -> dict[str, str]:
        """What each field is, by name: the texts that stand below the fields in the source."""
        return texts_below(cls)


_NUMBERS: dict[str, tuple[float, float | None, bool]] = {
    "size": (8, 16384, True), "steps": (1, None, True), "batch_size": (1, 4096, True), "accumulate": (1, 4096, True),
    "learning_rate": (0, 1, False), "text_encoder_learning_rate": (0, 1, False), "warmup": (0, None, True),
    "weight_decay": (0, 1, False), "max_gradient_norm": (1e-9, None, False), "min_snr_gamma": (1e-9, None, False),
    "prior_weight": (0, 1e6, False), "prior_images": (1, 1_000_000, True), "sfsl_weight": (0, 1e6, False),
    "threshold": (0, 1, False), "leading": (1, None, True), "lora_rank": (1, 4096, True), "ema": (0, 1, False),
    "sampling_steps": (1, 1000, True), "guidance_scale": (0, 1000, False), "preview_every": (0, None, True),
    "preview_images": (0, 64, True), "save_every": (0, None, True), "save_seconds": (0, None, False),
    "seed": (0, None, True),
    "class_images": (2, 1_000_000, True), "stop_every": (1, None, True), "stop_images": (2, 4096, True),
    "stop_patience": (1, None, True),
}  # fmt: skip
"""Numeric fields: the least, the most, and whether they are whole."""
_CHOICES = {
    "features": FEATURES, "distance": DISTANCES, "weighting": WEIGHTINGS, "scheduler": SCHEDULERS, "dtype": DTYPES,
    "class_direction": CLASS_DIRECTIONS, "early_stopping": STOPPING_RULES,
}  # fmt: skip


def _annotation(name: str) -> str:
    return str(Finetuning.__dataclass_fields__[name].type)


def unfilled(template: str, places: Iterable[str]) -> str | None:
    """The first place, or stray brace, of a prompt template that is none of `places`; None where there is none."""
    for place in places:
        template = template.replace(place, "")
    stray = re.search(r"\{[^{}]*\}?|\}", template)
    return stray and stray[0]


POCKET = Finetuning(
    "pocket", steps=350, batch_size=4, learning_rate=1.5e-4, min_snr_gamma=5.0, prior_images=64, sfsl_weight=0.5,
    feature_model="pocket", sampling_steps=20, guidance_scale=4.0, save_seconds=60.0, dtype="bfloat16",
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


# The command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Gives a parser one flag for each field; what isn't given is absent from what it parses.

    Help shows the pocket model's defaults, and those of other checkpoints where they are others.
    """
    told, usual = Finetuning.told(), Finetuning("-", feature_model="-")
    for field in dataclasses.fields(Finetuning):
        kind, flag = str(field.type), "--" + field.name.replace("_", "-")
        text = told[field.name].replace("`", "")
        if field.name not in ("checkpoint", "feature_model", "preview_prompts"):
            here, elsewhere = (_shown(getattr(settings, field.name)) for settings in (POCKET, usual))
            text = f"{text.removesuffix('.')} ({here}{'' if here == elsewhere else f'; else {elsewhere}'})"
        text = text.replace("%", "%%")
        options: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS, "help": text}
        if kind == "bool":
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
        elif kind.startswith("tuple"):
            parser.add_argument(flag.removesuffix("s"), action="append", metavar="TEXT", **options)
        elif field.name in _CHOICES:
            known = [*_CHOICES[field.name], *(["none"] if "None" in kind else [])]
            parser.add_argument(flag, choices=known, **options)
        else:
            parser.add_argument(flag, type=_READ[kind], metavar=_METAVARS[kind], **options)


def _shown(value: Any) -> str:
    return "off" if value is False else "on" if value is True else str(value).lower() if value is None else str(value)


def _optional(kind: type) -> Any:
    def read(text: str) -> Any:
        return None if text.lower() == "none" else kind(text)

    read.__name__ = kind.__name__  # argparse names it in "invalid int value"
    return read


_READ = {
    "int": int, "float": float, "str": str,
    "int | None": _optional(int), "float | None": _optional(float), "str | None": _optional(str),
}  # fmt: skip
_METAVARS = {"int": "N", "float": "X", "str": "TEXT", "int | None": "N", "float | None": "X", "str | None": "NAME"}


def from_arguments(options: Mapping[str, Any]) -> Finetuning:
    """The settings that a command line gave.

    Raises:
        RecipeError: A value that can't be used.
    """
    names = {field.name for field in dataclasses.fields(Finetuning)}
    given: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in options.items() if n in names}
    optional = [n for n in _CHOICES if "None" in _annotation(n)]
    given |= {n: None for n in optional if given.get(n) == "none"}
    return settings_for(given.pop("checkpoint", POCKET.checkpoint), **given)


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
