"""Background images drawn by text-to-image, for D3S to paste cut-outs on."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from figureground.core import disk, signals
from figureground.core.batches import batched
from figureground.core.devices import check_device
from figureground.core.errors import FiguregroundError, RecipeError, UsageError
from figureground.core.files import replace_bytes, replace_text
from figureground.core.hashing import digest
from figureground.core.names import unique_slugs
from figureground.core.owned import encode_png, is_ours, refuse_occupied
from figureground.core.progress import Progress
from figureground.core.terminal import print_note
from figureground.materials.log import append, read_log, start_log
from figureground.models.weights import (
    check_files,
    check_size,
    edge_multiple,
    fingerprint,
    local_directory,
    refuse_revision,
)
from figureground.recipe.classes import ClassEntry, read_nouns
from figureground.recipe.config import Scheduler
from figureground.recipe.prompts import Template, fill, read_templates
from figureground.recipe.sample import Reject, Spec, derive_seed
from figureground.recipe.settings import EXECUTION, Count, Names, Text, settings
from figureground.sources.marks import GENERATED, make_packet
from figureground.training.work_directory import Work, hold

if TYPE_CHECKING:
    from PIL import Image

    from figureground.diffusion.checkpoint import Checkpoint
    from figureground.diffusion.render import Renderer

Judge = Callable[[Sequence["Image.Image"], Sequence[int]], Sequence[str]]
"""Says of images, with the positions of their backgrounds, why each can't be used; an empty text if it can."""

PRIVATE, JOURNAL, LEFT_OUT, FACTS = ".scenes", "journal.jsonl", "left", "scenes.json"
WORK = Work((f"{PRIVATE}/{JOURNAL}",), f"{PRIVATE}/lock", "is drawing scenes there", recognise=is_ours)
"""Drawing scenes into a directory."""
MADE_BY = "figureground scenes"
VERSION = 1
"""Raised when the code draws other images from the same settings."""
PROMPT = "a photo of a scene, {background}"
BATCH = 4
"""Images per batch if none is given, so that images don't depend on the machine."""


