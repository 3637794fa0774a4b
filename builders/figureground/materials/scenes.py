"""Background images drawn by text-to-image, for D3S to paste cut-outs on."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from figureground.core import signals
from figureground.core.devices import check_device
from figureground.core.disk import explain_disk_error
from figureground.core.errors import FiguregroundError, RecipeError, UsageError
from figureground.core.files import replace_bytes, replace_text
from figureground.core.hashing import digest
from figureground.core.locks import lock
from figureground.core.names import unique_slugs
from figureground.core.owned import encode_png, refuse_occupied
from figureground.core.progress import Progress
from figureground.core.terminal import print_note
from figureground.materials.log import append, read_log, start_log
from figureground.models.weights import check_files, check_size, edge_multiple, fingerprint, local_directory
from figureground.recipe.classes import ClassEntry, read_nouns
from figureground.recipe.config import Scheduler
from figureground.recipe.prompts import Template, fill, read_templates
from figureground.recipe.sample import Reject, Spec, derive_seed
from figureground.recipe.settings import EXECUTION, Count, Names, Text, settings
from figureground.sources.marks import GENERATED, make_packet

if TYPE_CHECKING:
    from PIL import Image

    from figureground.diffusion.checkpoint import Checkpoint
    from figureground.diffusion.render import Renderer

Judge = Callable[[Sequence["Image.Image"], Sequence[int]], Sequence[str]]
"""Says of images, with the positions of their backgrounds, why each can't be used; an empty text if it can."""

PRIVATE, JOURNAL, LOCK, LEFT, FACTS = ".scenes", "journal.jsonl", "lock", "left", "scenes.json"
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
    """Negative prompt; none names the classes that are avoided."""
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
    tried: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Images drawn, by background and number."""
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
    """Draw background images, `<out>/<background>/*.png`, or go on with it; see `verification.scenes.scenes`.

    Args:
        backgrounds: Names from the list `d3s`, the name of a list, the path of a CSV `name,phrase`, or a mapping of
            names to phrases.
        out: Directory of the scenes: new, empty, or of an earlier run with the same settings.
        avoid: Classes that the scenes shouldn't show: like `classes` of a D3S recipe. They are named in the negative
            prompt.
        judge: Looks at what is drawn, such as `verification.emptiness.EmptyScenes`; what it rejects is drawn again.
        judge_identity: What decides the judge's answers, JSON-able.
        settings: How scenes are drawn.
        show_progress: Whether to show progress.

    Raises:
        RecipeError: A background, class or setting doesn't fit.
        FiguregroundError: The checkpoint can't be used, or `out` holds something else.
    """
    chosen, place = settings or Drawing(), Path(out)
    check_device(chosen.device, "--device")
    grounds = read_nouns("backgrounds", backgrounds, "backgrounds", "d3s")
    avoided = [] if avoid is None else read_avoided(avoid)
    templates = read_templates(chosen.prompt)
    for template in templates:
        if "{background}" not in template.text:
            raise RecipeError("prompt", f"{template.text!r} lacks {{background}}.")
    folder = local_directory(chosen.checkpoint)
    if folder is not None:
        check_files(folder, chosen.checkpoint, False, scheduler=chosen.scheduler)
        check_size(chosen.size, edge_multiple(folder, chosen.checkpoint))
    refuse_occupied(place, place / PRIVATE / JOURNAL, "scenes")
    decides = {
        name: value for name, value in asdict(chosen).items() if name not in ("device", "dtype", "images", "tries")
    }
    identity = {
        "version": VERSION, **decides, "checkpoint": fingerprint(chosen.checkpoint, chosen.revision),
        "prompt": [template.text for template in templates], "avoid": [each.text for each in avoided],
        "judge": judge_identity,
    }  # fmt: skip
    try:
        (place / PRIVATE).mkdir(parents=True, exist_ok=True)
        with lock(place / PRIVATE / LOCK) as held:
            if not held:
                raise FiguregroundError(f"another figureground scenes is writing to {place}. Wait for it.")
            state = _resume(place, digest(identity))
            drawer = _Drawer(place, grounds, avoided, templates, chosen, judge, state)
            drawer.draw_all(show_progress)
            done = Scenes(
                place, {ground.name: len(_wanted(state, ground, chosen.images)) for ground in grounds},
                dict(state.reasons.most_common()), chosen.images,
            )  # fmt: skip
            facts = {"made_by": MADE_BY, "kept": done.kept, "rejected": done.rejected, "settings": asdict(chosen)}
            facts["avoid"], facts["judge"] = [each.name for each in avoided], judge_identity
            replace_text(place / FACTS, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        if trouble := explain_disk_error(error, place):
            raise FiguregroundError(trouble) from error
        raise
    return done


def read_avoided(avoid: str | Sequence[str] | Mapping[str, str | None]) -> list[ClassEntry]:
    """Return the classes that scenes shouldn't show: a list by its name, or words as they are."""
    if isinstance(avoid, str):
        return read_nouns("avoid", avoid, "classes", "imagenet")
    return read_nouns("avoid", avoid if isinstance(avoid, Mapping) else dict.fromkeys(avoid), "classes", "imagenet")


