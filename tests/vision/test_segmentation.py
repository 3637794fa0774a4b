"""Segmenters open, find things by phrase in images of any size, and say why there is no mask."""

import json

import numpy as np
import pytest
import torch
import transformers as t
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_classifiers import make_classifier

from figureground.core.errors import FiguregroundError
from figureground.models.bundled import SEGMENTER
from figureground.pocket import captions, world
from figureground.vision.segmentation import decide_mask, open_segmenter


def make_clipseg(out):
    """Write a CLIPSeg with random weights for images of 32 pixels, with the pocket's tokenizer."""
    torch.manual_seed(0)
    tokenizer = captions.write_tokenizer(out)
    narrow = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        **narrow, "vocab_size": len(tokenizer), "max_position_embeddings": 12, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    config = t.CLIPSegConfig(
        text_config=text, vision_config={**narrow, "image_size": 32, "patch_size": 8}, projection_dim=8,
        extract_layers=[0, 1], reduce_dim=8, decoder_num_attention_heads=2, decoder_intermediate_size=8,
    )  # fmt: skip
    t.CLIPSegForImageSegmentation(config).save_pretrained(out)
    t.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(out)
    return out


def make_grounding_dino(out):
    """Write a Grounding DINO with random weights and a few words, for images of about 128 pixels."""
    torch.manual_seed(0)
    out.mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "a", "red", "mug"]
    (out / "vocab.txt").write_text("\n".join(words) + "\n")
    t.BertTokenizer(vocab={word: i for i, word in enumerate(words)}, model_max_length=32).save_pretrained(out)
    narrow = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = t.GroundingDinoConfig(
        backbone_config=t.SwinConfig(
            image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
            out_features=["stage2", "stage3", "stage4"],
        ),
        text_config=t.BertConfig(vocab_size=len(words), **narrow), d_model=32, num_queries=5, encoder_layers=1,
        decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, max_text_len=16, disable_custom_kernels=True,
    )  # fmt: skip
    t.GroundingDinoForObjectDetection(config).save_pretrained(out)
    t.GroundingDinoImageProcessorPil(size={"shortest_edge": 128, "longest_edge": 192}).save_pretrained(out)
    return out


def make_sam(out):
    """Write a SAM with random weights for images of 64 pixels."""
    torch.manual_seed(0)
    vision = {
        "hidden_size": 16, "output_channels": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64,
        "patch_size": 16, "mlp_dim": 16, "window_size": 2, "global_attn_indexes": [0], "num_pos_feats": 4,
    }  # fmt: skip
    config = t.SamConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 8, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 8, "mlp_dim": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "iou_head_hidden_dim": 8,
        },
    )  # fmt: skip
    t.SamModel(config).save_pretrained(out)
    t.SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}).save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def pocket():
    return open_segmenter("pocket")


@pytest.fixture(scope="module")
def clipseg(tmp_path_factory):
    return make_clipseg(tmp_path_factory.mktemp("models") / "clipseg")


@pytest.fixture(scope="module")
def grounded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return f"grounding-dino:{make_grounding_dino(folder / 'dino')}+sam:{make_sam(folder / 'sam')}"


def drawn(purpose, count):
    for i in range(count):
        rng = world.generator(purpose, i)
        noun, scene = world.FOREGROUNDS[i % 10], world.BACKGROUNDS[(3 * i + i // 10) % 10]
        yield noun, world.render(noun, scene, str(rng.choice(world.PROPS)) if i % 2 else None, rng)


def noise(*sizes):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)) for width, height in sizes]


# The pocket's


def test_the_pocket_finds_what_is_named_and_nothing_that_is_absent(pocket):
    ious, alarms = [], 0
    for i, (noun, scene) in enumerate(drawn("test segment, held out", 40)):
        found, absent = pocket([scene.image] * 2, [f"a photo of a {noun}", f"a {world.FOREGROUNDS[(i + 3) % 10]}"])
        true, mask = np.asarray(scene.foreground) >= 128, found > 0.5
        ious.append((mask & true).sum() / (mask | true).sum())
        alarms += not isinstance(decide_mask(absent), str)
    assert np.mean(ious) > 0.6
    assert alarms <= 4


def test_the_pocket_finds_the_same_in_a_image_of_another_size_and_shape(pocket):
    noun, scene = next(drawn("test segment, sizes", 1))
    (small,) = pocket([scene.image], [noun])
    for size in ((200, 200), (150, 90), (31, 40)):
        (found,) = pocket([scene.image.resize(size)], [noun])
        assert found.shape == size[::-1]
        back = np.asarray(Image.fromarray(found).resize(scene.image.size))
        assert ((back > 0.5) & (small > 0.5)).sum() / ((back > 0.5) | (small > 0.5)).sum() > 0.7


