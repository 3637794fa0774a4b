"""Fine-tuning SD 3 and FLUX by flow matching: what the transformer is given, what is learned, and who opens it."""

import csv
import signal

import numpy as np
import pytest
import torch
from commands import run, start, wait_for
from diffusers import DiffusionPipeline, FluxTransformer2DModel
from safetensors.torch import load_file
from tiny_classifiers import make_classifier
from tiny_references import flags, make_references, tiny

from figureground.cli.main import main
from figureground.core.errors import RecipeError
from figureground.diffusion.checkpoint import open_checkpoint
from figureground.diffusion.denoiser import Denoiser, tokenize
from figureground.diffusion.render import Renderer, Sampling
from figureground.finetune.base import open_base
from figureground.finetune.concept import open_concept
from figureground.finetune.concept_run import ConceptRun
from figureground.finetune.dreambooth import finetune
from figureground.finetune.latents import encode
from figureground.finetune.settings import Finetuning, settings_for
from figureground.finetune.training import FinetuneData, FinetuneState
from figureground.finetune.training_images import read_training_images
from figureground.models.concept_files import read_concept
from figureground.models.footprint import estimate_footprint
from figureground.recipe.sample import Spec
from figureground.training.processes import Processes

CPU = torch.device("cpu")
QUIET = {"device": "cpu", "show_progress": False}
SIZE = 32
KINDS = ("sd3", "flux")
PROMPT = "a photo of a sks flower"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    return make_references(tmp_path_factory.mktemp("references"))


def adapted(checkpoint, **changes):
    """Settings for adapters of a checkpoint of flow matching."""
    return tiny(checkpoint, **{"scheduler": "own", "lora_rank": 2, "learning_rate": 0.05, **changes})


def opened(checkpoint):
    return open_checkpoint(str(checkpoint), device=CPU, dtype=torch.float32)


def prepare(checkpoint, references, **changes):
    """A training and the pipeline that it changes."""
    settings = adapted(checkpoint, prior_weight=0.0, **changes)
    model = open_base(str(checkpoint), None, device=CPU, dtype=torch.float32, settings=settings.to_json())
    images = [r.image for r in read_training_images(references, SIZE).images]
    material = FinetuneData(
        encode(model.text_to_image.vae, images, settings.flip), (PROMPT,) * len(images), None, "a photo of a flower"
    )
    training = FinetuneState(model, settings, material, None, Processes(0, 1, CPU), SIZE, torch.float32)
    return training, model.text_to_image


def weights(pipeline):
    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    return {f"{n}.{k}": v.clone() for n, part in parts.items() for k, v in part.state_dict().items()}


def draw(checkpoint, prompt=PROMPT):
    specs = [Spec(str(i), "x", 0, 0, "", "", prompt, i) for i in range(2)]
    renderer = Renderer(checkpoint, Sampling(SIZE, 2, 1.0, 3.5, batch_size=2), lambda spec: None)
    return np.stack([np.asarray(each.image, np.int16) for each in renderer.render(specs)])


# What the transformer is given


def without_guidance(checkpoint):
    """Give a FLUX a transformer like schnell's, which takes no guidance."""
    torch.manual_seed(0)
    config = {**checkpoint.denoiser.config, "guidance_embeds": False}
    checkpoint.replace_denoiser(FluxTransformer2DModel.from_config(config))


@pytest.mark.parametrize("kind", [*KINDS, "sd3-alone", "schnell"])
def test_the_transformer_is_given_what_its_pipeline_gives_it_and_its_output_is_read_alike(flows, kind):
    """The denoiser predicts for latents of the pipeline what the pipeline's own call returns, patches unpacked."""
    checkpoint, seen = opened(flows["flux" if kind == "schnell" else kind]), []
    if kind == "schnell":
        without_guidance(checkpoint)
    pipeline, flux = checkpoint.text_to_image, checkpoint.family.NAME == "flux"

    def watch(transformer, args, given, out):
        seen.append((given["hidden_states"], given["timestep"], out[0]))

    handle = pipeline.transformer.register_forward_hook(watch, with_kwargs=True)
    pipeline(
        PROMPT, height=SIZE, width=SIZE, num_inference_steps=3, guidance_scale=3.5 if flux else 1.0,
        generator=torch.Generator().manual_seed(0), output_type="latent",
        max_sequence_length=512 if flux else 256,
    )  # fmt: skip
    handle.remove()
    denoiser = Denoiser(checkpoint, SIZE)
    ids, masks = tokenize(checkpoint.tokenizers, [PROMPT])
    assert len(seen) == 3
    for latents, time, out in seen:
        if flux:
            latents, out = (pipeline._unpack_latents(x, SIZE, SIZE, 8) for x in (latents, out))
            time = time * 1000
        assert latents.shape == (1, 16, 4, 4)
        with torch.no_grad():
            found = denoiser(latents, time, ids, masks, torch.tensor([0]), None)
        torch.testing.assert_close(found, out, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [32, 512])
