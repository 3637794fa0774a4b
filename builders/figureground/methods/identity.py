"""What decides a dataset, and the recipe that is saved with it.

Settings that decide nothing are left out, so that a recipe is the same as in releases that didn't have them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figureground.core.hashing import digest
from figureground.core.numerics import library_versions
from figureground.models.loras import select_active
from figureground.recipe import document as recipes
from figureground.recipe.config import Config
from figureground.recipe.settings import Names, find_marks
from figureground.sources import marks

if TYPE_CHECKING:
    from figureground.methods.base import Method


def list_unset_sampling(config: Config) -> list[str]:
    """Return the settings of sampling that decide nothing in a config."""
    unset = ["noise" if config.noise is None else "strength"]
    return unset + [name for name in ("true_cfg_scale", "guidance_interval") if getattr(config, name) is None]


def list_identity_names(method: Method) -> list[str]:
    """Return the settings that decide the dataset."""
    config = method.config
    # `speed` was replaced by the settings that it stands for.
    unset = ["speed", *([] if config.extended else ["extended"]), *method.unset_sampling()]
    unset += [] if select_active(config.loras) else ["loras"]
    unset += [] if config.quantization else ["quantization"]
    return [name for name in config.field_names() if name not in (*config.execution_names(), *unset)]


def make_identity(method: Method) -> dict[str, Any]:
    """Return everything that decides the dataset, with the content of files instead of their paths."""
    fields = {name: getattr(method.config, name) for name in list_identity_names(method)}
    return json.loads(json.dumps({"format": recipes.FORMAT, "builder": method.METHOD, **fields, **method.content}))


def make_recipe(method: Method, folder: Path) -> dict[str, Any]:
    """Return the recipe as saved in a directory, to which its paths are relative."""
    config = method.config
    file_fields = find_marks(type(config), Names)
    values = {name: getattr(config, name) for name in config.field_names()}
    saved = {n: recipes.make_paths_relative(file_fields.get(n), v, folder) for n, v in values.items()}
    lineage = method.lineage()
    recipe = {
        "format": recipes.FORMAT,
        "builder": method.METHOD,
        "config": config.name,
        "figureground": library_versions()["figureground"],
        **({recipes.MARKS: marks.NAME} if method.marks_images else {}),
        "identity": {name: saved[name] for name in list_identity_names(method)},
        "execution": {name: saved[name] for name in config.execution_names()},
        "content": method.content,
        "sha256": digest(method.identity()),
        **({"lineage": lineage} if lineage else {}),
    }
    return recipes.seal(recipe)


def make_lineage(method: Method) -> list[dict[str, Any]]:
    """Return the steps applied to the dataset since it was first built."""
    plan = method.plan()
    images = [sum(int(count.sum()) for count in counts.values()) for counts in [*plan.earlier, plan.counts]]
    return [
        {"did": "extend", "per_cell": dict(per_cell), "planned_before": before, "planned": after}
        for per_cell, before, after in zip(method.config.extended, images[:-1], images[1:], strict=True)
    ]
