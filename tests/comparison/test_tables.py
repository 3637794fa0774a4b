"""Results of a comparison: its tables and its chart."""

import pytest
from PIL import Image

from figureground.comparison.rows import Row
from figureground.comparison.tables import summarise, summarise_row, tabulate, to_markdown, write
from figureground.learn.settings import IN_VALIDATION

BOTH = {"first": 20, "main": 60}
"""Optimiser steps of the two models of jtt."""

JTT = ({"precision": 0.5, "recall": 1.0}, {"precision": 0.6, "recall": 0.5})


def result(seed, accuracies, **more):
    groups = [
        {"name": name, "accuracy": accuracy, "images": 1200, "train": n}
        for name, accuracy, n in zip(("cat × bed", "cat × sofa"), accuracies, (90, 10), strict=True)
    ]
    test = {"average": sum(accuracies) / 2, "reweighted": 0.9 * accuracies[0] + 0.1 * accuracies[1],
            "worst": min(accuracies), "worst_name": "cat × sofa", "groups": groups}  # fmt: skip
    return {"seed": seed, "epoch": 3, "steps": {"main": 60}, "model": f"erm-seed-{seed}", "seconds": 1.0, "test": test,
            "validation": {"average": 0.5, "worst": 0.5}, **more}  # fmt: skip


@pytest.fixture
def small():
    made = [{"directory": f"ddb-seed-{seed}-pruned", "images": 1600, "kept": kept, "rule": "True", "seconds": 5.0}
            for seed, kept in ((0, 0.75), (1, 0.85))]  # fmt: skip
    rows = [
        summarise_row(Row("erm", None, "erm"), [result(0, (0.99, 0.50)), result(1, (0.99, 0.60))], [IN_VALIDATION]),
        summarise_row(Row("jtt", None, "jtt"), [result(seed, (0.95, 0.70), jtt=jtt, steps=BOTH)
                                                for seed, jtt in enumerate(JTT)]),
        summarise_row(Row("ddb", "ddb", "erm"), [result(0, (0.97, 0.80), added=1200, made=made[0]),
                                                 result(1, (0.97, 0.84), added=1360, made=made[1])]),
    ]  # fmt: skip
    about = {"data": "birds", "backbone": "pocket", "selection": "worst group", "classes": ["cat"],
             "attributes": ["bed", "sofa"], "images": {"train": 100, "validation": 2400, "test": 2400}}  # fmt: skip
    return summarise(about, [0, 1], rows, ["Not done yet: scgs."])


def test_the_table_reads_so(small):
    assert (
        tabulate(small)
        == """\
birds, pocket, 2 seeds, mean ± sample standard deviation; epochs chosen by the worst group of validation

test accuracy, %     average  re-weighted average  worst group    steps  added        kept  JTT precision   JTT recall                   uses
erm               77.0 ± 3.5           94.6 ± 0.7   55.0 ± 7.1       60      –           –              –            –  validation attributes
jtt               82.5 ± 0.0           92.5 ± 0.0   70.0 ± 0.0  20 + 60      –           –     55.0 ± 7.1  75.0 ± 35.4                      –
ddb               89.5 ± 1.4           95.5 ± 0.3   82.0 ± 2.8       60  1,280  80.0 ± 7.1              –            –                      –

by group, %  cat × bed (1,200)  cat × sofa (1,200)
erm                 99.0 ± 0.0          55.0 ± 7.1
jtt                 95.0 ± 0.0          70.0 ± 0.0
ddb                 97.0 ± 0.0          82.0 ± 2.8

note: Not done yet: scgs."""  # noqa: E501
    )


def test_the_same_as_markdown_and_as_a_drawing(small, tmp_path):
    lines = to_markdown(small).splitlines()
    assert lines[2].endswith("| worst group | steps | added | kept | JTT precision | JTT recall | uses |")
    assert lines[3] == f"| --- {'| ---: ' * 9}|"
    assert lines[6].startswith("| ddb | 89.5 ± 1.4 | 95.5 ± 0.3 | 82.0 ± 2.8 | 60 | 1,280 | 80.0 ± 7.1 |")
    assert lines[-1] == "- Not done yet: scgs."
    write(tmp_path, small)
    pytest.importorskip("matplotlib")
    assert Image.open(tmp_path / "comparison.png").width > 400
    assert not list(tmp_path.glob(".*"))