def test_levels_are_shifted_as_the_pipelines_shift_them_for_images_of_the_size(flows, kind, size):
    checkpoint = opened(flows[kind])
    family, scheduler, edge = checkpoint.family, checkpoint.text_to_image.scheduler, size // 8
    drawn = family.noising(scheduler, edge, CPU, "uniform").draw(8, torch.Generator().manual_seed(0))
    even = torch.rand(8, generator=torch.Generator().manual_seed(0))
    mu = family._compute_shift(scheduler.config, (edge // 2) ** 2) if kind == "flux" else None
    scheduler.set_timesteps(sigmas=even.tolist(), mu=mu)
    torch.testing.assert_close(drawn, scheduler.sigmas[:-1])
    torch.testing.assert_close(family.noising(scheduler, edge, CPU).time(drawn), scheduler.timesteps)


# What is learned


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_alone_change_and_the_loss_falls_on_a_batch_that_is_seen_again_and_again(flows, references, kind):
    """To three quarters at best: 16 channels write the 64 values of a patch."""
    pytest.importorskip("peft")
    training, pipeline = prepare(flows[kind], references, batch_size=4, lora_rank=8)
    training._run_pass(0, 0)[0].backward()
    assert all(parameter.grad is not None for parameter in training.trained_parameters.values())
    before = weights(pipeline)
    losses = [float(training.step(0)[0]) for _ in range(25)]
    assert losses[-1] < 0.9 * losses[0]
    names = {name for name, value in weights(pipeline).items() if not torch.equal(value, before[name])}
    assert all("lora_" in name for name in names)
    trained = ["transformer", "text_encoder", *(["text_encoder_2"] if kind != "flux" else [])]
    assert {name.split(".")[0] for name in names} == set(trained)
    assert training.list_trained_parts() == trained


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_drawn_from_a_state_that_is_not_the_steps(flows, references, kind):
    """A T5 drops values out of its states while it is in training mode."""
    pytest.importorskip("peft")
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        training, pipeline = prepare(flows[kind], references)
        losses.append(training.step(0))
    assert torch.equal(*losses)
    frozen = pipeline.text_encoder_2 if kind == "flux" else pipeline.text_encoder_3
    assert not frozen.training
    assert pipeline.transformer.training


def test_uniform_levels_are_others_and_text_encoders_can_be_left_alone(flows, references):
    pytest.importorskip("peft")
    kinds = [{}, {"noise_levels": "logit-normal"}, {"noise_levels": "uniform"}, {"text_encoder_learning_rate": 0.0}]
    usual, same, uniform, frozen = (prepare(flows["sd3"], references, **changes) for changes in kinds)
    drawn = [training._draw_inputs(0, 0).levels for training, _ in (usual, same, uniform)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert frozen[0].list_trained_parts() == ["transformer"]
    assert torch.allclose(frozen[0].step(0)[:-1], usual[0].step(0)[:-1], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_with_checkpointed_gradients_sfsl_is_finite_and_changes_what_is_learned(
    flows, references, tmp_path, kind
):
    pytest.importorskip("peft")
    network, sums = make_classifier(tmp_path / "network"), set()
    for weight in (0.0, 5.0):
        settings = adapted(
            flows[kind], max_train_steps=2, sfsl_weight=weight, feature_model=str(network), dtype="bfloat16",
            gradient_checkpointing=True, flip=True, num_class_images=2,
        )  # fmt: skip
        out = finetune(references, "flower", "Hummingbird", tmp_path / f"{weight}", settings, **QUIET)
        sums.add(read_concept(out).sha256)
    assert len(sums) == 2
    rows = list(csv.DictReader((out / "curves.csv").open()))
    assert all(float(row["sfsl_weighted"]) == pytest.approx(5 * float(row["sfsl"]), rel=1e-4) for row in rows)
    assert float(rows[0]["sfsl"]) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_learned_draws_the_same_when_it_is_opened_again_and_with_diffusers_own_loader(
    flows, references, tmp_path, monkeypatch, kind
):
    pytest.importorskip("peft")
    seen = []

    def write(self, honest=ConceptRun.write_usable):
        self.training._denoiser.eval()
        seen.append(draw(self.checkpoint))
        return honest(self)

    monkeypatch.setattr(ConceptRun, "write_usable", write)
    settings = adapted(flows[kind], max_train_steps=3, learning_rate=0.2, num_class_images=2)
    out = finetune(references, "flower", "hen", tmp_path / "hen", settings, **QUIET)
    concept = read_concept(out)
    assert (concept.kind, concept.facts["base"]["family"], concept.facts["base"]["prediction_type"]) == (
        "lora", kind, "flow",
    )  # fmt: skip
    again = open_concept(concept, device=CPU, dtype=torch.float32)
    assert not [name for name, _ in again.denoiser.named_parameters() if "lora" in name]
    assert np.abs(draw(again) - seen[0]).max() <= 1  # merging adapters rounds
    plain = opened(flows[kind])
    assert np.abs(draw(plain) - seen[0]).max() > 5
    plain.text_to_image.load_lora_weights(out / "lora.safetensors")
    assert np.abs(draw(plain) - seen[0]).max() <= 1
    bare = DiffusionPipeline.from_pretrained(flows[kind], dtype=torch.float32)
    bare.load_lora_weights(out / "lora.safetensors")
    parts = {name.split(".")[0] for name in load_file(out / "lora.safetensors")}
    assert set(bare.get_list_adapters()) == parts == set(plain.family.ADAPTED)


def test_adapters_of_the_text_encoder_alone_are_opened_too(flows, references, tmp_path):
    pytest.importorskip("peft")
    settings = adapted(
        flows["flux"], max_train_steps=2, learning_rate=0.0, text_encoder_learning_rate=1.0, prior_weight=0.0
    )
    out = finetune(references, "flower", "hen", tmp_path / "hen", settings, **QUIET)
    learned = open_concept(read_concept(out), device=CPU, dtype=torch.float32)
    name = "text_encoder"
    before, after = (getattr(each.text_to_image, name).state_dict() for each in (opened(flows["flux"]), learned))
    assert {key for key in before if not torch.equal(before[key], after[key])}


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_weights_to_the_bit(flows, references, tmp_path):
    pytest.importorskip("peft")
    settings = {
        "max_train_steps": 8, "save_every": 1, "num_class_images": 2, "lora_rank": 2, "scheduler": "own", "ema": 0.9,
    }  # fmt: skip
    out, whole = tmp_path / "killed", tmp_path / "whole"
    command = ["finetune", "--references", str(references), "--noun", "flower", "--class", "x", "--device", "cpu"]
    command += flags(flows["sd3"], **settings)
    process = start(*command, "--out", str(out))
    wait_for((out / "state.pt").exists, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "concept.json").exists()
    for folder in (out, whole):
        code, output, err = run(*command, "--out", str(folder))
        assert (code, err) == (0, "")
        assert f"{folder}: sks flower, 8 steps" in output
    assert (out / "lora.safetensors").read_bytes() == (whole / "lora.safetensors").read_bytes()
    assert read_concept(out).sha256 == read_concept(whole).sha256


# What is refused, and what is usual


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"lora_rank": "none"}, "lora_rank"), ({"min_snr_gamma": 5.0}, "min_snr_gamma"),
        ({"scheduler": "ddim"}, "scheduler"), ({"size": 24}, "size"),
    ],
)  # fmt: skip
def test_settings_that_do_not_suit_flow_matching_are_refused_by_name(
    flows, references, tmp_path, capsys, changes, field
):
    pytest.importorskip("peft")
    out = tmp_path / "out"
    command = ["finetune", "--references", str(references), "--noun", "flower", "--class", "x", "--out", str(out)]
    given = flags(flows["flux"], **changes)
    assert main([*command, *given]) == 2
    assert capsys.readouterr().err.startswith(f"figureground: {field}: ")
    assert not out.exists()


