"""Fine-tuning from a folder of images to a concept: what it makes, what it refuses, and how it goes on."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial

import pytest
import torch
from commands import ENVIRONMENT, litter, run, start, wait_for
from PIL import Image
from safetensors.torch import load_file
from tiny_checkpoints import KINDS, make_checkpoint, set_weights
from tiny_classifiers import fit_components_of, make_classifier
from tiny_references import flags, make_references, tiny

from figureground.core.errors import FiguregroundError, RecipeError
from figureground.diffusion.checkpoint import open_checkpoint
from figureground.finetune import dreambooth, training
from figureground.finetune.concept_run import ConceptRun
from figureground.finetune.dreambooth import finetune
from figureground.models.concept_files import read_concept
from figureground.models.weights import fingerprint
from figureground.training.saved_run import SavedRun

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
QUIET = {"device": "cpu", "show_progress": False}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    return make_references(tmp_path_factory.mktemp("references"))


@pytest.fixture(scope="module")
def concept(sd1, references, tmp_path_factory):
    """A finished one."""
    out = tmp_path_factory.mktemp("concepts") / "hummingbird"
    settings = tiny(sd1, preview_images=2, preview_every=2, preview_prompts=("a {V} {noun}", "a {noun}"))
    return finetune(references, "flower", "hummingbird", out, settings, **QUIET)


def weights(folder):
    """Every tensor below a folder, by file and name."""
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{f.relative_to(folder)}:{n}": t for f in files for n, t in load_file(f).items()}


def differing(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    return {name for name in one if not torch.equal(one[name], other[name])}


# What it makes


def test_a_concept_is_a_checkpoint_curves_previews_and_what_made_it(sd1, references, concept):
    assert sorted(path.name for path in concept.iterdir()) == [
        "checkpoint", "concept.json", "curves.csv", "curves.png", "finetuning.json", "previews", "prior",
    ]  # fmt: skip
    assert litter(concept) == []
    rows = list(csv.DictReader((concept / "curves.csv").open()))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    for row in rows:
        assert float(row["dreambooth_weighted"]) + float(row["prior_weighted"]) == pytest.approx(
            float(row["total"]), rel=1e-4
        )
    assert [path.name for path in sorted((concept / "previews").iterdir())] == ["step-000002.png", "step-000004.png"]
    assert Image.open(concept / "previews" / "step-000004.png").size == (64, 64)
    facts = json.loads((concept / "concept.json").read_text())
    assert facts["base"]["fingerprint"] == fingerprint(str(sd1), None)
    assert [used["file"] for used in facts["references"]["used"]] == ["00.png", "01.png", "02.png", "03.png"]
    assert facts["prior"]["images"] == 3
    assert facts["losses"]["steps"] == 1
    assert (facts["device"], facts["dtype"], facts["steps"]) == ("cpu", "float32", 4)
    text = "".join(path.read_text() for path in concept.rglob("*.json"))
    assert str(references.parent) not in text
    assert str(concept.parent) not in text
    assert str(sd1.parent) not in text


def test_unet_and_text_encoder_are_learned_and_the_rest_is_the_bases_to_the_byte(sd1, concept):
    parts = {name.split("/")[0] for name in differing(sd1, concept / "checkpoint")}
    assert parts == {"unet", "text_encoder"}
    for name in ("vae/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json", "model_index.json"):
        assert (concept / "checkpoint" / name).read_bytes() == (sd1 / name).read_bytes()


def test_a_finished_concept_is_returned_at_once_and_left_alone(sd1, references, concept):
    before = {path: path.stat().st_mtime_ns for path in concept.rglob("*")}
    settings = tiny(sd1, preview_images=0, save_every=7)  # what decides nothing may differ
    assert finetune(references, "flower", "hummingbird", concept, settings, **QUIET) == concept
    assert {path: path.stat().st_mtime_ns for path in concept.rglob("*")} == before


def test_what_another_process_did_meanwhile_is_seen_before_anything_is_written(sd1, references, tmp_path, monkeypatch):
    out, opened, written = tmp_path / "c", dreambooth._open_base, {}

    def meanwhile(settings, *more):
        """Another process fine-tunes there while this one still opens its checkpoint."""
        monkeypatch.setattr(dreambooth, "_open_base", opened)
        finetune(references, "flower", "x", out, settings, **QUIET)
        written.update({path: path.stat().st_mtime_ns for path in out.rglob("*")})
        return opened(settings, *more)

    monkeypatch.setattr(dreambooth, "_open_base", meanwhile)
    with pytest.raises(FiguregroundError, match='noun: "flower", now "ball"'):
        finetune(references, "ball", "x", out, tiny(sd1), **QUIET)
    assert read_concept(out).noun == "flower"
    shutil.rmtree(out)
    written.clear()
    monkeypatch.setattr(dreambooth, "_open_base", meanwhile)
    assert finetune(references, "flower", "x", out, tiny(sd1), **QUIET) == out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == written  # learned once


def test_a_size_that_is_left_to_the_checkpoint_is_the_same_as_naming_it(sd1, references, tmp_path):
    own = json.loads((sd1 / "unet" / "config.json").read_text())["sample_size"] * 4  # pixels a latent pixel
    out = finetune(references, "flower", "x", tmp_path / "own", tiny(sd1, size=None, max_train_steps=1), **QUIET)
    assert finetune(references, "flower", "x", out, tiny(sd1, size=own, max_train_steps=1), **QUIET) == out
    assert json.loads((out / "finetuning.json").read_text())["size"] == own


def test_other_inputs_in_its_directory_are_refused_naming_what_differs(sd1, references, concept, tmp_path):
    with pytest.raises(
        FiguregroundError, match=r"holds a concept from other inputs:\n  noun: \"flower\", now \"ball\""
    ):
        finetune(references, "ball", "hummingbird", concept, tiny(sd1), **QUIET)
    with pytest.raises(FiguregroundError, match=r"max_train_steps: 4, now 5\nGive another directory"):
        finetune(references, "flower", "hummingbird", concept, tiny(sd1, max_train_steps=5), **QUIET)
    other = shutil.copytree(references, tmp_path / "references")
    Image.new("RGB", (40, 40), "red").save(other / "02.png")
    with pytest.raises(FiguregroundError, match=r"references\.02\.png\.sha256: "):
        finetune(other, "flower", "hummingbird", concept, tiny(sd1), **QUIET)
    assert read_concept(concept).noun == "flower"


def test_the_same_seed_gives_the_same_weights_and_another_one_others(sd1, references, concept, tmp_path):
    prior = shutil.copytree(concept / "prior", tmp_path / "prior")
    again = finetune(references, "flower", "hummingbird", tmp_path / "again", tiny(sd1), prior=prior, **QUIET)
    assert read_concept(again).sha256 == read_concept(concept).sha256
    other = tiny(sd1, seed=1)
    other = finetune(references, "flower", "hummingbird", tmp_path / "other", other, **QUIET)
    assert read_concept(other).sha256 != read_concept(concept).sha256


def test_averaged_weights_are_what_is_kept_where_they_are_asked_for(sd1, references, concept, tmp_path):
    out = finetune(references, "flower", "hummingbird", tmp_path / "c", tiny(sd1, ema=0.99), **QUIET)
    base, plain, averaged = (weights(folder) for folder in (sd1, concept / "checkpoint", out / "checkpoint"))
    name = "unet/diffusion_pytorch_model.safetensors:conv_in.weight"
    assert 0 < (averaged[name] - base[name]).norm() < (plain[name] - base[name]).norm()


def test_a_base_stored_in_half_precision_gives_a_concept_in_half_precision_that_opens_on_a_cpu(
    sd1, references, tmp_path
):
    from diffusers import StableDiffusionPipeline

    for variant in (None, "fp16"):
        base = tmp_path / f"base-{variant}"
        open_checkpoint(str(sd1), **CPU).text_to_image.to(torch.float16).save_pretrained(base, variant=variant)
        out = finetune(
            references, "flower", "hummingbird", tmp_path / f"{variant}", tiny(base, max_train_steps=1), **QUIET
        )
        assert {t.dtype for n, t in weights(out / "checkpoint").items() if "position_ids" not in n} == {torch.float16}
        pipeline = StableDiffusionPipeline.from_pretrained(out / "checkpoint", variant=variant)
        pipeline.set_progress_bar_config(disable=True)
        assert pipeline("a sks flower", num_inference_steps=1, height=32, width=32).images[0].size == (32, 32)


def test_a_safety_checker_of_the_base_stays_with_the_concept(references, tmp_path):
    from tiny_checkpoints import add_safety_checker

    base = make_checkpoint("sd1", tmp_path)
    add_safety_checker(base)
    out = finetune(references, "flower", "hummingbird", tmp_path / "concept", tiny(base, max_train_steps=1), **QUIET)
    assert open_checkpoint(str(out / "checkpoint"), **CPU).text_to_image.safety_checker is not None


def test_captions_take_the_place_of_the_prompt(sd1, references, concept, tmp_path):
    captioned = shutil.copytree(references, tmp_path / "references")
    (captioned / "00.txt").write_text("a {V} {noun} at night")
    out = finetune(captioned, "flower", "hummingbird", tmp_path / "out", tiny(sd1), **QUIET)
    assert json.loads((out / "concept.json").read_text())["references"]["used"][0]["caption"] == "a {V} {noun} at night"
    assert read_concept(out).sha256 != read_concept(concept).sha256
    (captioned / "01.txt").write_text("a flower in the sun")
    with pytest.raises(FiguregroundError, match=r"the caption of 01\.png has neither"):
        finetune(captioned, "flower", "hummingbird", tmp_path / "other", tiny(sd1), **QUIET)


# Prior images


def test_prior_images_are_drawn_once_and_more_are_added_to_those_that_are_there(sd1, references, concept, tmp_path):
    prior = shutil.copytree(concept / "prior", tmp_path / "prior")
    times = {path.name: path.stat().st_mtime_ns for path in prior.glob("*.png")}
    assert sorted(times) == ["00000.png", "00001.png", "00002.png"]
    settings = tiny(sd1, num_class_images=5, max_train_steps=1)
    out = finetune(references, "flower", "hummingbird", tmp_path / "c", settings, prior=prior, **QUIET)
    assert {p.name for p in prior.glob("*.png")} == {f"{i:05d}.png" for i in range(5)}
    assert all((prior / name).stat().st_mtime_ns == time for name, time in times.items())
    assert json.loads((out / "concept.json").read_text())["prior"]["images"] == 5
    assert not (out / "prior").exists()
    with pytest.raises(FiguregroundError, match=r'settings:\n  prompt: "a photo of a flower", now "a photo of a ball"'):
        finetune(references, "ball", "x", tmp_path / "d", settings, prior=prior, **QUIET)


def test_a_persons_own_prior_images_are_used_as_they_are(sd1, references, tmp_path):
    own = make_references(tmp_path / "own", 2, edge=50)
    (own / "broken.png").write_bytes(b"")
    out = finetune(references, "flower", "x", tmp_path / "c", tiny(sd1, max_train_steps=1), prior=own, **QUIET)
    facts = json.loads((out / "concept.json").read_text())["prior"]
    assert (facts["images"], facts["drawn"]) == (2, False)
    assert sorted(path.name for path in own.iterdir()) == ["00.png", "01.png", "broken.png"]


def test_without_prior_preservation_nothing_is_drawn_for_it(sd1, references, tmp_path):
    out = finetune(references, "flower", "x", tmp_path / "c", tiny(sd1, max_train_steps=1, prior_weight=0.0), **QUIET)
    assert not (out / "prior").exists()
    assert (out / "curves.csv").read_text().splitlines()[0] == "step,total,dreambooth,dreambooth_weighted,gradient"


# SFSL


@pytest.mark.parametrize("kind", KINDS)
def test_sfsl_has_a_curve_and_changes_what_is_learned(references, tmp_path, kind):
    base, network = make_checkpoint(kind, tmp_path), make_classifier(tmp_path / "network")
    sums = set()
    for weight in (0.0, 5.0):
        settings = tiny(base, max_train_steps=2, sfsl_weight=weight, feature_model=str(network))
        out = finetune(references, "flower", "Hummingbird", tmp_path / f"{weight}", settings, **QUIET)
        sums.add(read_concept(out).sha256)
    assert len(sums) == 2
    row = next(csv.DictReader((out / "curves.csv").open()))
    assert float(row["sfsl_weighted"]) == pytest.approx(5 * float(row["sfsl"]), rel=1e-4)
    facts = json.loads((out / "concept.json").read_text())
    assert facts["feature_model"]["name"] == "network"
    assert {name.split("/")[0] for name in differing(base, out / "checkpoint")} <= {
        "unet", "text_encoder", "text_encoder_2",
    }  # fmt: skip


@pytest.mark.parametrize("rank", [None, 2])
def test_in_bfloat16_prior_images_and_previews_are_drawn_and_sfsl_is_finite(sd1, references, tmp_path, rank):
    if rank:
        pytest.importorskip("peft")
    network = make_classifier(tmp_path / "network")
    settings = tiny(
        sd1,
        max_train_steps=2,
        lora_rank=rank,
        dtype="bfloat16",
        preview_images=1,
        sfsl_weight=1.0,
        feature_model=str(network),
    )
    out = finetune(references, "flower", "hen", tmp_path / "c", settings, **QUIET)
    page = Image.open(out / "previews" / "step-000002.png")
    assert all(page.crop((0, 32 * i, 32, 32 * i + 32)).getextrema() != ((0, 0),) * 3 for i in range(3))
    assert read_concept(out).facts["dtype"] == "bfloat16"


def test_neural_pca_components_are_part_of_what_a_concept_is_made_from(sd1, references, tmp_path):
    from figureground.vision.classifiers import open_classifier
    from figureground.vision.neural_pca import write_components

    classifier = open_classifier(str(make_classifier(tmp_path / "network")))
    made = fit_components_of(classifier, 0, make_references(tmp_path / "hens", 6), 4)
    for name, count in (("some", range(3)), ("others", range(1, 4))):
        write_components(made.select(count), tmp_path / name, {"classifier": classifier.facts})
    settings = tiny(
        sd1,
        max_train_steps=1,
        sfsl_weight=1.0,
        feature_model=str(tmp_path / "network"),
        features="neural-pca",
        leading=2,
    )
    learn = partial(finetune, references, "flower", "hen", tmp_path / "c", settings, **QUIET)
    assert learn(components=tmp_path / "some") == tmp_path / "c"
    with pytest.raises(FiguregroundError, match=r"components_content: "):
        learn(components=tmp_path / "others")


def test_a_network_without_the_class_is_an_error_before_anything_is_drawn(sd1, references, tmp_path):
    network = make_classifier(tmp_path / "network")
    settings = tiny(sd1, sfsl_weight=1.0, feature_model=str(network))
    with pytest.raises(FiguregroundError, match=r"has no class 'humingbird'.*hummingbird"):
        finetune(references, "flower", "humingbird", tmp_path / "c", settings, **QUIET)
    assert not (tmp_path / "c").exists()


def test_a_tiny_autoencoder_decodes_for_sfsl(sd1, references, tmp_path):
    from diffusers import AutoencoderTiny

    blocks = {"num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)}
    channels = {"encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8)}
    AutoencoderTiny(**blocks, **channels).save_pretrained(tmp_path / "tiny")
    network = make_classifier(tmp_path / "network")
    settings = tiny(
        sd1, max_train_steps=1, sfsl_weight=1.0, feature_model=str(network), tiny_autoencoder=str(tmp_path / "tiny")
    )
    out = finetune(references, "flower", "hen", tmp_path / "c", settings, **QUIET)
    assert read_concept(out).facts["settings"]["tiny_autoencoder"] == "tiny"
    wrong = dataclasses.replace(settings, tiny_autoencoder=str(tmp_path / "nowhere"))
    with pytest.raises(RecipeError, match="doesn't open as an AutoencoderTiny"):
        finetune(references, "flower", "hen", tmp_path / "d", wrong, **QUIET)


# The door


def test_a_directory_that_holds_something_else_is_left_as_it_is(sd1, references, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FiguregroundError, match=r"holds something else \(mine\.txt\)"):
        finetune(references, "flower", "x", tmp_path, tiny(sd1), **QUIET)
    with pytest.raises(FiguregroundError, match="is a file; give a directory"):
        finetune(references, "flower", "x", tmp_path / "mine.txt", tiny(sd1), **QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"identifier": "snow"}, "identifier: 'snow' is a word that the checkpoint knows"),
        ({"identifier": "flower"}, "identifier: 'flower' collides with the noun"),
        ({"size": 33}, "size: 33 is not a multiple of 8, .* Give 32"),
        ({"prompt": "a {V} " + "very " * 80 + "{noun}"}, "prompt has .* tokens, .* reads 77"),
        ({"features": "neural-pca", "sfsl_weight": 1.0, "feature_model": "x"}, "components: features=neural-pca needs"),
    ],
)
def test_what_can_not_be_used_is_refused_before_anything_is_written(sd1, references, tmp_path, changes, message):
    with pytest.raises(FiguregroundError, match=message):
        finetune(references, "flower", "hummingbird", tmp_path / "c", tiny(sd1, **changes), **QUIET)
    assert not (tmp_path / "c").exists()


def test_without_peft_adapters_say_what_to_install(sd1, references, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FiguregroundError, match=r"pip install 'figureground\[lora\]'"):
        finetune(references, "flower", "x", tmp_path / "c", tiny(sd1, lora_rank=4), **QUIET)


def test_inputs_may_change_while_no_step_is_saved(sd1, references, tmp_path):
    set_out = tmp_path / "c"
    base = make_checkpoint("sd1", tmp_path / "huge")
    set_weights(base, "unet", 1e18)
    with pytest.raises(FiguregroundError):
        finetune(references, "flower", "x", set_out, tiny(base), **QUIET)
    assert (set_out / "finetuning.json").exists()
    out = finetune(references, "ball", "x", set_out, tiny(sd1, max_train_steps=1), **QUIET)
    assert read_concept(out).noun == "ball"
    assert len(list((out / "prior").glob("*.png"))) == 3


# Losses that are no numbers, memory, disks


def test_a_loss_that_is_no_number_stops_naming_part_and_step_and_keeps_what_was_good(
    sd1, references, tmp_path, monkeypatch
):
    def spoiled(self, number, honest=training.FinetuneState.step):
        if number == 3:
            with torch.no_grad():
                self._denoiser.unet.conv_out.weight.fill_(float("nan"))
        return honest(self, number)

    monkeypatch.setattr(training.FinetuneState, "step", spoiled)
    out, settings = tmp_path / "c", tiny(sd1, max_train_steps=6, save_every=2)
    with pytest.raises(FiguregroundError) as error:
        finetune(references, "flower", "x", out, settings, **QUIET)
    message = str(error.value)
    assert "the dreambooth and prior losses are nan at step 4" in message
    assert f"Step 2 of 6 is saved in {out}" in message
    assert f"{out / 'checkpoint'} contains the result" in message
    assert "--learning-rate" in message
    assert open_checkpoint(str(out / "checkpoint"), **CPU).facts["family"] == "sd"
    assert all(torch.isfinite(t.float()).all() for t in weights(out / "checkpoint").values())
    monkeypatch.undo()
    finetune(references, "flower", "x", out, settings, **QUIET)  # the state is good
    whole = finetune(references, "flower", "x", tmp_path / "whole", settings, **QUIET)
    assert not differing(out / "checkpoint", whole / "checkpoint")


def test_numbers_that_overflow_from_the_start_say_that_nothing_was_saved(references, tmp_path):
    base = make_checkpoint("sd1", tmp_path)
    set_weights(base, "unet", 1e30)
    with pytest.raises(FiguregroundError, match=r"at step 1\. Most likely the learning rate"):
        finetune(references, "flower", "x", tmp_path / "c", tiny(base, prior_weight=0.0), **QUIET)


STARVED = """
import resource, sys
import figureground.finetune.dreambooth, figureground.vision.classifiers, torch._dynamo
from figureground.cli.main import main
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 600 * 2**20,) * 2)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is limited by what Linux says of it")
def test_full_memory_says_what_to_lower(sd1, references, tmp_path):
    out = tmp_path / "c"
    command = ["finetune", "--references", str(references), "--noun", "flower", "--class", "x", "--out", str(out)]
    command += [*flags(sd1, batch_size=512, num_class_images=1, size=64), "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-c", STARVED, *command], env={**ENVIRONMENT, "MALLOC_ARENA_MAX": "1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    for way in (
        "--batch-size",
        "--gradient-accumulation-steps",
        "--gradient-checkpointing",
        "--eight-bit-adam",
        "--lora-rank",
        "--size",
    ):
        assert way in done.stderr


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_nothing_is_lost(sd1, references, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted here")
    try:
        out = disk / "c"
        command = ["finetune", "--references", str(references), "--noun", "flower", "--class", "x", "--out", str(out)]
        settings = {"max_train_steps": 6, "save_every": 1}
        first = run(*command, *flags(sd1, **settings), "--device", "cpu")
        assert first[0] == 1, first
        assert first[2].count("\n") == 1
        assert f"No space left on the disk of {out}. Free some space and run the same command again." in first[2]
        assert litter(out) == []
        subprocess.run(["mount", "-o", "remount,size=60m", str(disk)], check=True)
        assert run(*command, *flags(sd1, **settings), "--device", "cpu")[0] == 0
        whole = finetune(references, "flower", "x", tmp_path / "whole", tiny(sd1, **settings), **QUIET)
        assert not differing(out / "checkpoint", whole / "checkpoint")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


# Going on


def saved_step(out):
    return torch.load(out / "state.pt", weights_only=True)["step"]


@pytest.mark.slow
@pytest.mark.parametrize("adapters", [False, True])
def test_a_killed_run_goes_on_and_ends_with_the_same_weights_to_the_bit(sd1, references, tmp_path, adapters):
    settings = {
        "max_train_steps": 24,
        "save_every": 2,
        "ema": 0.9,
        "gradient_accumulation_steps": 2,
        "num_class_images": 2,
    }
    if adapters:
        pytest.importorskip("peft")
        settings["lora_rank"] = 2
    out = tmp_path / "killed"
    command = ["finetune", "--references", str(references), "--noun", "flower", "--class", "x", "--out", str(out)]
    command += [*flags(sd1, **settings), "--device", "cpu", "--flip"]
    process = start(*command)
    wait_for((out / "state.pt").exists, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(FiguregroundError, match="isn't finished"):
        read_concept(out)
    assert 0 < saved_step(out) < 24
    code, output, err = run(*command)
    assert (code, err) == (0, "")
    assert f"{out}: sks flower, 24 steps" in output
    assert litter(out) == []
    assert not (out / "state.pt").exists()
    code, _, err = run(*[str(tmp_path / "whole") if part == str(out) else part for part in command])
    assert (code, err) == (0, "")
    assert not differing(tmp_path / "whole", out)
    assert (out / "curves.csv").read_text() == (tmp_path / "whole" / "curves.csv").read_text()
    assert read_concept(out).sha256 == read_concept(tmp_path / "whole").sha256


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_leaves_a_usable_checkpoint_and_says_how_to_go_on(sd1, references, tmp_path, number, code):
    out = tmp_path / "stopped"
    command = ["finetune", "--references", str(references), "--noun", "flower", "--class", "x", "--out", str(out)]
    command += [*flags(sd1, max_train_steps=100_000, save_seconds=0.2), "--device", "cpu"]
    process = start(*command)
    wait_for((out / "state.pt").exists, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    step = saved_step(out)
    assert f"Step {step:,} of 100,000 is saved in {out}" in err
    assert f"{out / 'checkpoint'} contains the result" in err
    assert "Traceback" not in err
    assert litter(out) == []
    assert open_checkpoint(str(out / "checkpoint"), **CPU).facts["family"] == "sd"
    assert differing(sd1, out / "checkpoint")


@pytest.mark.slow
def test_a_stop_while_prior_images_are_drawn_keeps_those_that_are_there(sd1, references, tmp_path):
    out = tmp_path / "stopped"
    command = ["finetune", "--references", str(references), "--noun", "flower", "--class", "x", "--out", str(out)]
    settings = {"num_class_images": 48, "num_inference_steps": 200, "max_train_steps": 1, "batch_size": 1}
    process = start(*command, *flags(sd1, **settings), "--device", "cpu")
    wait_for(lambda: len(list(out.glob("prior/*.png"))) >= 16, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "No step is saved yet, but the prior images" in err
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("prior/*.png")}
    assert len(times) < 48
    assert run(*command, *flags(sd1, **settings), "--device", "cpu")[0] == 0
    assert len(list(out.glob("prior/*.png"))) == 48
    assert all((out / "prior" / name).stat().st_mtime_ns == time for name, time in times.items())
    assert litter(out) == []


def test_an_unfinished_run_refuses_other_inputs_and_other_means(sd1, references, tmp_path):
    out = tmp_path / "c"
    settings = tiny(sd1, max_train_steps=4, save_every=2)
    finetune(references, "flower", "x", out, settings, **QUIET)
    whole = weights(out / "checkpoint")
    save = SavedRun.save

    def save_early(self, learner, curves, made_with, step, seconds):
        if step < 4:
            save(self, learner, curves, made_with, step, seconds)

    def unfinished(**changes):
        """As a run that was killed after its second step left it."""
        shutil.rmtree(out, ignore_errors=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ConceptRun, "_finish", lambda self: None)
            patch.setattr(SavedRun, "save", save_early)
            finetune(references, "flower", "x", out, dataclasses.replace(settings, **changes), **QUIET)
        assert saved_step(out) == 2

    unfinished()
    with pytest.raises(FiguregroundError, match=r"learning_rate: 0\.001, now 0\.01"):
        finetune(references, "flower", "x", out, dataclasses.replace(settings, learning_rate=0.01), **QUIET)
    state = (out / "state.pt").read_bytes()
    flipped = bytearray(state)
    flipped[len(state) // 2] ^= 1
    for damaged in (state[: len(state) // 2], bytes(flipped)):
        (out / "state.pt").write_bytes(damaged)
        with pytest.raises(FiguregroundError, match=r"state\.pt is damaged .* Remove it"):
            finetune(references, "flower", "x", out, settings, **QUIET)
    (out / "state.pt").write_bytes(state)
    (out / "prior" / "00001.png").write_bytes((out / "prior" / "00000.png").read_bytes())
    with pytest.raises(FiguregroundError, match=r"begun with other settings.*\n  prior\.sha256: "):
        finetune(references, "flower", "x", out, settings, **QUIET)
    unfinished()
    torch.set_num_threads(2)  # what was begun with one goes on with one
    finetune(references, "flower", "x", out, settings, **QUIET)
    assert torch.get_num_threads() == 1
    again = weights(out / "checkpoint")
    assert all(torch.equal(again[name], whole[name]) for name in whole)


@pytest.mark.slow
def test_two_processes_learn_what_one_with_twice_the_batch_learns(sd1, references, concept, tmp_path):
    prior = shutil.copytree(concept / "prior", tmp_path / "prior")
    common = ["--references", str(references), "--noun", "flower", "--class", "x", "--prior", str(prior)]
    common += ["--device", "cpu"]
    out = tmp_path / "two"
    # What `accelerate launch` starts for several GPUs.
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    launch += ["-m", "figureground.cli.main"]
    done = subprocess.run(
        [*launch, "finetune", *common, "--out", str(out), *flags(sd1, batch_size=1)],
        capture_output=True, text=True, timeout=300, env={**ENVIRONMENT, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert read_concept(out).facts["processes"] == 2
    one = tmp_path / "one"
    finetune(references, "flower", "x", one, tiny(sd1, batch_size=2), prior=prior, **QUIET)
    ours, theirs = weights(out / "checkpoint"), weights(one / "checkpoint")
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], atol=2e-4, rtol=0, msg=name)
    rows = [next(csv.DictReader((folder / "curves.csv").open())) for folder in (out, one)]
    assert float(rows[0]["total"]) == pytest.approx(float(rows[1]["total"]), rel=1e-3)


def test_the_command_names_files_that_count_for_nothing_and_what_came_of_it(sd1, references, tmp_path):
    messy = shutil.copytree(references, tmp_path / "references")
    (messy / "broken.jpg").write_bytes(b"")
    shutil.copy(messy / "00.png", messy / "twin.png")
    out = tmp_path / "c"
    arguments = ["--references", str(messy), "--noun", "flower", "--class", "x", "--out", str(out), "--device", "cpu"]
    code, output, err = run("finetune", *arguments, *flags(sd1, max_train_steps=1))
    assert code == 0, err
    assert "1 item left out of the references: broken.jpg (the file is empty (0 bytes))" in err
    assert "1 reference given twice, counted once: twin.png is 00.png" in err
    assert output.startswith(f"{out}: sks flower, 1 steps")
    assert os.listdir(out)
