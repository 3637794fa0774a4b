"""The command `scenes`: draws backgrounds by text-to-image, and has a scorer keep the objects of classes out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from figureground.core.errors import UsageError
from figureground.materials.scenes import Drawing, Scenes, draw_scenes, read_avoided
from figureground.recipe.classes import read_nouns
from figureground.verification.scene_judge import SceneJudge


def scenes(
    backgrounds: str | Sequence[str] | Mapping[str, str | None],
    out: str | os.PathLike[str],
    *,
    avoid: str | Sequence[str] | Mapping[str, str | None] | None = None,
    scorer: str | None = None,
    endpoint: str | None = None,
    settings: Drawing | Mapping[str, Any] | None = None,
    show_progress: bool = True,
) -> Scenes:
    """Draw background images, `<out>/<background>/*.png`, as D3S's setting `scenes` takes them, or resume a run.

    Args:
        backgrounds: Names from the list `d3s`, the name of a list, the path of a CSV `name,phrase`, or a mapping of
            names to phrases.
        out: Directory of the scenes: new, empty, or of an earlier run with the same settings.
        avoid: Classes that the scenes shouldn't show: names, the name of a list, or the path of a CSV. The negative
            prompt names them.
        scorer: Model that looks at each scene: `pocket`, `clip:ID` or `vlm:ID`, as for `verify`. A rejected scene is
            drawn again.
        endpoint: OpenAI-compatible server that runs `vlm:ID`.
        settings: How scenes are drawn, by the names that `figureground scenes --help` lists, such as `checkpoint`.
        show_progress: Whether to show progress.

    Raises:
        RecipeError: A background, class or setting doesn't fit.
        UsageError: A scorer is given without classes, or can't say that none of them is shown.
        FiguregroundError: The checkpoint or the scorer can't be used, or `out` holds something else.
    """
    drawing = settings if isinstance(settings, Drawing) else Drawing(**settings or {})
    if scorer is not None and avoid is None:
        raise UsageError("--scorer needs --avoid: the classes that scenes shouldn't show.")
    if endpoint is not None and scorer is None:
        raise UsageError("--endpoint needs --scorer vlm:ID.")
    with ExitStack() as stack:
        judge = None
        if scorer is not None and avoid is not None:
            background_entries = read_nouns("backgrounds", backgrounds, "backgrounds", "d3s")
            judge = SceneJudge(
                scorer, read_avoided(avoid), background_entries, endpoint=endpoint, device=drawing.device
            )
            stack.callback(judge.close)
        return draw_scenes(
            backgrounds, out, avoid=avoid, judge=judge, judge_identity=judge and judge.identity, settings=drawing,
            show_progress=show_progress,
        )  # fmt: skip
