"""A step of training: what it changes, what it leaves alone, and that nothing random is left over from it."""

import copy
import dataclasses

import pytest
import torch
from tiny_checkpoints import KINDS
from tiny_references import make_references, tiny

from figureground.core.errors import FiguregroundError
from figureground.diffusion.checkpoint import open_checkpoint
from figureground.diffusion.denoiser import Denoiser, tokenize
from figureground.finetune.base import open_base
from figureground.finetune.latents import encode
from figureground.finetune.training import FinetuneData, FinetuneState, pick_in_turn
from figureground.finetune.training_images import read_training_images
from figureground.training.processes import Processes

CPU = torch.device("cpu")
SIZE = 32


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    found = read_training_images(make_references(tmp_path_factory.mktemp("references")), SIZE)
    return [r.image for r in found.images]


def opened(checkpoint):
    return open_checkpoint(str(checkpoint), device=CPU, dtype=torch.float32, safety="off")


def prepare(checkpoint, images, captions=None, **changes):
    """A training and the checkpoint that it changes."""
    settings = tiny(checkpoint, **changes)
    model = open_base(str(checkpoint), None, device=CPU, dtype=torch.float32)
    vae = model.text_to_image.vae
    material = FinetuneData(
        encode(vae, images[:3], settings.flip), captions or ("a photo of a sks flower",) * 3,
        encode(vae, images[3:], settings.flip) if settings.prior_weight else None, "a photo of a flower",
    )  # fmt: skip
    training = FinetuneState(model, settings, material, None, Processes(0, 1, CPU), SIZE, torch.float32)
    return training, model.text_to_image


def weights(pipeline):
    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    return {f"{n}.{k}": v.clone() for n, part in parts.items() for k, v in part.state_dict().items()}


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


