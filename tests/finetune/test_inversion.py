"""Textual inversion from a few images to a token: what changes, what is refused, how it goes on."""

import contextlib
import csv
import dataclasses
import itertools
import json
import os
import resource
import shutil
import signal

import pytest
import torch
from commands import ENVIRONMENT, litter, wait_for
from diffusers import UNet2DConditionModel
from forked_commands import Forked
from PIL import Image
from safetensors.torch import save_file
from tiny_checkpoints import KINDS, make_checkpoint, set_weights
from tiny_tokens import learn, tiny, vectors
from torch.nn.modules.module import register_module_forward_pre_hook

from figureground.core.errors import FiguregroundError, RecipeError
from figureground.core.hashing import content_hash
from figureground.diffusion.checkpoint import open_checkpoint
from figureground.finetune.embedding import InpaintingInputs, TokenTraining
from figureground.finetune.inversion_settings import Inversion
from figureground.finetune.latents import encode
from figureground.finetune.tokens import load_tokens
from figureground.recipe.settings import execution_names
from figureground.sources.images import read_image

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}

pytestmark = pytest.mark.usefixtures("one_thread")


# What it makes


def test_a_token_is_its_vectors_curves_and_what_made_it(sd1, images, mug):
    assert sorted(path.name for path in mug.iterdir()) == [
        "curves.csv", "curves.png", "inversion.json", "learned_embeds.safetensors",
    ]  # fmt: skip
    assert litter(mug) == []
    assert [row["step"] for row in csv.DictReader((mug / "curves.csv").open())] == ["1", "2", "3", "4"]
    facts = json.loads((mug / "inversion.json").read_text())
    assert facts["sha256"] == content_hash(mug / "learned_embeds.safetensors")
    assert (facts["token"], facts["noun"], facts["vectors"], facts["steps"]) == ("<mug>", "mug", 1, 4)
    assert facts["base"]["checkpoint"] == "sd1"
    assert list(facts["inputs"]["images"]) == ["00.png", "01.png", "02.png", "03.png"]
    text = (mug / "inversion.json").read_text()
    assert str(images.parent) not in text
    assert str(sd1.parent) not in text
    assert str(mug.parent) not in text


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_the_tokens_rows_changes_and_they_keep_their_length(checkpoints, images, kind):
    checkpoint = open_checkpoint(str(checkpoints[kind]), **CPU)
    pipeline = checkpoint.text_to_image
    parts = {n: p for n, p in pipeline.components.items() if isinstance(p, torch.nn.Module)}
    for network in parts.values():
        network.requires_grad_(False)
    before = {f"{n}.{k}": v.clone() for n, p in parts.items() for k, v in p.state_dict().items()}
    shown = [read_image(path).resize((32, 32)) for path in sorted(images.iterdir())]
    posteriors = encode(pipeline.vae, shown, flip=False)
    inverting = TokenTraining(
        checkpoint, tiny(checkpoints[kind], vectors=2), "mug", "<mug>", posteriors, None, 32, torch.float32
    )
    starts = inverting.copy_vectors()
    assert len(starts) == (2 if kind == "sdxl" else 1)
    for step in range(4):
        assert torch.isfinite(inverting.step(step)).all()
    for start, rows in zip(starts, inverting.copy_vectors(), strict=True):
        assert (rows != start).all()
        torch.testing.assert_close(rows.norm(dim=1), start.norm(dim=1))
    after = {f"{n}.{k}": v for n, p in parts.items() for k, v in p.state_dict().items()}
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(after[name][: len(value)], value), name
        assert after[name].shape == value.shape or name.endswith("token_embedding.weight")
    assert [p.shape for network in parts.values() for p in network.parameters() if p.grad is not None] == []


