"""Early stopping: the rule, what it reads, and that the weights of the best look are those that are kept."""

import csv
import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_classifiers import make_classifier
from tiny_references import make_references, tiny

from figureground.core.errors import FiguregroundError, RecipeError
from figureground.finetune import stopping
from figureground.finetune.concept_run import ConceptRun
from figureground.finetune.dreambooth import finetune
from figureground.finetune.stopping import Evaluations, measure_evaluation

QUIET = {"device": "cpu", "show_progress": False}

pytestmark = pytest.mark.usefixtures("one_thread")


def looks(values, patience=2):
    found = Evaluations(patience)
    better = [found.add(10 * (i + 1), value) for i, value in enumerate(values)]
    return found, better


def test_training_stops_after_looks_without_a_better_one_and_the_first_best_counts():
    found, better = looks([0.1, 0.4, 0.3, 0.4])
    assert better == [True, True, False, False]
    assert (found.best_step, found.should_stop) == (20, True)
    assert not looks([0.1, 0.4, 0.3])[0].should_stop
    assert not looks([0.4, 0.3, 0.35, 0.5])[0].should_stop  # better than the first after all
    assert looks([0.4, 0.3], patience=1)[0].should_stop
    assert (Evaluations(2).best_step, Evaluations(2).should_stop) == (None, False)


def test_what_looks_like_the_references_is_better_than_the_prior_and_the_class_gains_nothing_by_its_direction():
    prior = torch.tensor([[5.0, 5.0, 5.0], [5.0, 7.0, 5.0]])  # mean (5, 6, 5)
    references = torch.tensor([[9.0, 6.0, 8.0], [9.0, 6.0, 8.0]])  # towards the class by 4, by 3 their own
    of_class = torch.tensor([[9.0, 6.0, 5.0], [7.0, 6.0, 5.0]])
    mixed = torch.tensor([[9.0, 6.0, 6.0]])
    assert measure_evaluation(references, references, prior, None) == pytest.approx(1)
    assert measure_evaluation(of_class, references, prior, None) == pytest.approx(0.8)
    assert measure_evaluation(mixed, references, prior, None) > 0.9
    assert measure_evaluation(references, references, prior, of_class) == pytest.approx(1)
    assert measure_evaluation(of_class, references, prior, of_class) == pytest.approx(0)
    with pytest.raises(FiguregroundError, match="on average the same as the prior images"):
        measure_evaluation(mixed, references, prior, prior)


@pytest.fixture(scope="module")
def made(sd1, tmp_path_factory):
    """References, a feature network, and prior images, which several fine-tunings share."""
    folder = tmp_path_factory.mktemp("made")
    return make_references(folder / "references"), make_classifier(folder / "network"), folder / "prior"


def settings(sd1, network, **changes):
    stop = {"early_stopping": "similarity", "stop_every": 2, "stop_images": 2, "stop_patience": 1}
    return tiny(sd1, feature_model=str(network), **{"max_train_steps": 8, **stop, **changes})


def weights(out):
    files = sorted((out / "checkpoint").rglob("*.safetensors"))
    return {f"{f.parent.name}:{n}": t for f in files for n, t in load_file(f).items()}


def read_concept(out):
    return json.loads((out / "concept.json").read_text())


def values(monkeypatch, *given):
    """Looks that give these values, drawing as they do otherwise."""
    left = list(given)

    def say(*features):
        assert -1 <= measure_evaluation(*features) <= 1
        return left.pop(0)

    monkeypatch.setattr(stopping, "measure_evaluation", say)
    return left