@settings(frozen=True)
class Drawing:
    """How scenes are drawn."""

    checkpoint: Annotated[Text, Names("directory")] = "CompVis/stable-diffusion-v1-4"
    """Checkpoint that draws: `pocket`, a directory in diffusers' layout, or a Hub id."""
    revision: Text | None = None
    """Branch, tag or commit of a checkpoint on the Hub."""
    images: Count = 20
    """Scenes of each background."""
    size: Annotated[int, Field(ge=8, le=16384)] = 512
    """Edge of the square images in pixels."""
    prompt: Text = PROMPT
    """Prompt, or a file of prompts, in which {background} stands for the background's phrase."""
    negative_prompt: str | None = None
    """Negative prompt; if none, the classes of --avoid."""
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] = 50
    """Denoising steps."""
    guidance_scale: Annotated[float, Field(ge=0, le=1000)] = 7.5
    """Scale of classifier-free guidance; 1 or less turns it, and the negative prompt, off."""
    scheduler: Scheduler | None = None
    """Sampler; none means the one that suits the checkpoint."""
    seed: Annotated[int, Field(ge=0, le=2**128 - 1)] = 0
    """Seed of everything random."""
    tries: Annotated[int, Field(ge=1, le=100)] = 4
    """Maximum number of images drawn for one scene, if the scorer rejects them."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = BATCH
    """Images per batch."""
    device: Annotated[str, EXECUTION] = "auto"
    """Device: auto, cpu, cuda, cuda:1 or mps."""
    dtype: Annotated[Literal["auto", "float32", "float16", "bfloat16"], EXECUTION] = "auto"
    """Precision: auto, float32, float16 or bfloat16."""


@dataclass(frozen=True)
class Scenes:
    """Result of `scenes`."""

    out: Path
    kept: Mapping[str, int]
    """Scenes by background."""
    rejected: Mapping[str, int]
    """Rejected images by reason."""
    wanted: int
    """Scenes of each background that were asked for."""


@dataclass
class _State:
    """Scenes that are drawn already."""

    kept: dict[str, set[int]] = field(default_factory=dict)
    """Numbers of scenes, by background."""
    attempts: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Images drawn, by background and number."""
    failures: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Images that were rejected, by background and number."""
    reasons: Counter[str] = field(default_factory=Counter)


def draw_scenes(
    backgrounds: str | Sequence[str] | Mapping[str, str | None],
    out: str | os.PathLike[str],
    *,
    avoid: str | Sequence[str] | Mapping[str, str | None] | None = None,
    judge: Judge | None = None,
    judge_identity: Any = None,
    settings: Drawing | None = None,
    show_progress: bool = True,
) -> Scenes:
    """Draw background images, `<out>/<background>/*.png`, or resume a run; see `verification.scenes.scenes`.

    Args:
        backgrounds: Names from the list `d3s`, the name of a list, the path of a CSV `name,phrase`, or a mapping of
            names to phrases.
        out: Directory of the scenes: new, empty, or of an earlier run with the same settings.
        avoid: Classes that the scenes shouldn't show: like `classes` of a D3S recipe. They are named in the negative
            prompt.
        judge: Looks at what is drawn, such as `verification.scene_judge.SceneJudge`; what it rejects is drawn again.
        judge_identity: What decides the judge's answers, JSON-able.
        settings: How scenes are drawn.
        show_progress: Whether to show progress.

    Raises:
        RecipeError: A background, class or setting doesn't fit.
        FiguregroundError: The checkpoint can't be used, or `out` holds something else.
    """
    drawing, directory = settings or Drawing(), Path(out)
    check_device(drawing.device, "--device")
    background_entries = read_nouns("backgrounds", backgrounds, "backgrounds", "d3s")
    avoided_classes = [] if avoid is None else read_avoided(avoid)
    templates = read_templates(drawing.prompt)
    for template in templates:
        if "{background}" not in template.text:
            raise RecipeError("prompt", f"{template.text!r} lacks {{background}}.")
    folder = local_directory(drawing.checkpoint)
    refuse_revision(drawing.checkpoint, drawing.revision, folder)
    if folder is not None:
        check_files(folder, drawing.checkpoint, False, scheduler=drawing.scheduler)
        check_size(drawing.size, edge_multiple(folder, drawing.checkpoint))
    refuse_occupied(directory, directory / PRIVATE / JOURNAL, "scenes")
    deciding_settings = {
        name: value for name, value in asdict(drawing).items() if name not in ("device", "dtype", "images", "tries")
    }
    identity = {
        "version": VERSION, **deciding_settings, "checkpoint": fingerprint(drawing.checkpoint, drawing.revision),
        "prompt": [template.text for template in templates], "avoid": [entry.text for entry in avoided_classes],
        "judge": judge_identity,
    }  # fmt: skip
    with disk.explained(directory), hold(directory, WORK):
        state = _resume(directory, digest(identity), background_entries)
        drawer = _Drawer(directory, background_entries, avoided_classes, templates, drawing, judge, state)
        drawer.draw_all(show_progress)
        kept = {entry.name: len(_kept_numbers(state, entry, drawing.images)) for entry in background_entries}
        result = Scenes(directory, kept, dict(state.reasons.most_common()), drawing.images)
        facts = {"made_by": MADE_BY, "kept": result.kept, "rejected": result.rejected, "settings": asdict(drawing)}
        facts["avoid"], facts["judge"] = [entry.name for entry in avoided_classes], judge_identity
        replace_text(directory / FACTS, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    return result


def read_avoided(avoid: str | Sequence[str] | Mapping[str, str | None]) -> list[ClassEntry]:
    """Return the classes that scenes shouldn't show: a list by its name, or words as they are."""
    if isinstance(avoid, str):
        return read_nouns("avoid", avoid, "classes", "imagenet")
    return read_nouns("avoid", avoid if isinstance(avoid, Mapping) else dict.fromkeys(avoid), "classes", "imagenet")