class _Drawer:
    """Draws the scenes that aren't there yet. The checkpoint is opened when one is needed."""

    def __init__(
        self, place: Path, grounds: Sequence[ClassEntry], avoided: Sequence[ClassEntry],
        templates: Sequence[Template], chosen: Drawing, judge: Judge | None, state: _State,
    ):  # fmt: skip
        self._place, self._grounds, self._avoided, self._templates = place, grounds, avoided, templates
        self._chosen, self._judge, self._state = chosen, judge, state
        self._folders = unique_slugs([ground.name for ground in grounds])
        self._renderer: Renderer | None = None

    def draw_all(self, show: bool) -> None:
        chosen, state = self._chosen, self._state
        total = len(self._grounds) * chosen.images
        there = sum(len(_wanted(state, ground, chosen.images)) for ground in self._grounds)
        with signals.delay_to_checks(), Progress(total, initial=there, unit="scene", desc="scenes", show=show) as bar:
            while open_ := self._open():
                for start in range(0, len(open_), chosen.batch_size):
                    signals.check()
                    bar.update(self._draw(open_[start : start + chosen.batch_size]))

    def _open(self) -> list[tuple[int, int]]:
        """Return the background and number of each scene that is still to be drawn, and has tries left."""
        state, chosen = self._state, self._chosen
        return [
            (b, i)
            for b, ground in enumerate(self._grounds)
            for i in range(chosen.images)
            if i not in state.kept.get(ground.name, ()) and state.tried[ground.name, i] < chosen.tries
        ]

    def _draw(self, batch: Sequence[tuple[int, int]]) -> int:
        """Draw one image for each of a few scenes; return how many are kept."""
        renderer = self._renderer or self._opened()
        drawn = list(renderer.render([self._spec(b, i) for b, i in batch]))
        good = [(b, each.image) for (b, _), each in zip(batch, drawn, strict=True) if not isinstance(each, Reject)]
        said = iter(self._judge([image for _, image in good], [b for b, _ in good]) if self._judge and good else ())
        kept = 0
        for (b, i), each in zip(batch, drawn, strict=True):
            reason = each.reason if isinstance(each, Reject) else next(said, "") if self._judge else ""
            kept += not reason
            self._save(b, i, None if isinstance(each, Reject) else each.image, reason)
        return kept

    def _save(self, b: int, i: int, image: Image.Image | None, reason: str) -> None:
        ground, state = self._grounds[b].name, self._state
        attempt = state.tried[ground, i]
        folder = self._folders[ground]
        if image is not None:
            path = self._place / folder / f"{folder}-{i:04d}.png"
            if reason:
                path = self._place / PRIVATE / LEFT / folder / f"{folder}-{i:04d}-{attempt}.png"
            replace_bytes(path, encode_png(image, xmp=make_packet(GENERATED)))
        line = {"background": ground, "number": i, "attempt": attempt, "reason": reason}
        append(self._place / PRIVATE / JOURNAL, line)
        _count(state, line)

    def _spec(self, b: int, i: int) -> Spec:
        ground, seed = self._grounds[b], self._chosen.seed
        parts = "scene", ground.name, str(i), str(self._state.tried[ground.name, i])
        template = self._templates[derive_seed(seed, "template", *parts) % len(self._templates)]
        prompt = fill(template, ClassEntry("", ""), ground)
        return Spec(f"{ground.name}-{i:04d}", "scenes", 0, b, "", ground.name, prompt, derive_seed(seed, *parts))

    def _opened(self) -> Renderer:
        from figureground.core.accelerator import choose_device
        from figureground.diffusion.checkpoint import open_checkpoint
        from figureground.diffusion.render import Renderer, Sampling

        chosen = self._chosen
        checkpoint = open_checkpoint(
            chosen.checkpoint, chosen.revision, device=choose_device(chosen.device), dtype=chosen.dtype,
            scheduler=chosen.scheduler,
        )  # fmt: skip
        negative = chosen.negative_prompt
        if negative is None:
            negative = negative_prompt(checkpoint, [each.text for each in self._avoided], chosen.guidance_scale)
        sampling = Sampling(
            chosen.size, chosen.num_inference_steps, 1.0, chosen.guidance_scale, negative,
            batch_size=chosen.batch_size,
        )  # fmt: skip
        self._renderer = Renderer(checkpoint, sampling, _no_guide, signals.check, any_kept=True)
        return self._renderer


def negative_prompt(checkpoint: Checkpoint, nouns: Sequence[str], guidance_scale: float) -> str:
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
    used = list(nouns)
    while used and any(count > most for count, most in checkpoint.count_tokens(", ".join(used))):
        used.pop()
    if len(used) < len(nouns):
        print_note(
            f"The negative prompt names {len(used):,} of {len(nouns):,} classes, as many as the checkpoint reads."
        )
    return ", ".join(used)


def _no_guide(spec: Spec) -> Any:
    raise AssertionError(f"{spec.key} has no guide")


# What is there already


def _wanted(state: _State, ground: ClassEntry, images: int) -> set[int]:
    return {number for number in state.kept.get(ground.name, ()) if number < images}


def _resume(place: Path, identity: str) -> _State:
    """Read what an earlier run drew, and start the journal.

    Raises:
        UsageError: It drew with other settings.
        FiguregroundError: The journal is damaged.
    """
    path, state = place / PRIVATE / JOURNAL, _State()
    try:
        head, rows = read_log(path)
        for row in rows:
            _count(state, row)
        before = head["identity"] if head else identity
    except (ValueError, KeyError, TypeError) as error:
        raise FiguregroundError(f"{path} is damaged ({error}). Give another --out.") from None
    if before != identity:
        raise UsageError(f"{place} has scenes that were drawn with other settings. Give another --out.")
    start_log(path, MADE_BY, identity, rows)
    return state


def _count(state: _State, row: Mapping[str, Any]) -> None:
    state.tried[row["background"], row["number"]] += 1
    if row["reason"]:
        state.reasons[row["reason"]] += 1
    else:
        state.kept.setdefault(row["background"], set()).add(row["number"])
