"""A configuration of a few lines that asks for more than its weights can be."""

import json
import time

import pytest
from tiny_checkpoints import make_checkpoint
from tiny_classifiers import make_classifier

from figureground.core.errors import FiguregroundError
from figureground.models.opening import refuse_code
from figureground.vision.classifiers import open_classifier

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return make_classifier(tmp_path_factory.mktemp("models") / "classifier")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint("sd1", tmp_path_factory.mktemp("models") / "sd1")


@pytest.fixture
def edited():
    """Set entries of a JSON file, and take that back."""
    before = {}

    def edit(path, **entries):
        before.setdefault(path, path.read_text())
        path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))

    yield edit
    for path, text in before.items():
        path.write_text(text)


@pytest.mark.parametrize("entries", [
    {"depths": [1, 1_000_000, 1, 1]}, {"num_hidden_layers": 10**6}, {"num_labels": 10**9}, {"hidden_sizes": [10**7]},
    {"text_config": {"num_hidden_layers": 1e6}}, {"image_size": 10**6},
])  # fmt: skip
def test_a_classifier_that_asks_for_more_than_its_weights_is_refused_by_entry(classifier, edited, entries):
    edited(classifier / "config.json", **entries)
    start = time.process_time()
    name = next(iter(entries.get("text_config", entries)))
    with pytest.raises(FiguregroundError, match=rf"config\.json asks for {name}"):
        open_classifier(str(classifier))
    assert time.process_time() - start < 5


@pytest.mark.parametrize(("part", "entries"), [
    ("unet/config.json", {"layers_per_block": 10**6}), ("text_encoder/config.json", {"num_hidden_layers": 10**6}),
    ("vae/config.json", {"block_out_channels": [10**8]}),
    ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**10}),
])  # fmt: skip
def test_a_part_of_a_checkpoint_that_asks_for_more_than_its_weights_is_refused_by_entry(
    checkpoint, edited, part, entries
):
    edited(checkpoint / part, **entries)
    with pytest.raises(FiguregroundError, match=rf"{part} asks for {next(iter(entries))}"):
        refuse_code(checkpoint, "checkpoint 'mine'")


def test_a_configuration_that_is_nested_deeply_is_refused_by_file(classifier, edited):
    edited(classifier / "config.json")
    (classifier / "config.json").write_text("[" * 100_000)
    with pytest.raises(FiguregroundError, match=r"config\.json"):
        open_classifier(str(classifier))


def test_models_that_are_whole_pass(classifier, checkpoint):
    refuse_code(classifier, "classifier 'mine'")
    refuse_code(checkpoint, "checkpoint 'mine'")