class _Drawer:
    """Draws the scenes that aren't there yet. The checkpoint is opened when one is needed."""

    def __init__(
        self, directory: Path, backgrounds: Sequence[ClassEntry], avoided: Sequence[ClassEntry],
        templates: Sequence[Template], settings: Drawing, judge: Judge | None, state: _State,
    ):  # fmt: skip
        self._directory, self._backgrounds, self._avoided, self._templates = directory, backgrounds, avoided, templates
        self._settings, self._judge, self._state = settings, judge, state
        self._folders = unique_slugs([background.name for background in backgrounds])
        self._renderer: Renderer | None = None

    def draw_all(self, show: bool) -> None:
        settings, state = self._settings, self._state
        total = len(self._backgrounds) * settings.images
        num_kept = sum(len(_kept_numbers(state, background, settings.images)) for background in self._backgrounds)
        with Progress.stoppable(total, initial=num_kept, unit="scene", desc="scenes", show=show) as bar:
            while pending := self._list_pending():
                for batch in batched(pending, settings.batch_size):
                    signals.check()
                    bar.update(self._draw_batch(batch))

    def _list_pending(self) -> list[tuple[int, int]]:
        """Return the background and number of each scene that is still to be drawn, and has tries left."""
        state, settings = self._state, self._settings
        return [
            (b, i)
            for b, background in enumerate(self._backgrounds)
            for i in range(settings.images)
            if i not in state.kept.get(background.name, ()) and state.failures[background.name, i] < settings.tries
        ]

    def _draw_batch(self, batch: Sequence[tuple[int, int]]) -> int:
        """Draw one image for each of a few scenes; return how many are kept."""
        renderer = self._renderer or self._open_renderer()
        results = list(renderer.render([self._make_spec(b, i) for b, i in batch]))
        rendered = [
            (b, result.image) for (b, _), result in zip(batch, results, strict=True) if not isinstance(result, Reject)
        ]
        reasons: Iterator[str] = iter(())
        if self._judge and rendered:
            reasons = iter(self._judge([image for _, image in rendered], [b for b, _ in rendered]))
        kept = 0
        for (b, i), result in zip(batch, results, strict=True):
            reason = result.reason if isinstance(result, Reject) else next(reasons, "") if self._judge else ""
            kept += not reason
            self._save(b, i, None if isinstance(result, Reject) else result.image, reason)
        return kept

    def _save(self, b: int, i: int, image: Image.Image | None, reason: str) -> None:
        background, state = self._backgrounds[b].name, self._state
        attempt = state.attempts[background, i]
        folder = self._folders[background]
        if image is not None:
            path = _scene_path(self._directory, folder, i)
            if reason:
                path = self._directory / PRIVATE / LEFT_OUT / folder / f"{folder}-{i:04d}-{attempt}.png"
            replace_bytes(path, encode_png(image, xmp=make_packet(GENERATED)))
        line = {
            "background": background, "text": self._backgrounds[b].text, "number": i, "attempt": attempt,
            "reason": reason,
        }  # fmt: skip
        append(self._directory / PRIVATE / JOURNAL, line)
        _count_row(state, line)

    def _make_spec(self, b: int, i: int) -> Spec:
        background, seed = self._backgrounds[b], self._settings.seed
        parts = "scene", background.name, str(i), str(self._state.attempts[background.name, i])
        template = self._templates[derive_seed(seed, "template", *parts) % len(self._templates)]
        prompt = fill(template, ClassEntry("", ""), background)
        return Spec(
            f"{background.name}-{i:04d}", "scenes", 0, b, "", background.name, prompt, derive_seed(seed, *parts)
        )

    def _open_renderer(self) -> Renderer:
        from figureground.core.accelerator import choose_device
        from figureground.diffusion.checkpoint import open_checkpoint
        from figureground.diffusion.render import Renderer, Sampling, refuse_guide

        settings = self._settings
        checkpoint = open_checkpoint(
            settings.checkpoint, settings.revision, device=choose_device(settings.device), dtype=settings.dtype,
            scheduler=settings.scheduler,
        )  # fmt: skip
        negative = settings.negative_prompt
        if negative is None:
            negative = fit_negative_prompt(checkpoint, [entry.text for entry in self._avoided], settings.guidance_scale)
        sampling = Sampling(
            settings.size, settings.num_inference_steps, 1.0, settings.guidance_scale, negative,
            batch_size=settings.batch_size,
        )  # fmt: skip
        self._renderer = Renderer(checkpoint, sampling, refuse_guide, signals.check, any_kept=True)
        return self._renderer


