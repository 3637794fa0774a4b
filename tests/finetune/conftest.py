"""Tiny checkpoints, references and a learned token. Tests that change one make their own."""

import json
import shutil

import pytest
from shared_fixtures import checkpoints, one_thread, sd1  # noqa: F401
from tiny_references import make_references
from tiny_tokens import learn
from tiny_transformers import make_transformer


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder of four."""
    return make_references(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def mug(one_thread, sd1, images, tmp_path_factory):  # noqa: F811
    """A finished token."""
    return learn(sd1, images, tmp_path_factory.mktemp("tokens") / "mug")


@pytest.fixture(scope="session")
def flows(tmp_path_factory):
    """By family of flow matching that can be trained, a checkpoint; `sd3-alone` lacks its T5."""
    made = {kind: make_transformer(kind, tmp_path_factory.mktemp(kind)) for kind in ("sd3", "flux")}
    alone = shutil.copytree(made["sd3"], tmp_path_factory.mktemp("alone") / "sd3-alone")
    index = json.loads((alone / "model_index.json").read_text())
    absent = {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    (alone / "model_index.json").write_text(json.dumps({**index, **absent}))
    return {**made, "sd3-alone": alone}
