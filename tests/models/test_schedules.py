"""A sampler draws by the checkpoint's noise schedule, or it is refused; latents are never clipped."""

import json
from typing import get_args

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler, LCMScheduler
from PIL import Image

from figureground.cli.main import main
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.diffusion.checkpoint import SCHEDULERS, open_checkpoint
from figureground.diffusion.render import Renderer, Sampling
from figureground.methods.d3s import D3S
from figureground.methods.forecast import plan
from figureground.models.schedules import DISCRETE, check_schedule, settings_for_latents
from figureground.models.weights import check_files
from figureground.recipe.config import Sampler
from figureground.recipe.sample import Guide, Spec

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
EULER = "EulerDiscreteScheduler"


@pytest.mark.parametrize(
    "kind",
    [
        "EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler",
        "TCDScheduler", "CMStochasticIterativeScheduler", "Homemade",
    ],
)  # fmt: skip
def test_schedulers_that_mean_another_schedule_are_refused_by_name(made, edit, kind):
    edit(made / "sd1" / "model_index.json", scheduler=["diffusers", kind])
    edit(made / "sd1" / "scheduler" / "scheduler_config.json", _class_name=kind)
    with pytest.raises(FiguregroundError, match=rf"'mine' uses a {kind}"):
        check_files(made / "sd1", "mine", scheduler="ddim")


def test_an_own_sampler_that_draws_noise_without_a_seed_is_refused(made, edit):
    edit(made / "sd1" / "model_index.json", scheduler=["diffusers", "DPMSolverSDEScheduler"])
    with pytest.raises(RecipeError, match="DPMSolverSDEScheduler") as refused:
        check_files(made / "sd1", "mine", scheduler="own")
    assert refused.value.field == "scheduler"


def test_plan_refuses_them_too(made, edit, capsys):
    edit(made / "sd1" / "model_index.json", scheduler=["diffusers", "EDMEulerScheduler"])
    assert main(["plan", "d3s", "--set", f"checkpoint={made / 'sd1'}"]) == 2
    assert "EDMEulerScheduler" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sampler", "entries", "named"),
    [
        ("dpm++", {"use_flow_sigmas": True}, "use_flow_sigmas"),
        ("euler", {"timestep_type": "continuous"}, "timestep_type"),
        ("dpm++", {"prediction_type": "flow_prediction"}, "prediction_type 'flow_prediction'"),
        ("euler", {"prediction_type": "sample"}, "prediction_type 'sample'.*Give ddim or ddpm"),
        ("ddim", {"beta_schedule": "cosine"}, "beta_schedule 'cosine'"),
        ("ddim", {"beta_schedule": "sigmoid"}, "beta_schedule 'sigmoid'.*Give ddpm"),
        ("pndm", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr.*Give ddim"),
    ],
)
def test_what_a_sampler_cannot_say_names_file_and_entry(sampler, entries, named):
    with pytest.raises(FiguregroundError, match=named) as refused:
        check_schedule({"_class_name": EULER, **entries}, EULER, sampler, "mine")
    assert isinstance(refused.value, RecipeError) == ("Give" in named)
    assert "scheduler/scheduler_config.json" in str(refused.value)


@pytest.mark.parametrize("sampler", get_args(Sampler))
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid"])
def test_what_is_let_through_is_what_the_libraries_take(sampler, prediction, betas):
    config = {"prediction_type": prediction, "beta_schedule": betas}
    try:
        check_schedule(config, EULER, sampler, "mine")
    except FiguregroundError:
        return
    made = SCHEDULERS[sampler](**config)
    made.set_timesteps(20)
    latents = torch.zeros(1, 4, 2, 2)
    made.scale_model_input(latents, made.timesteps[0])
    assert made.step(latents, made.timesteps[0], latents).prev_sample.isfinite().all()


@pytest.mark.parametrize("sampler", get_args(Sampler))
def test_a_sampler_made_from_a_config_without_clipping_does_not_clip_latents(made, sampler):
    """SDXL saved with an Euler scheduler has no `clip_sample`, which DDIM and DDPM would take for true."""
    scheduler = open_checkpoint(str(made / "sdxl"), scheduler=sampler, **CPU).text_to_image.scheduler
    config = scheduler.config
    assert not config.get("clip_sample")
    assert not config.get("thresholding")
    assert config.get("set_alpha_to_one", False) is False
    assert config.get("steps_offset", 1) == 1
    assert config.get("skip_prk_steps", True)
    if sampler == "ddim":
        scheduler.set_timesteps(4)
        far = torch.full((1, 4, 2, 2), 9.0)
        noiseless = scheduler.step(torch.zeros_like(far), scheduler.timesteps[-1], far)
        assert noiseless.pred_original_sample.min() > 8.9


def test_what_a_checkpoint_says_outweighs_and_defaults_of_another_class_do_not():
    explicit = EulerDiscreteScheduler(steps_offset=0, timestep_spacing="trailing", beta_schedule="scaled_linear")
    made = DDIMScheduler.from_config(settings_for_latents(explicit.config))
    assert (made.config.steps_offset, made.config.timestep_spacing) == (0, "trailing")
    implicit = EulerDiscreteScheduler.from_config({"beta_schedule": "scaled_linear"})
    made = DDIMScheduler.from_config(settings_for_latents(implicit.config))
    assert (made.config.steps_offset, made.config.timestep_spacing) == (1, "leading")