def fit_negative_prompt(checkpoint: Checkpoint, nouns: Sequence[str], guidance_scale: float) -> str:
    """Return as many nouns as the checkpoint's text encoders read; nothing if it uses no negative prompt."""
    if not nouns:
        return ""
    try:
        checkpoint.family.check_sampling("", 0.0, nouns[0])
    except FiguregroundError:
        print_note("This checkpoint takes no negative prompt, so only a scorer can keep objects out: --scorer NAME.")
        return ""
    if guidance_scale <= 1:
        print_note("Without guidance, the negative prompt has no effect: give a guidance scale above 1, or a scorer.")
        return ""
    fitting = list(nouns)
    while fitting and any(count > limit for count, limit in checkpoint.count_tokens(", ".join(fitting))):
        fitting.pop()
    if len(fitting) < len(nouns):
        print_note(
            f"The negative prompt names {len(fitting):,} of {len(nouns):,} classes, as many as the checkpoint reads."
        )
    return ", ".join(fitting)


# What is there already


def _kept_numbers(state: _State, background: ClassEntry, images: int) -> set[int]:
    return {number for number in state.kept.get(background.name, ()) if number < images}


def _resume(directory: Path, identity: str, backgrounds: Sequence[ClassEntry]) -> _State:
    """Read what an earlier run drew, and start the journal. A scene that somebody deleted counts as not drawn.

    Raises:
        UsageError: It drew with other settings, or a background with another text.
        FiguregroundError: The journal is damaged.
    """
    path, state = directory / PRIVATE / JOURNAL, _State()
    try:
        head, rows = read_log(path)
        texts = {background.name: background.text for background in backgrounds}
        folders = unique_slugs(list(texts))
        for row in rows:
            name, text = row["background"], row.get("text")
            if name in texts and text not in (None, texts[name]):
                raise UsageError(
                    f"{directory} has scenes of {name!r} that were drawn as {text!r}, now {texts[name]!r}. Give "
                    "another --out, or the same text."
                )
            is_there = name not in folders or _scene_path(directory, folders[name], row["number"]).exists()
            _count_row(state, row, is_there)
        previous = head["identity"] if head and rows else identity  # a run that failed before its first scene drew none
    except (ValueError, KeyError, TypeError) as error:
        raise FiguregroundError(f"{path} is damaged ({error}). Give another --out.") from None
    if previous != identity:
        raise UsageError(f"{directory} has scenes that were drawn with other settings. Give another --out.")
    start_log(path, MADE_BY, identity, rows)
    return state


def _scene_path(directory: Path, folder: str, number: int) -> Path:
    return directory / folder / f"{folder}-{number:04d}.png"


def _count_row(state: _State, row: Mapping[str, Any], is_there: bool = True) -> None:
    state.attempts[row["background"], row["number"]] += 1
    if row["reason"]:
        state.reasons[row["reason"]] += 1
        state.failures[row["background"], row["number"]] += 1
    elif is_there:
        state.kept.setdefault(row["background"], set()).add(row["number"])