def test_what_the_pocket_is_says_no_path(pocket):
    assert pocket.name == pocket.facts["name"] == "pocket"
    assert pocket.facts["architecture"] == "CLIPSegForImageSegmentation"
    assert len(pocket.facts["sha256"]) == 64
    assert str(SEGMENTER.parent) not in json.dumps(pocket.facts)


# Any CLIPSeg


def test_a_clipseg_gives_probabilities_of_each_images_own_size(clipseg):
    opened = open_segmenter(str(clipseg))
    assert opened.name == "clipseg"
    images = [*noise((32, 32), (50, 20), (7, 90)), Image.new("L", (40, 40), 99), Image.new("RGBA", (9, 9))]
    found = opened(images, ["a mug", "mug", "a photo of a mug", "a cat", "zyx"])
    assert [each.shape for each in found] == [(p.height, p.width) for p in images]
    assert all(each.dtype == np.float32 and 0 <= each.min() <= each.max() <= 1 for each in found)
    assert str(clipseg.parent) not in json.dumps(opened.facts)


def test_the_reading_is_the_models_own(clipseg):
    (image,) = noise((32, 32))
    network = t.CLIPSegForImageSegmentation.from_pretrained(clipseg).eval()
    ids = t.AutoTokenizer.from_pretrained(clipseg)("a mug", return_tensors="pt").input_ids
    pixels = torch.from_numpy(np.stack(t.ViTImageProcessorPil.from_pretrained(clipseg)(image)["pixel_values"]))
    with torch.no_grad():
        logits = network(input_ids=ids, pixel_values=pixels).logits
    (found,) = open_segmenter(str(clipseg))([image], ["a mug"])
    np.testing.assert_allclose(found, logits.sigmoid().reshape(32, 32).numpy(), atol=1e-5)


def test_a_image_is_read_as_it_would_be_alone(clipseg):
    opened = open_segmenter(str(clipseg))
    images, phrases = noise((32, 32), (50, 20)), ["a mug", "a photo of a cat"]
    alone = [opened([image], [phrase])[0] for image, phrase in zip(images, phrases, strict=True)]
    for one, among in zip(alone, opened(images, phrases), strict=True):
        assert np.array_equal(one, among)


@pytest.mark.parametrize("phrase", ["", "  ", "."])
def test_a_phrase_that_names_nothing_is_an_error(clipseg, phrase):
    with pytest.raises(FiguregroundError, match=r"the phrase '.*'"):
        open_segmenter(str(clipseg))(noise((32, 32)), [phrase])


def test_a_phrase_that_the_model_would_not_read_to_its_end_is_an_error(clipseg):
    with pytest.raises(FiguregroundError, match=r"'clipseg' reads 12 tokens, .* has 13. Shorten it"):
        open_segmenter(str(clipseg))(noise((32, 32)), ["a " * 11])


def test_another_number_of_phrases_than_images_is_an_error(clipseg):
    with pytest.raises(ValueError, match="shorter"):
        open_segmenter(str(clipseg))(noise((32, 32), (32, 32)), ["a mug"])


def test_weights_that_are_no_numbers_are_reported(tmp_path):
    weights = make_clipseg(tmp_path / "it") / "model.safetensors"
    save_file(
        {name: torch.full_like(w, torch.nan) for name, w in load_file(weights).items()}, weights, {"format": "pt"}
    )
    with pytest.raises(FiguregroundError, match="'it' gives NaN"):
        open_segmenter(str(tmp_path / "it"))(noise((32, 32)), ["a mug"])


# Grounding DINO and SAM


def test_boxes_are_cut_out_and_weighed_with_their_scores(grounded):
    opened = open_segmenter(grounded)
    assert opened.name == "grounding-dino:dino+sam:sam"
    assert {opened.facts[part]["name"] for part in ("detector", "masker")} == {"dino", "sam"}
    assert "/" not in json.dumps(opened.facts)
    images = noise((64, 64), (90, 50), (40, 130))
    found = opened(images, ["a red mug", "Mug.", "a mug"])
    assert [each.shape for each in found] == [(p.height, p.width) for p in images]
    assert all(each.dtype == np.float32 and 0 <= each.min() <= each.max() <= 1 for each in found)
    assert any(each.any() for each in found)
    boxes, scores = opened._detect(images[1], "a mug")
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)
    assert scores.min() >= 0.25
    assert set(np.unique(opened([images[1]], ["a mug"])[0])) <= {0.0, *scores.numpy()}
    assert (boxes[:, 0::2] <= 90).all()
    assert (boxes[:, 1::2] <= 50).all()


def test_without_a_box_nothing_is_found(grounded):
    opened = open_segmenter(grounded)
    found = opened._segment_boxes(noise((30, 20))[0], torch.empty(0, 4), torch.empty(0))
    assert found.shape == (20, 30)
    assert not found.any()


def test_a_phrase_for_the_detector_has_to_name_something_and_be_short(grounded):
    opened = open_segmenter(grounded)
    with pytest.raises(FiguregroundError, match=r"the phrase '.*'"):
        opened(noise((64, 64)), [" ."])
    with pytest.raises(FiguregroundError, match="reads 16 tokens"):
        opened(noise((64, 64)), ["a red " * 9])


