"""The scorer `clip` computes what CLIP's own code computes."""

import numpy as np
import pytest
import torch
import transformers as t
from PIL import Image
from tiny_datasets import make_dataset
from tiny_scorers import make_clip

from figureground.core.errors import FiguregroundError
from figureground.pocket import world
from figureground.recipe.classes import ClassEntry
from figureground.shards.columns import Columns
from figureground.verification.questions import LabelQuestion
from figureground.verification.scorer import Options
from figureground.verification.scorers import pocket
from figureground.verification.scorers.clip import ClipScorer
from figureground.verification.verifying import verify

NAMES = ("bird", "cat", "umbrella")
ON_CPU = Options(device="cpu")


def question(what, names, words=None):
    words = words or names
    entries = (ClassEntry(name, word) if word else None for name, word in zip(names, words, strict=True))
    return LabelQuestion(what, tuple(names), tuple(entries))


def images(n=3):
    pixels = np.random.default_rng(1).integers(0, 255, (n, 40, 40, 3), dtype=np.uint8)
    return [Image.fromarray(each) for each in pixels]


def opened(model, *questions):
    scorer = ClipScorer(str(model), questions, ON_CPU)
    scorer.identify()
    scorer.open()
    return scorer


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_probabilities_are_those_of_the_models_own_similarities(tmp_path, kind):
    model = make_clip(tmp_path / kind, kind=kind)
    foreground = question("foreground", NAMES)
    p = opened(model, foreground).probabilities(images())["foreground"]
    network = t.AutoModel.from_pretrained(model).eval().requires_grad_(False)
    texts = foreground.texts("")
    pad = {"padding": "max_length", "max_length": 32} if kind == "siglip" else {"padding": True}
    flat = [text for some in texts for text in some]
    tokens = t.AutoTokenizer.from_pretrained(model)(flat, return_tensors="pt", **pad)
    pixels = t.AutoImageProcessor.from_pretrained(model)(images(), return_tensors="pt")
    with torch.no_grad():
        out = network(**tokens, **pixels)
    mean = torch.stack([some.mean(0) for some in out.text_embeds.split([len(some) for some in texts])])
    logits = network.logit_scale.exp() * out.image_embeds @ torch.nn.functional.normalize(mean, dim=-1).T
    assert np.allclose(p, logits.softmax(1).detach().numpy(), atol=1e-5)


def test_labels_without_words_have_no_probability_and_the_rest_share_it(clip):
    background = question("background", ("grass", "x", "snow"), ("on grass", "", "in snow"))
    p = opened(clip, background).probabilities(images())
    assert np.isnan(p["background"][:, 1]).all()
    assert np.allclose(np.nansum(p["background"], axis=1), 1)


def test_a_batch_gives_what_single_images_give(clip):
    scorer = opened(clip, question("foreground", NAMES))
    together = scorer.probabilities(images())["foreground"]
    alone = np.concatenate([scorer.probabilities([image])["foreground"] for image in images()])
    assert np.allclose(together, alone, atol=1e-6)


def test_a_column_with_one_label_is_not_asked_about(clip, tmp_path):
    source = make_dataset(tmp_path / "in", columns=Columns(("bird",), ("grass", "snow")))
    done = verify(source, [f"c=clip:{clip}"], show_progress=False)
    assert set(done.results["c"].agree) == {"background"}


@pytest.fixture(scope="module")
def of_pocket():
    places = question("background", ("grass", "snow"), ("on grass", "in snow"))
    scorer = pocket.PocketScorer("", (question("foreground", ("bird", "car")), places), ON_CPU)
    scorer.identify()
    scorer.open()
    return scorer


def drawn(foreground, background, n=4):
    rng = world.generator(f"test verify, {foreground} {background}")
    return [world.render(foreground, background, None, rng).image for _ in range(n)]


def test_the_pocket_scorer_tells_the_labels_of_drawings(of_pocket):
    for i, noun in enumerate(("bird", "car")):
        for j, place in enumerate(("grass", "snow")):
            p = of_pocket.probabilities(drawn(noun, place))
            assert (p["foreground"][:, i] > 0.8).all(), (noun, place)
            assert (p["background"][:, j] > 0.8).all(), (noun, place)
            assert np.allclose(p["foreground"].sum(axis=1), 1)


@pytest.mark.parametrize(("foreground", "background"), [(None, "cave"), ("mug", "night")])
def test_the_pocket_scorer_tells_images_that_show_none_of_the_labels(of_pocket, foreground, background):
    p = of_pocket.probabilities(drawn(foreground, background))
    assert (p["foreground"][:, -1] > 0.8).all()
    assert (p["background"][:, -1] > 0.8).all()


def test_the_pocket_scorer_leaves_out_labels_that_its_world_lacks():
    places = question("background", ("meadow", "night", "sand"), ("in a meadow", "at Night", "on wet_sand"))
    nouns = question("foreground", ("teapot", "bird", "flower"), ("teapot", "red bird", "flower"))
    scorer = pocket.PocketScorer("", (nouns, places), ON_CPU)
    scorer.identify()
    assert scorer.left_out == {"foreground": ["teapot"], "background": ["meadow"]}
    scorer.open()
    p = scorer.probabilities(drawn("bird", "night"))
    for what in ("foreground", "background"):
        assert np.isnan(p[what][:, 0]).all(), what
        assert (p[what][:, 1] > 0.5).all(), what


def test_the_pocket_scorer_knows_a_label_of_another_name_as_well(of_pocket):
    """Otherwise the world's own name for it would be another answer, as probable as the label."""
    places = question("background", ("lawn", "piste"), ("on grass", "in snow"))
    scorer = pocket.PocketScorer("", (question("foreground", ("birdie", "limousine"), ("bird", "car")), places), ON_CPU)
    scorer.identify()
    scorer.open()
    p, expected = (each.probabilities(drawn("bird", "grass")) for each in (scorer, of_pocket))
    for what in ("foreground", "background"):
        assert np.allclose(p[what], expected[what]), what


def test_the_pocket_scorer_refuses_datasets_of_other_worlds():
    questions = question("foreground", ("teapot", "violin")), question("background", ("meadow", "attic"))
    with pytest.raises(FiguregroundError, match=r"knows none of .*teapot.*meadow.*clip:ID"):
        pocket.PocketScorer("", questions, ON_CPU).identify()


def test_a_pocket_scorer_without_its_weights_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(pocket, "MATCHER", tmp_path)
    with pytest.raises(FiguregroundError, match="matcher is missing"):
        pocket.PocketScorer("", (), ON_CPU)
    with pytest.raises(FiguregroundError, match=r"pocket:x.*clip:x"):
        pocket.PocketScorer("x", (), ON_CPU)


def test_a_model_that_compares_nothing_with_texts_is_refused(source, classifier):
    with pytest.raises(FiguregroundError, match=r"clip:.*(CLIP|doesn't open)"):
        verify(source, [f"clip:{classifier}"], show_progress=False)
