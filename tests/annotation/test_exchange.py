import csv
import io
import json
import xml.etree.ElementTree as ElementTree

import commands
import pytest
from PIL import Image

from figureground.annotation.answers import ANNOTATIONS, read_answers
from figureground.annotation.assignment import Turns
from figureground.annotation.exchange.exchange import EXCHANGES, export, import_results
from figureground.annotation.exchange.mturk import as_utc
from figureground.annotation.exchange.mturk import read_answers as read_mturk
from figureground.annotation.sampling import Wanted, draw, reference_keys
from figureground.core.errors import FiguregroundError, UsageError
from figureground.shards.finished import FinishedDataset

URL = "https://example.org/images"


def exported(directory, out, name, **settings):
    dataset = FinishedDataset(directory)
    sample = draw(dataset, Wanted(**settings), reference_keys(dataset))
    export(dataset, sample, name, out, URL)
    return dataset, Turns(dataset, sample)


def batch(out) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((out / "batch.csv").read_text())))


def results(path, rows: list[dict[str, str]]):
    """Write results as the requester's site gives them."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def assignment(task: dict[str, str], worker: str, **answers: str) -> dict[str, str]:
    return {
        "HITId": "H", "AssignmentStatus": "Submitted", "WorkerId": worker, "SubmitTime": "Tue Mar 10 09:12:33 PDT 2026",
        "WorkTimeInSeconds": "12", **{f"Input.{name}": value for name, value in task.items()},
        **{f"Answer.{name}": value for name, value in answers.items()},
    }  # fmt: skip


# Mechanical Turk


def test_a_batch_names_each_image_and_the_layout_uses_its_columns(directory, tmp_path):
    out = tmp_path / "out"
    _, turns = exported(directory, out, "mturk", images=9)
    rows = batch(out)
    assert {row["image_id"] for row in rows} == set(turns.keys)
    assert {row["image_url"] for row in rows} == {f"{URL}/{id}.png" for id in turns.keys}
    assert "Is there a bird?" in {row["foreground"] for row in rows}
    layout = (out / "layout.html").read_text()
    for column in ("image_url", "foreground", "background", "foreground_asked"):
        assert "${" + column + "}" in layout
        assert column in rows[0]
    assert layout.count('type="radio"') == 6
    for id, key in turns.keys.items():
        with Image.open(out / "images" / f"{id}.png") as image:
            assert image.size == (16, 16)
        assert key not in (out / "batch.csv").read_text()


def test_a_question_that_not_every_image_has_is_marked(repainted, tmp_path):
    exported(repainted, tmp_path / "out", "mturk")
    rows = batch(tmp_path / "out")
    assert {(row["background_asked"], bool(row["background"])) for row in rows} == {("yes", True), ("no", False)}


def test_references_cannot_be_recognised_by_their_row(spurious, tmp_path):
    exported(spurious, tmp_path / "out", "mturk")
    rows = batch(tmp_path / "out")
    assert len(rows) == 24
    assert len({tuple(row[name] for name in row if name.startswith("photograph")) for row in rows}) == 1
    assert "reference" not in (tmp_path / "out" / "batch.csv").read_text()


def test_labels_are_escaped_where_the_layout_pastes_them(tmp_path):
    from tiny_datasets import COLUMNS, make_dataset

    columns = type(COLUMNS)(("<img src=x onerror=alert(1)>", "cat"), ("grass", "snow"))
    exported(make_dataset(tmp_path / "set", columns=columns), tmp_path / "out", "mturk")
    assert "<img" not in (tmp_path / "out" / "batch.csv").read_text()


def test_results_become_answers_of_each_worker_once(directory, tmp_path):
    out = tmp_path / "out"
    dataset, turns = exported(directory, out, "mturk", images=3)
    first, second, third = batch(out)
    path = results(tmp_path / "Batch_results.csv", [
        assignment(first, "A1", foreground="yes", background="no", unsafe="yes"),
        assignment(first, "A2", **{"foreground.yes": "true", "foreground.no": "false", "background.unsure": "true"}),
        assignment(second, "A1", taskAnswers='[{"foreground":{"yes":false,"no":true},"artefacts":{"yes":true}}]'),
        {**assignment(third, "A1", foreground="no"), "AssignmentStatus": "Rejected"},
        assignment(third, "A3"),
    ])  # fmt: skip
    done = import_results(dataset, path)
    assert (done.saved, done.duplicates, done.annotators) == (7, 0, ["A1", "A2"])
    assert done.left_out == {"rejected": 1, "without an answer": 1}
    found = {(each.annotator, each.key, each.question): each for each in read_answers(directory)}
    one, two = turns.keys[first["image_id"]], turns.keys[second["image_id"]]
    assert {place: each.answer for place, each in found.items()} == {
        ("A1", one, "foreground"): "yes", ("A1", one, "background"): "no", ("A1", one, "unsafe"): "yes",
        ("A2", one, "foreground"): "yes", ("A2", one, "background"): "unsure",
        ("A1", two, "foreground"): "no", ("A1", two, "artefacts"): "yes",
    }  # fmt: skip
    assert found["A1", one, "foreground"].time == "2026-03-10T16:12:33Z"
    assert found["A1", one, "foreground"].seconds == 4
    again = import_results(dataset, path)
    assert (again.saved, again.duplicates) == (0, 7)


def test_a_worker_who_answered_twice_is_counted_by_the_later_answer_however_often_it_is_imported(directory, tmp_path):
    out = tmp_path / "out"
    dataset, _ = exported(directory, out, "mturk", images=1)
    task = batch(out)[0]
    path = results(tmp_path / "r.csv", [
        {**assignment(task, "A1", foreground="yes"), "SubmitTime": "Tue Mar 10 10:00:00 PST 2026"},
        {**assignment(task, "A1", foreground="no"), "SubmitTime": "Tue Mar 10 09:00:00 PST 2026"},
    ])  # fmt: skip
    for saved in (2, 0):
        assert import_results(dataset, path).saved == saved
        assert [each.answer for each in read_answers(directory)] == ["yes"]


def test_results_imported_late_do_not_replace_a_newer_answer(directory, tmp_path):
    out = tmp_path / "out"
    dataset, _ = exported(directory, out, "mturk", images=1)
    task = batch(out)[0]
    older = {**assignment(task, "A1", foreground="yes"), "SubmitTime": "Tue Mar 10 09:00:00 PST 2026"}
    newer = {**assignment(task, "A1", foreground="no"), "SubmitTime": "Tue Mar 10 10:00:00 PST 2026"}
    assert import_results(dataset, results(tmp_path / "newer.csv", [newer])).saved == 1
    for path in (results(tmp_path / "older.csv", [older]), results(tmp_path / "both.csv", [older, newer])):
        late = import_results(dataset, path)
        assert (late.saved, late.left_out) == (0, {"older than the saved answer": 1})
        assert [each.answer for each in read_answers(directory)] == ["no"]
    assert late.duplicates == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"Input.dataset": "0" * 64}, "another dataset"), ({"Input.image_id": "nothing"}, "nothing"),
        ({"Answer.foreground": "maybe"}, "maybe"), ({"WorkerId": "../../x"}, "x"),
        ({"Answer.taskAnswers": "{"}, "taskAnswers"),
        ({"Answer.foreground": "", "Answer.foreground.yes": "true", "Answer.foreground.no": "true"}, "foreground"),
    ],
)  # fmt: skip
def test_results_that_cannot_be_are_named_and_nothing_is_saved(directory, tmp_path, change, named):
    out = tmp_path / "out"
    dataset, _ = exported(directory, out, "mturk", images=2)
    good, bad = (assignment(task, "A1", foreground="yes") for task in batch(out))
    path = results(tmp_path / "r.csv", [good, {**bad, **change}])
    with pytest.raises(FiguregroundError, match=named):
        import_results(dataset, path)
    assert read_answers(directory) == []


def test_a_table_that_is_no_batch_lacks_a_column(directory, tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("WorkerId,Answer.foreground\nA1,yes\n")
    with pytest.raises(FiguregroundError, match=r"Input\.image_id"):
        import_results(FinishedDataset(directory), path)


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("Tue Mar 10 09:12:33 PDT 2026", "2026-03-10T16:12:33Z"),
        ("2026-03-10T09:12:33.5+02:00", "2026-03-10T07:12:33Z"),
        ("2026-03-10T09:12:33Z", "2026-03-10T09:12:33Z"), ("yesterday", None), ("", None),
    ],
)  # fmt: skip
def test_times_become_utc(text, utc):
    assert as_utc(text) == utc


def test_a_cell_of_json_may_be_flat():
    row = {"Answer.taskAnswers": '[{"foreground.no": true, "foreground.yes": false, "unsafe.yes": false}]'}
    assert read_mturk(row, "line 2") == {"foreground": "no"}


# Label Studio


def test_tasks_fit_their_configuration(directory, tmp_path):
    out = tmp_path / "out"
    _, turns = exported(directory, out, "label-studio", images=5)
    tasks = json.loads((out / "tasks.json").read_text())
    config = ElementTree.fromstring((out / "config.xml").read_text())
    fields = {each.get("value").removeprefix("$") for each in config if each.tag in ("Image", "Header")}
    assert all(fields <= set(task["data"]) for task in tasks)
    assert {task["data"]["image_id"] for task in tasks} == set(turns.keys)
    names = {each.get("name"): [choice.get("value") for choice in each] for each in config if each.tag == "Choices"}
    assert names == {
        "foreground": ["yes", "no", "unsure"], "background": ["yes", "no", "unsure"], "flags": ["unsafe", "artefacts"],
    }  # fmt: skip


def annotated(task: dict, by, cancelled: bool = False, **choices: list[str]) -> dict:
    """A task as Label Studio exports it."""
    result = [
        {"id": "x", "from_name": name, "to_name": "image", "type": "choices", "value": {"choices": value}}
        for name, value in choices.items()
    ]
    return {
        "id": 1, **task, "predictions": [],
        "annotations": [{"id": 7, "completed_by": by, "result": result, "was_cancelled": cancelled, "lead_time": 3.0,
                         "created_at": "2026-03-09T22:16:08.728353Z"}],
    }  # fmt: skip


def test_an_export_of_label_studio_becomes_answers(directory, tmp_path):
    out = tmp_path / "out"
    dataset, turns = exported(directory, out, "label-studio", images=3)
    first, second, third = json.loads((out / "tasks.json").read_text())
    path = tmp_path / "export.json"
    path.write_text(json.dumps([
        annotated(first, 3, foreground=["yes"], background=["no"], flags=["artefacts"]),
        annotated(first, {"id": 4, "email": "bo@example.org"}, foreground=["unsure"], mine=["a", "b"]),
        annotated(second, 3, cancelled=True),
        annotated(third, 3),
    ]))  # fmt: skip
    done = import_results(dataset, path)
    assert (done.saved, done.left_out) == (4, {"skipped": 1, "without an answer": 1})
    assert {
        (each.annotator, each.question, each.answer, each.time, each.seconds) for each in read_answers(directory)
    } == {
        ("label-studio-3", "foreground", "yes", "2026-03-09T22:16:08Z", 1.0),
        ("label-studio-3", "background", "no", "2026-03-09T22:16:08Z", 1.0),
        ("label-studio-3", "artefacts", "yes", "2026-03-09T22:16:08Z", 1.0),
        ("bo@example.org", "foreground", "unsure", "2026-03-09T22:16:08Z", 3.0),
    }
    assert {each.key for each in read_answers(directory)} == {turns.keys[first["data"]["image_id"]]}
    assert import_results(dataset, path).saved == 0


def test_a_flag_that_an_annotator_has_taken_back_is_unset_by_the_newer_export(directory, tmp_path):
    out = tmp_path / "out"
    dataset, _ = exported(directory, out, "label-studio", images=1)
    (task,) = json.loads((out / "tasks.json").read_text())
    older, newer = annotated(task, 3, foreground=["yes"], flags=["artefacts"]), annotated(task, 3, foreground=["yes"])
    newer["annotations"][0]["updated_at"] = "2026-03-10T10:00:00Z"
    for name, content in (("older", [older]), ("newer", [newer]), ("both", [newer, older])):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    for name, expected in (("older", "yes"), ("newer", "no"), ("older", "no"), ("both", "no")):
        import_results(dataset, tmp_path / f"{name}.json")
        found = {each.question: each.answer for each in read_answers(directory)}
        assert found == {"foreground": "yes", "artefacts": expected}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda task: task["data"].update(dataset="0" * 64), "another dataset"),
        (lambda task: task["data"].pop("image_id"), "image_id"),
        (lambda task: task.pop("annotations"), "JSON-MIN"),
        (lambda task: task["annotations"][0].pop("completed_by"), "completed_by"),
        (lambda task: task["annotations"][0]["result"][0]["value"].update(choices=["yes", "no"]), "foreground"),
    ],
)  # fmt: skip
def test_exports_that_cannot_be_are_named(directory, tmp_path, change, named):
    out = tmp_path / "out"
    dataset, _ = exported(directory, out, "label-studio", images=2)
    tasks = [annotated(task, 3, foreground=["yes"]) for task in json.loads((out / "tasks.json").read_text())]
    change(tasks[1])
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    with pytest.raises(FiguregroundError, match=named) as error:
        import_results(dataset, tmp_path / "export.json")
    assert "task 2" in str(error.value)
    assert read_answers(directory) == []


# Both


@pytest.mark.parametrize("name", EXCHANGES.names())
def test_the_command_exports_and_imports(directory, tmp_path, name):
    out = tmp_path / "out"
    code, output, errors = commands.run(
        "review", str(directory), "--images", "4", "--export", name, "--out", str(out), "--image-url", URL
    )
    assert code == 0, errors
    assert all((out / each).exists() for each in ("images", *EXCHANGES[name]().files([], [])))
    if name == "mturk":
        path = results(tmp_path / "r.csv", [assignment(task, "A1", foreground="yes") for task in batch(out)])
    else:
        path = tmp_path / "r.json"
        tasks = json.loads((out / "tasks.json").read_text())
        path.write_text(json.dumps([annotated(task, 1, foreground=["yes"]) for task in tasks]))
    code, output, errors = commands.run("review", str(directory), "--import", str(path))
    assert (code, "4 answers" in output) == (0, True), errors
    assert len(read_answers(directory)) == 4


@pytest.mark.parametrize(
    ("url", "out"),
    [
        (None, "out"),
        ("javascript:alert(1)", "out"),
        ('https://x/"onload', "out"),
        ("https://x/ y", "out"),
        (URL, "set"),
        (URL, "full"),
    ],
)
def test_exports_that_cannot_be_are_refused_before_anything_is_written(directory, tmp_path, url, out):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    dataset = FinishedDataset(directory)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((UsageError, FiguregroundError)):
        export(dataset, draw(dataset, Wanted(images=2)), "mturk", tmp_path / out, url)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unknown_exchange_is_named(directory, tmp_path):
    dataset = FinishedDataset(directory)
    with pytest.raises(UsageError, match="mturk"):
        export(dataset, draw(dataset, Wanted(images=2)), "mturc", tmp_path / "out", URL)
    assert not (directory / ANNOTATIONS).exists()


@pytest.mark.parametrize("wrong", [["--export", "nope"], ["--export", "mturk"]])
def test_a_refused_export_leaves_the_sample_as_it_was(directory, tmp_path, wrong):
    sample = directory / ANNOTATIONS / "sample.json"
    before = sample.read_bytes() if sample.exists() else None
    sampling = ["--images", "3", "--seed", "77"]
    code, _, err = commands.run("review", str(directory), *sampling, "--out", str(tmp_path / "x"), *wrong)
    assert code == 2
    assert wrong[1] in err or "--image-url" in err
    assert (sample.read_bytes() if sample.exists() else None) == before