def test_vectors_begin_as_the_mean_of_the_nouns_pieces_with_their_length(sd1, images):
    checkpoint = open_checkpoint(str(sd1), **CPU)
    posteriors = encode(checkpoint.text_to_image.vae, [Image.new("RGB", (32, 32))] * 3, flip=False)
    pieces = checkpoint.tokenizers[0].convert_tokens_to_ids(checkpoint.tokenizers[0].tokenize("red mug"))
    own = checkpoint.text_to_image.text_encoder.get_input_embeddings().weight[pieces].detach()
    assert len(own) == 2
    learner = TokenTraining(checkpoint, tiny(sd1), "red mug", "<mug>", posteriors, None, 32, torch.float32)
    made = learner.copy_vectors()[0][0]
    torch.testing.assert_close(torch.cosine_similarity(made, own.mean(0), dim=0), torch.tensor(1.0))
    torch.testing.assert_close(made.norm(), own.norm(dim=1).mean())


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(sd1, images, mug, tmp_path):
    files = sorted(images.iterdir(), reverse=True)  # however they are given
    again = learn(sd1, files, tmp_path / "again")
    assert content_hash(again / "learned_embeds.safetensors") == content_hash(mug / "learned_embeds.safetensors")
    other = learn(sd1, images, tmp_path / "other", seed=1)
    assert not torch.equal(vectors(other)["<mug>"], vectors(mug)["<mug>"])


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_with_checkpointed_gradients_and_mirrored_images_vectors_are_finite(
    checkpoints, images, tmp_path, kind
):
    changes = {"dtype": "bfloat16", "gradient_checkpointing": True, "flip": True, "min_snr_gamma": 5.0}
    found = vectors(learn(checkpoints[kind], images, tmp_path / "c", **changes))
    assert all(torch.isfinite(rows).all() and rows.dtype == torch.float32 for rows in found.values())


# Masks


@pytest.fixture(scope="module")
def halves(images, tmp_path_factory):
    """Masks of the left and the right half of each image, and of the whole."""
    folder = tmp_path_factory.mktemp("masks")
    for name, box in (("left", (0, 0, 20, 40)), ("right", (20, 0, 40, 40)), ("whole", (0, 0, 40, 40))):
        mask = Image.new("L", (40, 40))
        mask.paste(1 if name == "left" else 255, box)  # many masks hold 0 and 1
        mask.save(folder / f"{name}.png")
    return {path.stem: [path] * len(list(images.iterdir())) for path in folder.iterdir()}


def test_the_loss_is_the_mean_inside_the_mask(sd1, images, halves, tmp_path):
    def first(name, **changes):
        out = learn(sd1, images, tmp_path / name, max_train_steps=1, batch_size=4, **changes)
        return float(next(csv.DictReader((out / "curves.csv").open()))["denoising"])

    loss = {name: first(name, masked=True, masks=masks) for name, masks in halves.items()}
    assert loss["whole"] == pytest.approx(first("none"), rel=1e-5)
    assert loss["left"] + loss["right"] == pytest.approx(2 * loss["whole"], rel=1e-4)
    assert loss["left"] != pytest.approx(loss["right"], rel=1e-3)