# What can't be opened


@pytest.mark.parametrize("name", ["./nowhere", "nowhere", "a/b/c", "/nowhere/at/all"])
def test_an_unknown_name_is_an_error_that_says_what_there_is(name):
    with pytest.raises(FiguregroundError, match=r"there is no directory .* 'pocket', .* CLIPSeg, or 'grounding-dino:"):
        open_segmenter(name)


def test_a_model_that_is_on_neither_machine_nor_hub_is_an_error():
    with pytest.raises(FiguregroundError, match="'nobody/nothing' is not in this machine's cache"):
        open_segmenter("nobody/nothing")


@pytest.mark.parametrize("name", ["grounding-dino:x", "grounding-dino:+sam:y", "grounding-dino:x+sam:"])
def test_half_a_pair_is_an_error(name):
    with pytest.raises(FiguregroundError, match="give both models, as in 'grounding-dino:"):
        open_segmenter(name)


def test_pickles_are_refused(tmp_path):
    folder = make_clipseg(tmp_path / "it")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FiguregroundError, match=r"only as a pickle \(pytorch_model.bin\)"):
        open_segmenter(str(folder))


def test_other_kinds_of_models_are_refused(tmp_path, clipseg):
    with pytest.raises(FiguregroundError, match="'hen' is a 'resnet' model; give a 'clipseg'"):
        open_segmenter(str(make_classifier(tmp_path / "hen")))
    with pytest.raises(FiguregroundError, match="'clipseg' is a 'clipseg' model; give a 'grounding-dino'"):
        open_segmenter(f"grounding-dino:{clipseg}+sam:{clipseg}")


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("config.json", "no config.json"),
        ("model.safetensors", "are missing"),
        ("preprocessor_config.json", "no preprocessor_config.json"),
    ],
)
def test_what_is_lost_is_named(tmp_path, lost, message):
    folder = make_clipseg(tmp_path / "it")
    (folder / lost).unlink()
    with pytest.raises(FiguregroundError, match=f"'it'.* {message}"):
        open_segmenter(str(folder))


def test_damaged_and_partial_weights_are_reported(tmp_path):
    weights = make_clipseg(tmp_path / "it") / "model.safetensors"
    whole = load_file(weights)
    save_file({n: w for n, w in whole.items() if "film_mul" not in n}, weights, {"format": "pt"})
    with pytest.raises(
        FiguregroundError, match=r"not a complete CLIPSegForImageSegmentation: its weights lack .*film_mul"
    ):
        open_segmenter(str(tmp_path / "it"))
    weights.write_bytes(weights.read_bytes()[:999])
    with pytest.raises(FiguregroundError, match="'it' doesn't open"):
        open_segmenter(str(tmp_path / "it"))
    weights.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(FiguregroundError, match="Git LFS pointer"):
        open_segmenter(str(tmp_path / "it"))


# Deciding


def spot(edge, value=0.8):
    probability = np.full((40, 50), 0.1, np.float32)
    probability[10 : 10 + edge, 20 : 20 + edge] = value
    return probability


def test_a_mask_is_what_lies_above_the_threshold():
    mask = decide_mask(spot(8))
    assert mask.dtype == bool
    assert np.array_equal(mask, spot(8) > 0.5)
    assert decide_mask(spot(8), threshold=0.8) == "nothing found"


def test_a_mask_grows_on_all_sides():
    expected = np.zeros((40, 50), bool)
    expected[7:21, 17:31] = True
    assert np.array_equal(decide_mask(spot(8), grow=3), expected)
    with pytest.raises(FiguregroundError, match="grow: -1 is below 0"):
        decide_mask(spot(8), grow=-1)


def test_reasons_are_given_for_too_little_and_too_much():
    assert decide_mask(np.zeros((40, 50), np.float32)) == "nothing found"
    assert decide_mask(spot(3)) == "nothing found"
    assert decide_mask(spot(3), min_share=0.004).sum() == 9
    assert decide_mask(np.zeros((40, 50)), min_share=0.0) == "nothing found"
    assert decide_mask(np.ones((40, 50))) == "covers everything"
    assert decide_mask(spot(8), max_share=0.03) == "covers everything"
    assert decide_mask(spot(8), grow=40) == "covers everything"
    assert decide_mask(np.ones((40, 50)), max_share=1.0).all()


def test_a_word_without_a_row_in_the_text_encoder_is_named_when_it_opens(tmp_path):
    folder = make_clipseg(tmp_path / "clipseg")
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"].append({**content["added_tokens"][-1], "id": 60_000, "content": "<mug>"})
    path.write_text(json.dumps(content))
    with pytest.raises(FiguregroundError, match=r'segmenter .clipseg.*"<mug>" is number '):
        open_segmenter(str(folder))