UNUSED_BY_XL = ("text_encoder.", ("layers.1.", "final_layer_norm."))
"""SDXL reads its first text encoder one layer before the end, so the end gets no gradient."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_finite_and_reaches_unet_and_text_encoders_and_nothing_else(checkpoints, images, kind):
    training, pipeline = prepare(checkpoints[kind], images, weight_decay=0.0)
    before = weights(pipeline)
    for step in range(2):
        values = training.step(step)
        assert torch.isfinite(values).all()
    names = changed(before, weights(pipeline))
    trained = [n for n in before if n.split(".")[0] in ("unet", "text_encoder", "text_encoder_2")]
    expected = {n for n in trained if before[n].is_floating_point()}
    if kind == "sdxl":
        start, ends = UNUSED_BY_XL
        expected -= {n for n in expected if n.startswith(start) and any(end in n for end in ends)}
    # What stands behind a softmax alone, as the bias of keys, has a gradient of nothing but rounding.
    assert expected - names <= {n for n in expected if n.endswith("k_proj.bias")}
    assert names <= expected
    assert training.list_trained_parts() == [
        p for p in ("unet", "text_encoder", "text_encoder_2") if hasattr(pipeline, p)
    ]


def test_text_encoders_with_a_rate_of_0_stay_as_they_are_and_are_read_once(checkpoints, images):
    training, pipeline = prepare(checkpoints["sd1"], images, text_encoder_learning_rate=0.0)
    together, _ = prepare(checkpoints["sd1"], images)
    before = weights(pipeline)
    assert torch.allclose(training.step(0)[:-1], together.step(0)[:-1], atol=1e-6)
    names = changed(before, weights(pipeline))
    assert names
    assert all(name.startswith("unet.") for name in names)
    assert training.list_trained_parts() == ["unet"]


def test_a_rate_of_0_everywhere_is_refused(checkpoints, images):
    with pytest.raises(FiguregroundError, match="nothing would be learned"):
        prepare(checkpoints["sd1"], images, learning_rate=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_are_all_that_changes(checkpoints, images, kind):
    pytest.importorskip("peft")
    training, pipeline = prepare(checkpoints[kind], images, lora_rank=2)
    before = weights(pipeline)
    for step in range(2):
        assert torch.isfinite(training.step(step)).all()
    names = changed(before, weights(pipeline))
    assert names
    assert all("lora_" in name for name in names)
    parts = {name.split(".")[0] for name in names}
    assert parts == {p for p in ("unet", "text_encoder", "text_encoder_2") if hasattr(pipeline, p)}


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_are_encoded_as_the_pipelines_encode_them(checkpoints, kind):
    model = opened(checkpoints[kind])
    with torch.no_grad():
        embedding = Denoiser(model, SIZE).embed(*tokenize(model.tokenizers, ["a photo of a sks flower"]))
        theirs = model.text_to_image.encode_prompt(
            "a photo of a sks flower", device=CPU, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
    assert torch.equal(embedding.hidden, theirs[0])
    if kind == "sdxl":
        assert torch.equal(embedding.pooled, theirs[2])


def test_the_unet_predicts_for_each_latent_by_its_own_prompt(checkpoints):
    model = opened(checkpoints["sdxl"])
    denoiser = Denoiser(model, SIZE)
    ids, masks = tokenize(model.tokenizers, ["a flower", "a car at night"])
    noisy, time = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 500, 990])
    with torch.no_grad():
        rows = torch.tensor([1, 0, 1])
        together = denoiser(noisy, time, ids, masks, rows, None)
        alone = [
            denoiser(noisy[i : i + 1], time[i : i + 1], [x[r : r + 1] for x in ids], masks, torch.tensor([0]), None)
            for i, r in enumerate(rows.tolist())
        ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_gradient_checkpointing_and_accumulation_change_the_sums_by_rounding_only(checkpoints, images):
    plain, _ = prepare(checkpoints["sd1"], images, batch_size=4)
    checked, _ = prepare(checkpoints["sd1"], images, batch_size=4, gradient_checkpointing=True)
    assert torch.allclose(plain.step(0), checked.step(0), atol=1e-5)
    halved, _ = prepare(checkpoints["sd1"], images, batch_size=2, gradient_accumulation_steps=2)
    seen = halved.step(0)
    fresh, _ = prepare(checkpoints["sd1"], images, batch_size=2, gradient_accumulation_steps=2)
    parts = torch.stack([fresh._run_pass(0, i).detach() for i in range(2)])
    assert torch.allclose(seen[:-1], parts.mean(0), atol=1e-6)


def test_the_same_step_of_another_process_is_the_other_half_of_the_batch(checkpoints, images):
    whole, _ = prepare(checkpoints["sd1"], images, batch_size=4)
    drawn = whole._draw_inputs(3, 0)
    for rank in range(2):
        half, _ = prepare(checkpoints["sd1"], images, batch_size=2)
        half.processes = Processes(rank, 2, CPU)
        mine = half._draw_inputs(3, 0)
        for name in ("clean", "noise", "levels", "prompts"):
            references, prior = getattr(drawn, name).chunk(2)
            expected = torch.cat([references.chunk(2)[rank], prior.chunk(2)[rank]])
            assert torch.equal(getattr(mine, name), expected), name


def test_averages_follow_the_weights_and_give_them_back(checkpoints, images):
    training, pipeline = prepare(checkpoints["sd1"], images, ema=0.5)
    before = weights(pipeline)
    training.step(0)
    trained = weights(pipeline)
    with training.averaged_weights():
        averaged = weights(pipeline)
    assert not changed(trained, weights(pipeline))
    name = "unet.conv_in.weight"
    lag = 1 - min(0.5, 1 / 10)
    torch.testing.assert_close(averaged[name], before[name].lerp(trained[name], lag))


def test_a_state_is_taken_up_to_the_last_bit(checkpoints, images):
    through, pipeline = prepare(checkpoints["sd1"], images, ema=0.9, flip=True, lr_warmup_steps=3)
    for step in range(2):
        through.step(step)
    state = copy.deepcopy(through.state())
    last = [through.step(step) for step in (2, 3)]
    again, other = prepare(checkpoints["sd1"], images, ema=0.9, flip=True, lr_warmup_steps=3)
    again.restore(state)
    torch.manual_seed(99)  # nothing hangs on it
    assert all(torch.equal(again.step(step), seen) for step, seen in zip((2, 3), last, strict=True))
    assert not changed(weights(pipeline), weights(other))
    ours, theirs = again.state()["averages"], through.state()["averages"]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_images_come_in_turn_and_in_another_order_each_time():
    turns = [[pick_in_turn(5, 5 * turn + i, 0, "references") for i in range(5)] for turn in range(6)]
    assert all(sorted(turn) == [0, 1, 2, 3, 4] for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 3
    assert turns[0] != [pick_in_turn(5, i, 1, "references") for i in range(5)]


def test_a_mirrored_image_has_a_mirrored_images_latents(checkpoints, images):
    vae = opened(checkpoints["sd1"]).text_to_image.vae
    both = encode(vae, images[:2], flip=True)
    alone = encode(vae, [image.transpose(0) for image in images[:2]], flip=False)
    torch.testing.assert_close(both.mean[:, 1], alone.mean[:, 0])
    rows, noise = torch.tensor([0, 1]), torch.zeros(2, 4, 8, 8)
    taken = both.sample(rows, torch.tensor([False, True]), noise)
    expected = torch.stack([both.mean[0, 0], both.mean[1, 1]]) * vae.config.scaling_factor
    torch.testing.assert_close(taken, expected)


def test_without_bitsandbytes_8_bit_adam_says_what_to_install(checkpoints, images, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FiguregroundError, match="pip install bitsandbytes"):
        prepare(checkpoints["sd1"], images, eight_bit_adam=True)


def test_captions_are_read_each_with_its_own_image(checkpoints, images):
    captions = ("a sks flower at night", "a sks flower", "a red sks flower")
    training, _ = prepare(checkpoints["sd1"], images, captions=captions, prior_weight=0.0)
    drawn = training._draw_inputs(0, 0)
    rows = [pick_in_turn(3, i, 0, "references") for i in range(2)]
    assert drawn.prompts.tolist() == rows
    assert dataclasses.asdict(drawn)["clean"].shape == (2, 4, 8, 8)
