"""Imports what commands need: `forked_commands` forks from a process that has imported this module."""

import gc
import importlib

from PIL import Image

from figureground.core import libraries

libraries.silence_warnings()
libraries.import_silently("diffusers", "transformers")
with libraries.pause_garbage_collector():
    for name in (
        "datasets", "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img",
        "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_inpaint", "matplotlib.figure", "scipy.stats",
        "transformers.models.clip.modeling_clip", "webdataset",
        "figureground.comparison.comparing", "figureground.evaluation.evaluating", "figureground.finetune.dreambooth",
        "figureground.finetune.inversion", "figureground.learn.training", "figureground.report.sheet",
        "figureground.running.worker",
    ):  # fmt: skip
        importlib.import_module(name)
Image.init()
gc.freeze()  # a fork that looked through these objects for cycles would copy the memory that they lie in