@pytest.mark.parametrize("kind", DISCRETE)
def test_every_scheduler_that_is_let_through_keeps_its_noise_levels(kind):
    import diffusers

    if kind == "DPMSolverSDEScheduler" and not diffusers.utils.is_torchsde_available():
        pytest.skip("needs torchsde")
    own = getattr(diffusers, kind)(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    made = DDIMScheduler.from_config(settings_for_latents(own.config))
    assert torch.allclose(made.alphas_cumprod, own.alphas_cumprod)


@pytest.mark.parametrize("kind", [DDIMScheduler, LCMScheduler, EulerAncestralDiscreteScheduler])
def test_a_checkpoints_own_sampler_keeps_its_settings_but_clips_no_latents(made, edit, kind):
    settings = {"timestep_spacing": "trailing", "beta_schedule": "scaled_linear"}
    clips = {"clip_sample": True, "thresholding": True} if kind is LCMScheduler else {}  # DDIM clips by default
    edit(made / "sd1" / "model_index.json", scheduler=["diffusers", kind.__name__])
    (made / "sd1" / "scheduler" / "scheduler_config.json").write_text(json.dumps({**settings, **clips}))
    scheduler = open_checkpoint(str(made / "sd1"), scheduler="own", **CPU).text_to_image.scheduler
    assert type(scheduler) is kind
    assert settings.items() <= dict(scheduler.config).items()
    assert not scheduler.config.get("clip_sample")
    assert not scheduler.config.get("thresholding")
    if kind is EulerAncestralDiscreteScheduler:  # of the Turbo checkpoints: their one step begins at the end
        scheduler.set_timesteps(1)
        assert scheduler.timesteps.tolist() == [999]


def test_a_plan_counts_the_repeated_step_of_a_checkpoints_own_pndm(made, edit):
    edit(made / "sd1" / "scheduler" / "scheduler_config.json", _class_name="PNDMScheduler", skip_prk_steps=True)
    settings = {"checkpoint": str(made / "sd1"), "size": 32, "num_inference_steps": 10, "strength": 0.6, "limit": 1}
    counts = {}
    for name, kind in (("own", "PNDMScheduler"), ("own", "DDIMScheduler"), ("pndm", "PNDMScheduler")):
        edit(made / "sd1" / "model_index.json", scheduler=["diffusers", kind])
        forecast = plan(D3S("pocket", scheduler=name, **settings))
        counts[name, kind] = forecast["denoiser_evaluations"] / forecast["images"]
    assert list(counts.values()) == [14, 12, 14]


def test_a_latent_consistency_model_is_drawn_from_with_its_own_sampler_in_few_steps(made, edit, capsys):
    edit(made / "sd1" / "model_index.json", scheduler=["diffusers", "LCMScheduler"])
    edit(made / "sd1" / "scheduler" / "scheduler_config.json", _class_name="LCMScheduler", original_inference_steps=50)
    with pytest.raises(RecipeError, match=r"LCMScheduler.* Give own") as refused:
        check_files(made / "sd1", "mine", scheduler="ddim")
    assert refused.value.field == "scheduler"
    plan = ["plan", "d3s", f"--set=checkpoint={made / 'sd1'}", "--set=scheduler=own", "--set=size=32"]
    assert main([*plan, "--set=num_inference_steps=4", "--set=guidance_scale=1"]) == 0
    capsys.readouterr()
    assert main([*plan, "--set=num_inference_steps=51"]) == 2
    assert "num_inference_steps: 51 is too many" in capsys.readouterr().err
    assert main([*plan, "--set=num_inference_steps=2", "--set=strength=0.4"]) == 2
    assert "2 steps × strength 0.4" in capsys.readouterr().err

    opened = open_checkpoint(str(made / "sd1"), scheduler="own", **CPU)
    guide = Image.fromarray(np.tile(np.arange(32, dtype=np.uint8)[:, None, None] * 8, (1, 32, 3)))

    def draw(count, guided):
        kind = Guide("composite", "g") if guided else None
        specs = [Spec(f"k{i}", "train", 0, 0, "", "", "a bird in snow", i, kind) for i in range(4)]
        renderer = Renderer(opened, Sampling(32, 4, 0.5, 1.0, batch_size=count), lambda spec: (guide, None))
        return np.stack([np.asarray(each.image, np.float32) for each in renderer.render(specs)])

    with pytest.raises(RecipeError) as refused:
        Renderer(opened, Sampling(32, 51, 0.5, 1.0), lambda spec: (guide, None))
    assert refused.value.field == "num_inference_steps"
    for guided in (False, True):
        alone, together = draw(1, guided), draw(4, guided)
        assert np.abs(alone - together).max() <= 1
        assert np.abs(alone[0] - alone[1]).max() > 1  # each by its own seed