def test_the_weights_of_the_best_look_are_kept_as_a_run_of_so_many_steps_has_them(sd1, made, tmp_path, monkeypatch):
    references, network, prior = made
    left = values(monkeypatch, 0.1, 0.5, 0.4, 0.9)
    given = settings(sd1, network)
    out = finetune(references, "flower", "hummingbird", tmp_path / "stopped", given, prior=prior, **QUIET)
    facts = read_concept(out)
    assert facts["early_stopping"] == {
        "rule": "similarity", "kept_step": 4, "trained_steps": 6, "looks": [[2, 0.1], [4, 0.5], [6, 0.4]],
    }  # fmt: skip
    assert left == [0.9]
    assert facts["steps"] == 4
    assert len(list(csv.DictReader((out / "curves.csv").open()))) == 6
    plain = tiny(sd1, max_train_steps=4)
    four = finetune(references, "flower", "hummingbird", tmp_path / "four", plain, prior=prior, **QUIET)
    assert all(torch.equal(value, weights(out)[name]) for name, value in weights(four).items())


def test_a_run_that_goes_on_after_a_kill_remembers_its_looks_and_its_best_weights(sd1, made, tmp_path, monkeypatch):
    references, network, prior = made
    given = settings(sd1, network, save_every=4, early_stopping="without-class", class_images=3, ema=0.9)
    folder = tmp_path / "class"

    def learn(out):
        return finetune(
            references, "flower", "hummingbird", out, given, prior=prior, class_folder=folder, **QUIET
        )  # fmt: skip

    values(monkeypatch, 0.5, 0.1)
    whole = learn(tmp_path / "whole")
    assert read_concept(whole)["early_stopping"]["kept_step"] == 2
    assert read_concept(whole)["class_images"]["images"] == 3
    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        values(patch, 0.5, 0.1)
        patch.setattr(ConceptRun, "_finish", lambda self: None)
        learn(out)
    assert not (out / "concept.json").exists()
    values(monkeypatch)  # no look more is needed
    learn(out)
    assert read_concept(out)["early_stopping"] == read_concept(whole)["early_stopping"]
    assert all(torch.equal(value, weights(out)[name]) for name, value in weights(whole).items())


def test_looks_draw_and_measure_the_same_each_time_and_plain_dreambooth_may_stop_early_too(sd1, made, tmp_path):
    references, network, prior = made
    given = settings(sd1, network, max_train_steps=2)
    outs = [
        finetune(references, "flower", "hummingbird", tmp_path / str(i), given, prior=prior, **QUIET) for i in range(2)
    ]
    first, second = (read_concept(out)["early_stopping"]["looks"] for out in outs)
    assert first == second
    assert [step for step, _ in first] == [2]
    assert read_concept(outs[0])["feature_model"]["name"] == "network"
    assert "sfsl" not in read_concept(outs[0])["losses"]


def test_the_classs_direction_changes_what_is_learned_and_own_images_of_the_class_are_part_of_the_inputs(
    sd1, made, tmp_path
):
    references, network, prior = made
    own = make_references(tmp_path / "hens", 3, edge=50)
    hashes = {}
    for direction in (None, "head", "images"):
        given = tiny(sd1, max_train_steps=2, sfsl_weight=5.0, feature_model=str(network), class_direction=direction)
        out = tmp_path / str(direction)
        finetune(references, "flower", "hen", out, given, prior=prior, class_folder=own, **QUIET)
        hashes[direction] = read_concept(out)["sha256"]
        assert (out / "class").exists() is False
    assert len(set(hashes.values())) == 3
    assert read_concept(tmp_path / "images")["class_images"] == {
        "images": 3, "drawn": False, "sha256": read_concept(tmp_path / "images")["class_images"]["sha256"],
    }  # fmt: skip
    next(iter(sorted(own.iterdir()))).unlink()
    with pytest.raises(FiguregroundError, match="class_images_content: "):
        finetune(references, "flower", "hen", tmp_path / "images", given, prior=prior, class_folder=own, **QUIET)


def test_a_class_folder_that_is_a_file_is_refused(sd1, made, tmp_path):
    references, network, _ = made
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match=r"class_folder: .* is a file; give a directory"):
        finetune(
            references, "flower", "hen", tmp_path / "c", settings(sd1, network), class_folder=tmp_path / "file", **QUIET
        )
