"""Finished concepts are verified, and open as checkpoints do, with the same images as when they were learned."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import KINDS, make_checkpoint
from tiny_references import make_references, tiny

from figureground.core.errors import FiguregroundError
from figureground.diffusion.render import Renderer, Sampling
from figureground.finetune.concept import open_concept, write_checkpoint
from figureground.finetune.concept_run import ConceptRun
from figureground.finetune.dreambooth import finetune
from figureground.models.concept_files import read_concept
from figureground.recipe.sample import Sample, Spec

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
QUIET = {"device": "cpu", "show_progress": False}
SAMPLING = Sampling(size=32, num_inference_steps=2, strength=1.0, guidance_scale=3.0, batch_size=2)


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    return make_references(tmp_path_factory.mktemp("references"))


@pytest.fixture(scope="module")
def learned(tmp_path_factory, references):
    """A base and a concept of it, whole."""
    folder = tmp_path_factory.mktemp("learned")
    base = make_checkpoint("sd1", folder)
    return base, finetune(
        references, "flower", "hen", folder / "concepts" / "hen", tiny(base, max_train_steps=1), **QUIET
    )


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, references):
    """A base and adapters for it."""
    pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("adapted")
    base = make_checkpoint("sd1", folder)
    settings = tiny(base, max_train_steps=2, lora_rank=2, learning_rate=0.1)
    return base, finetune(references, "flower", "hen", folder / "concepts" / "hen", settings, **QUIET)


def draw(checkpoint, prompt="a photo of a sks flower"):
    specs = [Spec(str(i), "x", 0, 0, "", "", prompt, i) for i in range(2)]
    drawn = list(Renderer(checkpoint, SAMPLING, lambda spec: None).render(specs))
    assert all(isinstance(each, Sample) for each in drawn)
    return np.stack([np.asarray(each.image, np.int16) for each in drawn])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [None, 2])
def test_what_was_learned_draws_the_same_when_it_is_opened_again(references, tmp_path, monkeypatch, kind, rank):
    if rank:
        pytest.importorskip("peft")
    base = make_checkpoint(kind, tmp_path)
    seen = []

    def write(self, honest=ConceptRun.write_usable):
        self.training._denoiser.eval()
        seen.append(draw(self.checkpoint))
        return honest(self)

    monkeypatch.setattr(ConceptRun, "write_usable", write)
    settings = tiny(base, max_train_steps=2, lora_rank=rank, learning_rate=0.1 if rank else 1e-3)
    out = finetune(references, "flower", "hen", tmp_path / "hen", settings, **QUIET)
    opened = open_concept(read_concept(out), **CPU)
    assert np.abs(draw(opened) - seen[0]).max() <= 1  # merging adapters rounds
    from figureground.diffusion.checkpoint import open_checkpoint

    assert np.abs(draw(open_checkpoint(str(base), **CPU)) - seen[0]).max() > 5


def test_a_concept_says_what_it_is(learned):
    base, folder = learned
    concept = read_concept(folder)
    assert (concept.name, concept.label, concept.noun, concept.identifier) == ("hen", "hen", "flower", "sks")
    assert concept.kind == "checkpoint"
    assert concept.checkpoint == str(base)
    facts = open_concept(concept, **CPU).facts
    assert facts["checkpoint"] == "sd1"
    assert facts["concept"] == "hen"
    assert facts["concept_sha256"] == concept.sha256
    assert str(base.parent) not in json.dumps(facts)


def test_a_concept_stays_the_same_wherever_it_lies(learned, tmp_path):
    moved = shutil.copytree(learned[1], tmp_path / "elsewhere" / "other")
    assert read_concept(moved).sha256 == read_concept(learned[1]).sha256
    assert read_concept(moved).name == "other"


def test_damage_is_found(learned, tmp_path):
    folder = shutil.copytree(learned[1], tmp_path / "hen")
    path = folder / "checkpoint" / "unet" / "diffusion_pytorch_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(FiguregroundError, match=r"its weights .* concept\.json"):
        read_concept(folder)
    path.write_bytes(whole[:-9])
    with pytest.raises(FiguregroundError, match=r"has [\d,]+ of [\d,]+ bytes"):
        read_concept(folder)
    path.write_bytes(whole)
    facts = json.loads((folder / "concept.json").read_text())
    (folder / "concept.json").write_text(json.dumps({**facts, "format": 99}))
    with pytest.raises(FiguregroundError, match="its format is 99"):
        read_concept(folder)
    (folder / "concept.json").write_text(json.dumps(facts)[:-20])
    with pytest.raises(FiguregroundError, match=r"its concept\.json is damaged"):
        read_concept(folder)
    (folder / "concept.json").unlink()
    with pytest.raises(FiguregroundError, match="isn't finished"):
        read_concept(folder)
    with pytest.raises(FiguregroundError, match="nowhere: no such directory"):
        read_concept(tmp_path / "nowhere")


def test_adapters_are_one_file_that_diffusers_loads(adapted):
    from diffusers import StableDiffusionPipeline

    base, folder = adapted
    assert not (folder / "checkpoint").exists()
    tensors = load_file(folder / "lora.safetensors")
    assert {name.split(".")[0] for name in tensors} == {"unet", "text_encoder"}
    pipeline = StableDiffusionPipeline.from_pretrained(base)
    pipeline.load_lora_weights(folder / "lora.safetensors")
    assert pipeline.get_active_adapters()


def test_adapters_open_on_their_base_and_leave_a_plain_network(adapted):
    concept = read_concept(adapted[1])
    assert concept.kind == "lora"
    opened = open_concept(concept, **CPU)
    assert not [name for name, _ in opened.text_to_image.unet.named_parameters() if "lora" in name]
    assert opened.image_to_image.unet is opened.text_to_image.unet


def test_adapters_are_refused_on_another_base_and_follow_theirs_when_it_moves(adapted, tmp_path):
    base, folder = adapted
    moved = shutil.copytree(folder, tmp_path / "hen")
    with pytest.raises(FiguregroundError):
        open_concept(read_concept(moved), **CPU)  # its base isn't where it was
    elsewhere = shutil.copytree(base, tmp_path / "base")
    assert open_concept(read_concept(moved), base=str(elsewhere), **CPU).facts["checkpoint"] == "sd1"
    path = elsewhere / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({n: t + 1 for n, t in load_file(path).items()}, path, {"format": "pt"})
    with pytest.raises(FiguregroundError, match=r"its adapters were learned on sd1 .* Give the original"):
        open_concept(read_concept(moved), base=str(elsewhere), **CPU)


def test_the_pockets_concept_needs_no_base_to_be_found(references, tmp_path):
    settings = tiny("pocket", max_train_steps=1, size=64, batch_size=1, num_class_images=1)
    out = finetune(references, "flower", "bird", tmp_path / "bird", settings, **QUIET)
    concept = read_concept(out)
    assert concept.checkpoint == "pocket"
    assert concept.facts["base"]["place"] is None
    stored = load_file(out / "checkpoint" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


def test_weights_are_stored_as_those_that_were_opened_even_beside_another_variant(sd1, tmp_path):
    from diffusers import UNet2DConditionModel

    base = shutil.copytree(sd1, tmp_path / "base")
    for path in list(base.glob("*/*.safetensors")):
        halves = {name: tensor.half() for name, tensor in load_file(path).items()}
        save_file(halves, path.with_name(f"{path.stem}.fp16.safetensors"), {"format": "pt"})
    write_checkpoint(base, {"unet": UNet2DConditionModel.from_pretrained(base / "unet")}, tmp_path / "out")
    (path,) = (tmp_path / "out" / "unet").glob("*.safetensors")
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float32}
