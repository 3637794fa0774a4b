"""`--classifier clip:ID` judges by texts: what CLIP and SigLIP compute, in the words of the dataset's classes."""

import json

import numpy as np
import pytest
import torch
import transformers as t
from colour_datasets import make_coloured, make_coloured_classifier, make_folders
from PIL import Image
from tiny_scorers import make_clip

from figureground.core.errors import FiguregroundError, UsageError
from figureground.data.images import DatasetImages
from figureground.evaluation.evaluating import evaluate
from figureground.evaluation.summary import summarise
from figureground.evaluation.texts import list_classes, read_prompts, write_texts
from figureground.recipe.classes import ClassEntry
from figureground.vision.classifiers import open_classifier
from figureground.vision.zero_shot import open_zero_shot

DRAWN = [("train", name, ground, i, name) for name in ("bird", "cat") for ground in ("grass", "snow") for i in range(2)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip") / "tiny")


def images(n=3):
    pixels = np.random.default_rng(1).integers(0, 255, (n, 32, 32, 3), dtype=np.uint8)
    return [Image.fromarray(each) for each in pixels]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_logits_are_those_of_the_model_for_one_text_and_a_mean_of_features_for_several(tmp_path, kind):
    model = make_clip(tmp_path / kind, kind=kind)
    names = ["bird", "cat", "umbrella"]
    texts = [[f"a photo of a {name}", f"a {name}"] for name in names]
    network = t.AutoModel.from_pretrained(model).eval().requires_grad_(False)
    pad = {"padding": "max_length", "max_length": 32} if kind == "siglip" else {"padding": True}
    tokens = t.AutoTokenizer.from_pretrained(model)(
        [text for some in texts for text in some], return_tensors="pt", **pad
    )
    pixels = t.AutoImageProcessor.from_pretrained(model)(images(), return_tensors="pt")
    with torch.no_grad():
        out = network(**tokens, **pixels)

    one = open_zero_shot(f"clip:{model}", names, [some[:1] for some in texts]).read(images())
    bias = network.logit_bias if kind == "siglip" else 0  # the same for all texts
    assert torch.allclose(one.logits, out.logits_per_image[:, ::2] - bias, atol=2e-3)
    several = open_zero_shot(f"clip:{model}", names, texts)
    mean = torch.nn.functional.normalize(out.text_embeds.view(3, 2, -1).mean(1), dim=-1)
    expected = network.logit_scale.exp() * out.image_embeds @ mean.T
    assert torch.allclose(several.read(images()).logits, expected, atol=2e-3)
    assert torch.allclose(several.read(images()).features, out.image_embeds, atol=2e-3)
    assert (several.labels, several.facts["zero_shot"], several.facts["texts"]) == (tuple(names), True, 6)


def test_it_stands_beside_ordinary_classifiers_and_the_report_says_what_it_chooses_from(tmp_path, clip):
    directory = make_coloured(tmp_path / "set", DRAWN)
    ordinary = str(make_coloured_classifier(tmp_path / "colours"))
    report = evaluate(
        directory, [ordinary, f"clip:{clip}"], references=make_folders(tmp_path / "photos", {"bird": 3, "cat": 3}),
        show_progress=False,
    ).report  # fmt: skip
    entry = report["classifiers"]["clip:tiny"]
    assert (entry["facts"]["classes"], entry["samples"], entry["without_counterpart"]) == (2, 8, [])
    assert report["robustness"]["points"]["clip:tiny"]["zero_shot"]
    assert not report["robustness"]["points"]["colours"]["zero_shot"]
    assert "colours 3, clip:tiny 2" in summarise(report)
    assert str(clip) not in json.dumps(report)
    again = evaluate(directory, [f"clip:{clip}"], candidates="pocket", show_progress=False).report
    assert again["classifiers"]["clip:tiny"]["facts"]["classes"] == 10
    (tmp_path / "mine.txt").write_text("# mine\na {class}\n")
    other = evaluate(directory, [f"clip:{clip}"], prompts=tmp_path / "mine.txt", show_progress=False).report
    facts = other["classifiers"]["clip:tiny"]["facts"]
    assert facts["texts"] == 2
    assert facts["sha256"] != entry["facts"]["sha256"]


def test_words_are_those_of_the_recipe_and_templates_that_say_the_same_count_once(tmp_path):
    directory = make_coloured(tmp_path / "set", DRAWN)
    recipe = directory / "_figureground" / "recipe.json"
    changed = {**json.loads(recipe.read_text()), "content": {"classes": [["bird", "owl", "that hoots"]]}}
    recipe.write_text(json.dumps(changed))
    classes = list_classes(DatasetImages.open(directory), None)
    assert classes == [ClassEntry("bird", "owl", "that hoots"), ClassEntry("cat", "cat")]
    (tmp_path / "mine.txt").write_text("a {class}\na {class}, {definition}\n")
    assert write_texts(classes, read_prompts(tmp_path / "mine.txt")) == [["an owl", "an owl, that hoots"], ["a cat"]]
    assert len(read_prompts(None)) > 8
    more = list_classes(DatasetImages.open(directory), "pocket")
    assert [entry.name for entry in more[:2]] == ["bird", "cat"]
    assert len({entry.name for entry in more}) == len(more) == 10


@pytest.mark.parametrize(
    ("text", "pattern"),
    [("a photo\n", r"mine.txt, line 1.*\{class\}"), ("a {class} {background}\n", "line 1"), ("a {clas}\n", "line 1"),
     ("# nothing\n", "mine.txt")],
)  # fmt: skip
def test_prompts_that_name_no_class_are_refused_with_their_line(tmp_path, clip, text, pattern):
    (tmp_path / "mine.txt").write_text(text)
    with pytest.raises(UsageError, match=f"--prompts.*{pattern}"):
        evaluate(tmp_path, [f"clip:{clip}"], prompts=tmp_path / "mine.txt", show_progress=False)


def test_what_can_not_be_one_is_refused(tmp_path, clip):
    directory = make_coloured(tmp_path / "set", DRAWN)
    ordinary = str(make_coloured_classifier(tmp_path / "colours"))
    for option in ({"prompts": tmp_path / "mine.txt"}, {"candidates": "imagenet"}):
        with pytest.raises(UsageError, match=f"--{next(iter(option))}.*clip:ID"):
            evaluate(directory, [ordinary], show_progress=False, **option)
    with pytest.raises(UsageError, match=r"nowhere\.txt"):
        evaluate(directory, [f"clip:{clip}"], prompts="nowhere.txt", show_progress=False)
    with pytest.raises(FiguregroundError, match=r"clip:.*(CLIP|doesn't open)"):
        evaluate(directory, [f"clip:{ordinary}"], show_progress=False)
    with pytest.raises(FiguregroundError, match="no such file"):
        evaluate(directory, [f"clip:{tmp_path}/nowhere"], show_progress=False)
    with pytest.raises(FiguregroundError, match=f"{clip}.*evaluate"):
        open_classifier(f"clip:{clip}")
    flexible = tmp_path / "naflex"
    flexible.mkdir()
    for path in clip.iterdir():
        (flexible / path.name).write_bytes(path.read_bytes())
    (flexible / "config.json").write_text(json.dumps({"model_type": "siglip2"}))
    with pytest.raises(FiguregroundError, match="NaFlex"):
        evaluate(directory, [f"clip:{flexible}"], show_progress=False)
