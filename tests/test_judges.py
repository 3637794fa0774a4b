"""The judges of the benchmark of SFSL are able to learn, and are refused if they haven't learned."""

import importlib
from pathlib import Path

import pytest
import torch

from figureground.core.errors import FiguregroundError


@pytest.fixture
def judges(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parent.parent / "benchmarks")
    return importlib.import_module("biased")


def test_a_judge_that_has_learned_nothing_is_refused(judges, tmp_path):
    folder = judges.load_or_train("regnet", 0, tmp_path, settings=judges.Settings(pool=64, epochs=1))
    with pytest.raises(FiguregroundError, match="regnet"):
        judges.refuse_untrained({"regnet": folder}, 0, count=5)


def test_images_make_a_difference_to_every_untrained_judge(judges):
    torch.manual_seed(0)
    images = torch.rand(8, 3, 64, 64) * 2 - 1
    for name in judges.FAMILIES:
        with torch.no_grad():
            logits = judges.build(name).train()(images).logits
        assert logits.std(0).mean() > 0.01, name