@pytest.mark.parametrize(("field", "value"), [("scheduler", "own"), ("noise_levels", "logit-normal")])
def test_settings_of_flow_matching_are_refused_for_other_families(sd1, references, tmp_path, field, value):
    settings = tiny(sd1, **{field: value})
    with pytest.raises(RecipeError) as refused:
        finetune(references, "flower", "hen", tmp_path / "hen", settings, **QUIET)
    assert refused.value.field == field


def test_the_family_of_a_checkpoint_that_is_here_decides_sampler_and_adapters(flows, sd1):
    for kind in KINDS:
        settings = settings_for(str(flows[kind]), sfsl_weight=0.0)
        assert (settings.scheduler, settings.lora_rank) == ("own", 16)
        assert settings_for(str(flows[kind]), sfsl_weight=0.0, lora_rank=4).lora_rank == 4
    assert settings_for(str(sd1), sfsl_weight=0.0) == Finetuning(str(sd1), sfsl_weight=0.0)


def test_the_room_for_adapters_is_counted_and_guessed_by_the_checkpoints_name(flows, references, tmp_path):
    pytest.importorskip("peft")
    settings = adapted(flows["sd3"], max_train_steps=1, prior_weight=0.0)
    out = finetune(references, "flower", "hen", tmp_path / "hen", settings, **QUIET)
    numbers = sum(tensor.numel() for tensor in load_file(out / "lora.safetensors").values())
    assert estimate_footprint(str(flows["sd3"]), lora_rank=2).finished == 4 * numbers
    names = ("stable-diffusion-3-medium-diffusers", "stable-diffusion-3.5-medium", "stable-diffusion-3.5-large")
    guessed = [estimate_footprint(f"stabilityai/{name}", lora_rank=16).finished for name in names]
    assert guessed == sorted(guessed)
    flux = estimate_footprint("black-forest-labs/FLUX.1-dev", lora_rank=16)
    assert (flux.is_measured, 1e8 < flux.finished < 1.2e8) == (False, True)