def test_a_checkpoint_made_for_inpainting_learns_from_what_is_around_the_mask(images, halves, tmp_path):
    painter = make_checkpoint("sd1", tmp_path, inpaint=True)
    shown = [read_image(path).resize((32, 32)) for path in sorted(images.iterdir())]

    def loss(around):
        checkpoint = open_checkpoint(str(painter), **CPU, inpaint=True)
        vae = checkpoint.text_to_image.vae
        where = torch.zeros(4, 1, 1, *encode(vae, shown, flip=False).mean.shape[-2:])
        where[..., : where.shape[-1] // 2] = 1
        hidden = InpaintingInputs(where, encode(vae, around, flip=False))
        posteriors = encode(vae, shown, flip=False)
        settings = tiny(painter, batch_size=4)
        inverting = TokenTraining(checkpoint, settings, "mug", "<mug>", posteriors, where, 32, torch.float32, hidden)
        return inverting.step(0)[0].item()

    assert loss(shown) == loss(shown)
    assert loss(shown) != loss([Image.new("RGB", (32, 32), "red")] * 4)
    learned = [
        learn(painter, images, tmp_path / f"masked-{flip}", masked=True, masks=halves["left"], flip=flip)
        for flip in (False, True)
    ]
    assert all(torch.isfinite(vectors(out)["<mug>"]).all() for out in learned)


def test_masks_beside_the_images_are_found(sd1, images, halves, tmp_path):
    folder = shutil.copytree(images, tmp_path / "images")
    with pytest.raises(FiguregroundError, match=r"4 of 4 images have no mask, x\.mask\.png beside x\.jpg: 00\.png"):
        learn(sd1, folder, tmp_path / "c", masked=True)
    for path in list(folder.iterdir()):
        shutil.copy(halves["left"][0], path.with_name(f"{path.stem}.mask.png"))
    beside = learn(sd1, folder, tmp_path / "beside", masked=True)
    given = learn(sd1, images, tmp_path / "given", masked=True, masks=halves["left"])
    assert torch.equal(vectors(beside)["<mug>"], vectors(given)["<mug>"])
    facts = json.loads((beside / "inversion.json").read_text())
    assert facts["inputs"]["images"]["00.png"]["mask_sha256"] == content_hash(halves["left"][0])


def test_masks_of_no_use_are_refused_naming_the_file(sd1, images, halves, tmp_path):
    def refuses(message, masks, **changes):
        with pytest.raises(FiguregroundError, match=message):
            learn(sd1, images, tmp_path / "c", masks=masks, **{"masked": True, **changes})
        assert not (tmp_path / "c").exists()

    def mask(name, image):
        image.save(tmp_path / name)
        return [*halves["left"][:3], tmp_path / name]

    refuses(r"masks: 3 for 4 images", halves["left"][:3])
    refuses(r"^masked: masks were given", halves["left"], masked=False)
    refuses(r"black\.png: the mask is empty", mask("black.png", Image.new("L", (40, 40))))
    refuses(
        r"wide\.png: .* 80 by 40 pixels, .* 40 by 40",
        mask("wide.png", Image.new("L", (80, 40), 255)),
    )
    (tmp_path / "empty.png").write_bytes(b"")
    refuses(
        r"empty\.png: the file is empty .* or leave the image out",
        [*halves["left"][:3], tmp_path / "empty.png"],
    )


# The door


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token": "mug"}, "token: 'mug' is not of the form '<mug>'"),
        ({"noun": " "}, "noun: ' ' is not a noun"),
        ({"noun": "{V}"}, "noun: '{V}' is not a noun"),
        ({"vectors": 75}, "vectors: with 75 vectors, the prompt 'a photo of a {token}' has 81 tokens, .* reads 77"),
        ({"size": 30}, "size: 30 is not a multiple of 8"),
    ],
)
def test_what_can_not_be_learned_is_refused_before_anything_is_written(sd1, images, tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message):
        learn(sd1, images, tmp_path / "c", **changes)
    assert not (tmp_path / "c").exists()


def test_a_token_that_the_tokenizer_knows_is_refused(sd1, images, mug, tmp_path):
    known = open_checkpoint(str(sd1), **CPU)
    load_tokens(known, [mug])
    known.text_to_image.save_pretrained(tmp_path / "known")
    with pytest.raises(RecipeError, match=r"^token: '<mug>' is a word that the checkpoint's tokenizer knows"):
        learn(tmp_path / "known", images, tmp_path / "c")


def test_fewer_than_three_different_images_are_refused_and_the_rest_reported(sd1, images, tmp_path, capsys):
    messy = shutil.copytree(images, tmp_path / "images")
    (messy / "00.png").write_bytes(b"")
    shutil.copy(messy / "01.png", messy / "twin.png")
    learn(sd1, messy, tmp_path / "c", max_train_steps=1)
    errors = capsys.readouterr().err
    assert "00.png (the file is empty (0 bytes))" in errors
    assert "twin.png is 01.png" in errors
    (messy / "02.png").unlink()
    with pytest.raises(FiguregroundError, match=r"holds 2 images .* at least 3 different ones\. .*00\.png"):
        learn(sd1, messy, tmp_path / "d")
    with pytest.raises(FiguregroundError, match=r"of 1 file there is 1 image that can be used"):
        learn(sd1, [messy / "01.png"], tmp_path / "d")
    with pytest.raises(FiguregroundError, match="there is no directory"):
        learn(sd1, tmp_path / "nowhere", tmp_path / "d")


