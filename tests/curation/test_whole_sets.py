"""The images of one object on all its backgrounds are kept or dropped together."""

import json

import pytest
from commands import run
from tiny_datasets import make_dataset

from figureground.checking.dataset import check
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.curation.curating import DROPPED, DROPPED_WITH_SET, curate
from figureground.curation.rule import RuleError
from figureground.recipe.sample import make_key
from figureground.shards.finished import FinishedDataset, read_finished_index


def matched(directory, rejected=()):
    """Write the tiny dataset with a recipe that matches images of one object."""
    made = make_dataset(directory, rejected=rejected)
    path = directory / "_figureground/recipe.json"
    recipe = json.loads(path.read_text())
    recipe["identity"]["match"] = "foreground"
    path.write_text(json.dumps(recipe))
    return made


def sets(directory):
    """Keys by set."""
    found = {}
    source = FinishedDataset(directory)
    for shard in source.shards:
        for row in source.rows(shard):
            split, foreground, _, i = row["key"].split("-")
            found.setdefault((split, foreground, i), set()).add(row["key"])
    return found


@pytest.fixture
def source(tmp_path, monkeypatch):
    """The tiny dataset numbers images one by one; here, those of a foreground among six in a row show one object."""
    import tiny_datasets

    monkeypatch.setattr(tiny_datasets, "make_key", lambda split, f, b, i: make_key(split, f, b, i // 6))
    return matched(tmp_path / "in")


def test_a_set_is_kept_if_the_rule_keeps_all_of_it(source, tmp_path):
    before = sets(source)
    assert max(map(len, before.values())) == 3
    out = curate(source, tmp_path / "out", "background != 'night' or seed > 2", whole_sets=True, show_progress=False)
    after = sets(out)
    assert after == {name: keys for name, keys in before.items() if name in after}
    plain = curate(source, tmp_path / "plain", "background != 'night' or seed > 2", show_progress=False)
    left = sets(plain)
    assert set(after) == {name for name, keys in before.items() if left.get(name) == keys}
    assert set(after) < set(before)
    rejects = read_finished_index(out)["rejects"]
    assert set(rejects) == {DROPPED, DROPPED_WITH_SET}
    assert check(out, show_progress=False).findings == []
    [step] = FinishedDataset(out).facts.lineage
    assert (step["sets_kept"], step["sets_dropped"]) == (len(after), len(before) - len(after))
    assert f"sets dropped {step['sets_dropped']}" in (out / "README.md").read_text()


def test_a_set_that_lacks_an_image_is_not_whole(tmp_path, monkeypatch):
    import tiny_datasets

    monkeypatch.setattr(tiny_datasets, "make_key", lambda split, f, b, i: make_key(split, f, b, i // 6))
    lost = make_key("train", 0, 1, 0)
    source = matched(tmp_path / "in", rejected={lost})
    out = curate(source, tmp_path / "out", "strength > 0", whole_sets=True, show_progress=False)
    assert ("train", "0000", "00000") in sets(source)
    assert set(sets(source)) - set(sets(out)) == {("train", "0000", "00000")}


def test_a_rule_that_keeps_no_whole_set_is_refused(source, tmp_path):
    with pytest.raises(RuleError, match="no whole set"):
        curate(source, tmp_path / "out", "background == 'night' and seed < 5", whole_sets=True, show_progress=False)
    assert not (tmp_path / "out").exists()


def test_a_dataset_without_matched_sets_is_refused(tmp_path):
    source = make_dataset(tmp_path / "in")
    with pytest.raises(RecipeError, match=r"--whole-sets.*match: foreground"):
        curate(source, tmp_path / "out", "strength > 0", whole_sets=True)
    code, _, err = run("curate", str(source), "--out", str(tmp_path / "out"), "--keep", "seed > 0", "--whole-sets")
    assert code == 2
    assert "--whole-sets" in err


def test_a_copy_with_sets_and_one_without_are_not_mixed(source, tmp_path):
    curate(source, tmp_path / "out", "strength > 0", whole_sets=True, show_progress=False)
    with pytest.raises(FiguregroundError, match="whole_sets"):
        curate(source, tmp_path / "out", "strength > 0", show_progress=False)


def test_evidence_is_in_lineage_and_card(source, tmp_path):
    evidence = {"target_wrong": 0.02, "wrong_among_kept": 0.01, "interval_95": [0.001, 0.05]}
    out = curate(source, tmp_path / "out", "strength > 0", evidence=evidence, show_progress=False)
    [step] = FinishedDataset(out).facts.lineage
    assert {name: step[name] for name in evidence} == evidence
    text = (out / "README.md").read_text()
    assert "wrong among kept `0.01`" in text
    assert "interval 95 `[0.001, 0.05]`" in text
