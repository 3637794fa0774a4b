"""The order of a method's hooks is the one that `methods.base` lists."""

import functools
import re
import sys
import types
from typing import ClassVar

import numpy as np
from PIL import Image

from figureground.methods import base
from figureground.methods.base import Method
from figureground.recipe.config import Config
from figureground.recipe.plan import Plan
from figureground.recipe.sample import Guide
from figureground.running.directory import claim_directory
from figureground.running.runners.local import Local, run_planning_parts
from figureground.shards.columns import Columns
from figureground.shards.shard import PRIVATE
from figureground.shards.stages import run_stage

HOOKS = [
    name
    for name, value in vars(Method).items()
    if isinstance(value, types.FunctionType) and not name.startswith("_") and not hasattr(value, "__final__")
]
CALLS: list[tuple[str, str]] = []
"""Names of called hooks, and the modules that called them, in order."""

SETTINGS = Config(name="pocket", num_inference_steps=2, size=32, shard_size=2, batch_size=2, threads=1, device="cpu")


class Toy(Method):
    """Two images that start from a green square, with a stage of each kind."""

    METHOD, TITLE, DEFAULT = "toy", "Toy", "pocket"
    CONFIGS: ClassVar = {"pocket": SETTINGS}

    def load_inputs(self):
        self.pairings = {}

    def columns(self):
        return Columns(["bird"], ["grass"])

    def plan(self):
        return Plan(
            {"train": np.array([[2]])}, ["bird"], ["grass"], self.config.seed, self.config.shard_size, None,
            lambda split, f, b, i: Guide("photograph", "bird/square.png"), lambda split, f, b, i: "a photo of a bird",
        )  # fmt: skip

    def run_planning_stages(self, out):
        with claim_directory(out, self.recipe(out / PRIVATE), lambda: ""):
            run_planning_parts(self, out, Local().places(self))

    def planning_parts(self, stages):
        return [] if (stages / "early").exists() else ["early"]

    def make_planning_part(self, stages, name, device):
        run_stage(stages, name, {}, lambda folder: {})

    def parts(self, stages):
        return [] if (stages / "late").exists() else ["late"]

    def make_part(self, stages, name, checkpoint, device):
        run_stage(stages, name, {}, lambda folder: {})

    def load_guide(self, spec):
        return Image.new("RGB", (32, 32), "green"), None

    def summary(self):
        return "Green squares, repainted."


def _recorded(name, hook):
    @functools.wraps(hook)
    def call(self, *args, **kwargs):
        CALLS.append((name, sys._getframe(1).f_globals["__name__"].removeprefix("figureground.")))
        return hook(self, *args, **kwargs)

    return call


for _name in HOOKS:
    setattr(Toy, _name, _recorded(_name, getattr(Toy, _name)))


def first_calls():
    """Return each called hook with its caller: the first one outside `methods`, if there is any."""
    outside = {name for name, caller in CALLS if not caller.startswith("methods.")}
    first: dict[str, str] = {}
    for name, caller in CALLS:
        if not caller.startswith("methods.") or name not in outside:
            first.setdefault(name, caller)
    return list(first.items())


def test_a_build_calls_the_hooks_in_the_listed_order_from_the_listed_modules(tmp_path):
    CALLS.clear()
    Toy().build(tmp_path / "out", show_progress=False)
    listed = re.findall(r"^(\d+)\. `(\w+)` \(`([\w.]+)`\)", base.__doc__, re.M)
    assert [int(number) for number, *_ in listed] == list(range(1, len(listed) + 1))
    assert [(name, caller) for _, name, caller in listed] == first_calls()


def test_every_hook_is_named():
    named = re.findall(r"`(\w+)`", base.__doc__)
    assert [name for name in HOOKS if name not in named] == []
