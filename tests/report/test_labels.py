"""The page's section on the labels of the whole dataset."""

import json
import re

import pytest
from tiny_datasets import make_dataset

from figureground.annotation.answers import ANNOTATIONS, make_header
from figureground.annotation.labels import summarise
from figureground.report.sheet import write_sheet
from figureground.shards.finished import FinishedDataset
from figureground.shards.shard import Shard


def answered(out, wrong, people=("ann", "bob", "cem")):
    """Have people answer about all images; each calls every `wrong`-th foreground wrong, beginning somewhere else."""
    dataset = FinishedDataset(out)
    keys = [row["key"] for shard in dataset.shards for row in dataset.rows(shard)]
    for begin, name in enumerate(people):
        lines = [make_header(dataset.identity(), name)]
        for n, key in enumerate(keys, 1):
            answer = "no" if (n + begin) % wrong == 0 else "yes"
            lines.append(
                {"n": n, "key": key, "question": "foreground", "answer": answer, "time": "2026-01-05T10:00:00Z"}
            )
        path = out / ANNOTATIONS / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return out


def section(out):
    """Return what a reader sees of the section about labels, and of the notes."""
    write_sheet(out)
    page = (out / "report.html").read_text()
    notes, labels = (re.search(f"<{each}.*?</{tag}>", page, re.DOTALL) for each, tag in (
        ('ul class="notes"', "ul"), ('section id="labels"', "section")))  # fmt: skip
    return " ".join(re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", each[0])) for each in (notes, labels) if each)


def test_shares_agreement_and_rules_are_reported_with_why_alpha_is_low(tmp_path):
    out = answered(make_dataset(tmp_path / "set", shards=(Shard("train", 0, 1, 60),)), 30)
    summary = summarise(out)
    text = section(out)
    question, share = summary["people"]["questions"]["foreground"], summary["shares"][0]["people"]
    assert "3 people gave 180 answers about 60 images of train" in text
    assert f"people {100 * share['value']:.1f} % ({100 * share['low']:.1f} to {100 * share['high']:.1f})" in text
    assert (
        f"Krippendorff’s α {question['agreement']['alpha']:.2f}, Gwet’s AC1 {question['agreement']['ac1']:.2f}" in text
    )
    assert "α is low by construction" in text
    assert f"unanimous the answers there are {100 * question['rules']['unanimous']['kept']:.1f} %" in text
    for part in ("by split", "by foreground", "by background", "by cell"):
        assert part in text
    assert "ann" not in re.findall(r"\w+", text)


def test_a_single_person_gives_shares_without_agreement(tmp_path):
    out = answered(make_dataset(tmp_path / "set"), 5, people=("ann",))
    summarise(out)
    text = section(out)
    assert "1 person gave 22 answers" in text
    assert "not computable:" in text
    assert "Krippendorff" not in text


def test_nobody_has_looked(tmp_path):
    out = make_dataset(tmp_path / "set")
    assert "No person has looked at this set." in section(out)


def test_answers_that_were_not_summed_up_yet_are_mentioned(tmp_path):
    text = section(answered(make_dataset(tmp_path / "set"), 5))
    assert "No person has looked" not in text
    assert "figureground review DIR --summary" in text


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "labels.json can&#39;t be used"),
        ('{"people": 3}', "dataset"),
        ('{"dataset": {}, "people": null, "shares": [], "scorers": {}}', "describes other images"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, content, named):
    out = make_dataset(tmp_path / "set")
    (out / "_figureground/labels.json").write_text(content)
    text = section(out)
    assert "labels.json" in text
    assert named in text
