"""Curves: what is added is what is saved, restored and drawn; values that aren't finite are named with their step."""

import csv
import math
import sys
import weakref

import pytest
import torch
from PIL import Image

from figureground.core.errors import FiguregroundError
from figureground.core.files import FileError
from figureground.training.curves import FETCH_EVERY, Curves, NotFinite
from figureground.training.curves_file import read_curves

NAMES = ("total", "dreambooth", "gradient")


def filled(steps, names=NAMES):
    """Curves whose value i of step s is s + i/10."""
    curves = Curves(names)
    for step in range(1, steps + 1):
        curves.add(step + torch.arange(len(names)) / 10)
    return curves


def test_there_is_a_line_of_all_values_for_each_step(tmp_path):
    curves = filled(2)
    curves.add(torch.tensor([123456.789, 1e-9, 0.0]))
    curves.fetch()
    curves.write(tmp_path)
    assert (tmp_path / "curves.csv").read_text().splitlines() == [
        "step,total,dreambooth,gradient", "1,1,1.1,1.2", "2,2,2.1,2.2", "3,123457,1e-09,0",
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["curves.csv"]


def test_what_is_written_is_read_and_damage_is_named(tmp_path):
    curves = filled(3)
    curves.fetch()
    curves.write(tmp_path)
    path = tmp_path / "curves.csv"
    assert read_curves(path) == {"total": [1, 2, 3], "dreambooth": [1.1, 2.1, 3.1], "gradient": [1.2, 2.2, 3.2]}
    whole = path.read_text()
    for damaged in ("", whole[:-4], whole.replace("2.1", "nan"), whole.replace("2.1", "x")):
        path.write_text(damaged)
        with pytest.raises(FileError, match=r"curves\.csv"):
            read_curves(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_curves(path)


def test_names_with_commas_and_no_steps_at_all_are_a_table_too(tmp_path):
    Curves(("a, b", "c")).write(tmp_path)
    with (tmp_path / "curves.csv").open() as table:
        assert list(csv.reader(table)) == [["step", "a, b", "c"]]


def test_steps_count_from_the_moment_that_they_are_added_and_have_values_once_they_are_fetched():
    curves = filled(FETCH_EVERY - 1)
    assert len(curves) == FETCH_EVERY - 1
    assert curves.average_last(3) == {}
    curves.add(torch.full((3,), 7.0))  # the tenth fetches them all
    assert len(curves) == FETCH_EVERY
    assert curves.average_last(1) == dict.fromkeys(NAMES, 7.0)
    curves.add(torch.full((3,), 9.0))
    assert curves.average_last(1)["total"] == 7
    curves.fetch()
    assert curves.average_last(1)["total"] == 9
    assert len(curves) == FETCH_EVERY + 1


def test_added_values_are_kept_in_double_precision_without_their_graph():
    def watch(gradient):
        """Lives as long as the graph."""

    curves = Curves(("total",))
    loss = torch.tensor([0.1], dtype=torch.float64, requires_grad=True) * 3
    loss.register_hook(watch)
    graph = weakref.ref(watch)
    curves.add(loss)
    assert graph() is not None
    del loss, watch
    assert graph() is None
    state = curves.state()
    assert (state.dtype, state.tolist()) == (torch.float64, [[0.1 * 3]])


def test_latest_means_are_over_the_last_steps_or_all_if_there_are_fewer():
    curves = filled(20)
    assert curves.average_last(4) == pytest.approx({"total": 18.5, "dreambooth": 18.6, "gradient": 18.7})
    assert curves.average_last(100)["total"] == 10.5


@pytest.mark.parametrize(("steps", "last"), [(4, 1), (20, 2), (2500, 100)])
def test_at_the_end_a_tenth_of_the_steps_counts_but_at_least_one_and_at_most_a_hundred(steps, last):
    curves = Curves(("total",))
    curves.restore(torch.arange(1.0, steps + 1).double()[:, None])
    assert curves.summarise_end(steps) == {"steps": last, "total": steps - (last - 1) / 2}


def test_restored_curves_go_on_where_they_were_saved(tmp_path):
    whole, half = filled(13), filled(7)
    later = filled(FETCH_EVERY + 1)  # neither fetched steps nor others that it held before stay
    later.restore(half.state())
    assert len(later) == 7
    for step in range(8, 14):
        later.add(step + torch.arange(3) / 10)
    assert torch.equal(later.state(), whole.state())
    for name, curves in (("later", later), ("whole", whole)):
        curves.write(tmp_path / name)
    assert (tmp_path / "later" / "curves.csv").read_text() == (tmp_path / "whole" / "curves.csv").read_text()


def test_the_state_of_no_steps_restores_to_none():
    state = Curves(NAMES).state()
    assert state.shape == (0, 3)
    curves = filled(2)
    curves.restore(state)
    assert len(curves) == 0
    assert curves.summarise_end(100) == {"steps": 10}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_named_with_its_step_though_it_is_noticed_later(value):
    curves = filled(3)
    curves.add(torch.tensor([value, value, 1.0]))
    curves.add(torch.tensor([1.0, 1.0, value]))
    with pytest.raises(NotFinite, match=f"the dreambooth loss is {value} at step 4"):
        curves.fetch()
    assert len(curves) == 3


def test_it_is_noticed_without_being_asked_for_after_a_few_steps_and_before_saving():
    curves = filled(FETCH_EVERY - 1)
    with pytest.raises(NotFinite, match=f"at step {FETCH_EVERY}"):
        curves.add(torch.tensor([1.0, math.nan, 1.0]))
    curves = filled(1)
    curves.add(torch.tensor([1.0, math.nan, 1.0]))
    with pytest.raises(FiguregroundError, match="at step 2"):
        curves.state()


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (("total", "prior", "prior_weighted", "gradient"), "the prior loss is nan"),
        (("total", "prior", "sfsl", "gradient"), "the prior and sfsl losses are nan"),
        (("gradient",), "the gradient is nan"),
        (("total", "gradient"), "the total loss is nan"),
        (("sfsl_weighted",), "the total loss is nan"),
    ],
)
def test_the_error_names_the_losses_that_began_it(bad, problem):
    names = ("total", "prior", "prior_weighted", "sfsl", "sfsl_weighted", "gradient")
    error = NotFinite({name: math.nan if name in bad else 1.0 for name in names}, 12)
    assert str(error) == f"{problem} at step 12."


def test_the_value_that_it_says_is_that_of_the_loss_it_names():
    values = {"total": math.inf, "prior": math.nan, "prior_weighted": math.inf, "gradient": math.inf}
    assert str(NotFinite(values, 3)) == "the prior loss is nan at step 3."


@pytest.mark.parametrize(("curves", "across", "down"), [(1, 1, 1), (4, 4, 1), (5, 4, 2)])
def test_curves_are_drawn_beside_each_other_four_in_a_row(tmp_path, curves, across, down):
    pytest.importorskip("matplotlib")
    filled(60, [f"loss_{i}" for i in range(curves)]).draw(tmp_path)
    assert Image.open(tmp_path / "curves.png").size == (round(3.2 * across * 110), round(2.6 * down * 110))


@pytest.mark.parametrize("steps", [0, 1])
def test_a_drawing_of_hardly_any_steps_is_one_too(tmp_path, steps):
    pytest.importorskip("matplotlib")
    filled(steps).draw(tmp_path)
    Image.open(tmp_path / "curves.png").verify()


def test_without_matplotlib_nothing_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    filled(2).draw(tmp_path)
    assert not list(tmp_path.iterdir())