@pytest.mark.parametrize("name", ["mine.txt", "learned_embeds.safetensors"])
def test_a_directory_that_holds_something_else_is_left_as_it_is(sd1, images, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(FiguregroundError, match=r"holds something else .* and was left as it is"):
        learn(sd1, images, tmp_path)
    with pytest.raises(FiguregroundError, match="is a file; give a directory"):
        learn(sd1, images, tmp_path / name)
    assert (tmp_path / name).read_text() == "mine"


def test_a_finished_token_is_left_alone_and_other_inputs_are_refused(sd1, images, mug, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in mug.iterdir()}
    assert learn(sd1, images, mug, save_seconds=7.0) == mug  # what decides nothing may differ
    with pytest.raises(FiguregroundError, match=r"holds a token from other inputs:\n  noun: \"mug\", now \"bird\""):
        learn(sd1, images, mug, noun="bird")
    with pytest.raises(FiguregroundError, match=r"learning_rate: 0\.02, now 0\.01"):
        learn(sd1, images, mug, learning_rate=0.01)
    other = shutil.copytree(images, tmp_path / "images")
    Image.new("RGB", (40, 40), "red").save(other / "02.png")
    with pytest.raises(FiguregroundError, match=r"images\.02\.png\.sha256: "):
        learn(sd1, other, mug)
    assert {path: path.stat().st_mtime_ns for path in mug.iterdir()} == before
    spoiled = shutil.copytree(mug, tmp_path / "spoiled")
    save_file({"<mug>": torch.ones(1, 32)}, spoiled / "learned_embeds.safetensors")
    with pytest.raises(FiguregroundError, match=r"doesn't match inversion\.json"):
        learn(sd1, images, spoiled)


def test_two_processes_do_not_learn_in_one_directory(sd1, images, tmp_path):
    from figureground.core.locks import lock

    with lock(tmp_path / "c" / ".invert.lock") as held:
        assert held
        with pytest.raises(FiguregroundError, match="another process is learning a token there"):
            learn(sd1, images, tmp_path / "c")


# Going on, and what goes wrong


@contextlib.contextmanager
def at_step(number, do):
    """Do something to the UNet when it is asked for a prediction in a step, counted from 0."""
    steps = itertools.count()

    def hook(module, given):
        if isinstance(module, UNet2DConditionModel) and next(steps) == number:
            do(module)

    handle = register_module_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_bytes(checkpoints, images, tmp_path, kind):
    settings = {"max_train_steps": 6, "vectors": 2, "flip": True, "save_seconds": 0.0}
    whole = learn(checkpoints[kind], images, tmp_path / "whole", **settings)

    def stop(unet):
        raise KeyboardInterrupt

    out = tmp_path / "c"
    with at_step(3, stop), pytest.raises(KeyboardInterrupt) as stopped:
        learn(checkpoints[kind], images, out, **settings)
    assert stopped.value.__notes__ == [f"Step 3 of 6 is saved in {out}; the same command resumes from there."]
    with pytest.raises(FiguregroundError, match=r"begun with other settings.*\n  seed: 0, now 1"):
        learn(checkpoints[kind], images, out, **settings, seed=1)
    torch.set_num_threads(2)  # what was begun with one goes on with one
    learn(checkpoints[kind], images, out, **settings)
    assert torch.get_num_threads() == 1
    for name in ("learned_embeds.safetensors", "curves.csv"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert not (out / "state.pt").exists()
    assert litter(out) == []


def test_a_damaged_state_is_refused(sd1, images, tmp_path):
    (tmp_path / "state.pt").write_bytes(b"x")
    with pytest.raises(FiguregroundError, match=r"state\.pt is damaged .* Remove it"):
        learn(sd1, images, tmp_path)


def test_a_loss_that_is_no_number_stops_naming_it_and_keeps_what_was_good(sd1, images, tmp_path):
    def spoil(unet):
        with torch.no_grad():
            unet.conv_out.weight.fill_(float("nan"))

    out, settings = tmp_path / "c", {"max_train_steps": 6, "save_seconds": 0.0}
    with at_step(3, spoil), pytest.raises(FiguregroundError) as error:
        learn(sd1, images, out, **settings)
    message = str(error.value)
    assert "the denoising loss is nan at step 4" in message
    assert f"Step 3 of 6 is saved in {out}" in message
    assert f"{out / 'learned_embeds.safetensors'} contains the result" in message
    assert "lower learning_rate" in message
    assert torch.isfinite(vectors(out)["<mug>"]).all()
    whole = learn(sd1, images, tmp_path / "whole", **settings)
    assert torch.equal(vectors(learn(sd1, images, out, **settings))["<mug>"], vectors(whole)["<mug>"])


def test_numbers_that_overflow_from_the_start_say_so(images, tmp_path):
    base = make_checkpoint("sd1", tmp_path)
    set_weights(base, "unet", 1e30)
    with pytest.raises(FiguregroundError, match=r"at step 1\. Most likely the learning rate"):
        learn(base, images, tmp_path / "c")


@contextlib.contextmanager
def limited(which, most):
    """Lower a limit of this process for a while."""
    before = resource.getrlimit(which)
    resource.setrlimit(which, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(which, before)


def test_a_disk_that_takes_no_more_is_one_sentence_and_leaves_no_litter(sd1, images, tmp_path):
    with limited(resource.RLIMIT_FSIZE, 2000), pytest.raises(FiguregroundError) as error:
        learn(sd1, images, tmp_path / "c")
    assert f"A file in {tmp_path / 'c'} would be larger than this system allows" in str(error.value)
    assert "\n" not in str(error.value)
    assert litter(tmp_path / "c") == []
    assert learn(sd1, images, tmp_path / "c") == tmp_path / "c"


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is limited by what Linux says of it")
def test_full_memory_says_what_to_lower(sd1, images, tmp_path):
    learn(sd1, images, tmp_path / "warm", max_train_steps=1)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    with limited(resource.RLIMIT_AS, used + 400 * 2**20), pytest.raises(FiguregroundError) as error:
        learn(sd1, images, tmp_path / "c", batch_size=4096, size=64)
    assert "memory is full. Give a smaller batch_size, or gradient_checkpointing, or a smaller size." in str(
        error.value
    )


LEARN = """
import sys
from pathlib import Path
from figureground.core import signals
from tiny_tokens import learn
checkpoint, images, out, steps = sys.argv[1:]
try:
    with signals.handle_signals():
        learn(Path(checkpoint), Path(images), Path(out), max_train_steps=int(steps), save_seconds=0.0)
except KeyboardInterrupt as error:
    sys.exit(f"stopped: {error.__notes__}")
"""


def start(*arguments):
    return Forked(arguments, LEARN, env=ENVIRONMENT)


@pytest.mark.slow
def test_a_killed_process_goes_on_and_ends_with_the_same_bytes(sd1, images, tmp_path):
    out = tmp_path / "c"
    process = start(sd1, images, out, 15)
    wait_for(lambda: saved_step(out) > 0, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert 0 < saved_step(out) < 15
    whole = learn(sd1, images, tmp_path / "whole", max_train_steps=15)
    assert learn(sd1, images, out, max_train_steps=15) == out
    for name in ("learned_embeds.safetensors", "curves.csv"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert litter(out) == []


@pytest.mark.slow
def test_a_process_that_is_asked_to_stop_keeps_what_was_learned(sd1, images, tmp_path):
    out = tmp_path / "c"
    process = start(sd1, images, out, 100_000)
    wait_for(lambda: saved_step(out) > 0, process)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=60)[1]
    assert f"Step {saved_step(out):,} of 100,000 is saved in {out}" in errors
    assert f"{out / 'learned_embeds.safetensors'} contains the result" in errors
    assert "Traceback" not in errors
    assert torch.isfinite(vectors(out)["<mug>"]).all()


def saved_step(out):
    path = out / "state.pt"
    return torch.load(path, weights_only=True)["step"] if path.exists() else 0


def test_all_settings_but_those_that_decide_nothing_are_inputs(sd1, mug):
    inputs = json.loads((mug / "inversion.json").read_text())["inputs"]
    fields = {field.name for field in dataclasses.fields(Inversion)} - {*execution_names(Inversion)}
    assert fields <= set(inputs)
    assert not set(execution_names(Inversion)) & set(inputs)
