"""Fixtures of the tests of separation: a drawn set, a backbone, and runs of one seed."""

import pytest
from drawn_datasets import make_drawn
from tiny_classifiers import make_classifier
from tiny_separations import BACKGROUNDS, FOREGROUNDS, SPLITS, tiny

from figureground.disentangling.training import disentangle


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """A finished set of two classes on two backgrounds, 16 px."""
    return make_drawn(
        tmp_path_factory.mktemp("sets") / "drawn", foregrounds=FOREGROUNDS, backgrounds=BACKGROUNDS, splits=SPLITS,
        per_cell=lambda split, f, b: SPLITS[split], size=16, mask=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    """A small ResNet with 16 pooled features, saved as transformers does."""
    return make_classifier(tmp_path_factory.mktemp("backbones") / "resnet")


@pytest.fixture
def run(drawn, backbone, tmp_path):
    """Run a separation on `drawn` for one seed; give its report."""

    def run(method="hsic", out="run", data=drawn, **settings):
        options = {"seeds": 1, "device": "cpu", "show_progress": False, "backbone": str(backbone), **settings}
        return disentangle(data, tmp_path / out, method, **options)

    return run


@pytest.fixture(scope="session")
def finished(drawn, backbone, tmp_path_factory):
    """Run a method with `tiny` settings on `drawn`, once; give its directory, which tests leave as it is."""
    done = {}

    def finish(method):
        if method not in done:
            out = tmp_path_factory.mktemp(method) / "run"
            disentangle(
                drawn, out, method, seeds=1, device="cpu", show_progress=False, backbone=str(backbone), **tiny(method)
            )
            done[method] = out
        return done[method]

    return finish
