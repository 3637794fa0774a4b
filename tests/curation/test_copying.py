"""Datasets made from others: their recipe, each shard written once, going on after a stop, and words carried over."""

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from commands import wait_for
from tiny_datasets import make_dataset

from figureground.core.errors import FiguregroundError
from figureground.curation.copying import copy_card_text, copy_files, make_recipe, print_note, read_all, write_shards
from figureground.curation.curating import curate
from figureground.recipe.document import is_sealed
from figureground.recipe.sample import Reject, make_key
from figureground.shards import filling
from figureground.shards.card_file import BEGIN, END
from figureground.shards.claims import claim
from figureground.shards.finished import FinishedDataset
from figureground.shards.markers import markers
from figureground.shards.shard import RECIPE, ShardError
from figureground.shards.writer import write_encoded

STEP = {"did": "curate", "rule": "True"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A dataset of three shards; no test changes it."""
    return FinishedDataset(
        make_dataset(tmp_path_factory.mktemp("source") / "in", rejected=(make_key("train", 0, 0, 0),))
    )


@pytest.fixture
def fresh(source, tmp_path):
    """A copy of it to change."""
    return FinishedDataset(shutil.copytree(source.directory, tmp_path / "in"))


def recipe(source, **identity):
    return make_recipe("curate", identity, STEP, [source])


class Results:
    """All that is in the shards of a dataset, and which shards it was asked for; it may be stopped in one."""

    def __init__(self, source, stops_in=None):
        self.source, self.stops_in, self.requested = source, stops_in, []

    def __call__(self, shard):
        self.requested.append(shard)
        yield from self.source.rejects(shard)
        for i, stored in enumerate(self.source.stored(shard)):
            if shard == self.stops_in and i == 2:
                raise KeyboardInterrupt
            yield stored.encoded()


def write(source, out, results=None, made_by=None):
    results = results or Results(source)
    write_shards(
        out, made_by or recipe(source), source.shards, results, source.columns, formats=source.formats,
        image_format=source.image_format, version=source.version, show_progress=False,
    )  # fmt: skip
    return results.requested


def write_one(source, out, shard):
    """As another process does that holds the shard."""
    write_encoded(
        out, shard, source.columns, Results(source)(shard), formats=source.formats, image_format=source.image_format,
        publish_rejects=False, version=source.version,
    )  # fmt: skip


def hashes(directory):
    return {name: file["sha256"] for marker in markers(directory).values() for name, file in marker["files"].items()}


def files(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# The recipe


def test_a_recipe_says_what_the_copy_is_made_from(source, tmp_path):
    found = recipe(source, rule="True")
    assert (found["builder"], found["format"]) == ("curate", source.version)
    assert found["identity"] == {"sources": {"in": source.identity()}, "order": ["in"], "rule": "True"}
    assert found["lineage"] == [STEP]
    assert [(each["name"], each["sha256"]) for each in found["sources"]] == [("in", source.recipe["sha256"])]
    assert is_sealed(json.loads(json.dumps(found)))
    assert not is_sealed({**found, "lineage": []})


def test_steps_of_the_sources_come_before_its_own(source, tmp_path):
    rules = ("foreground == 'bird'", "foreground == 'cat'")
    made = [curate(source.directory, tmp_path / str(i), rule, show_progress=False) for i, rule in enumerate(rules)]
    found = make_recipe("merge", {}, {"did": "merge"}, [FinishedDataset(directory) for directory in made])
    assert [step.get("rule") for step in found["lineage"]] == [*rules, None]
    assert found["lineage"][-1] == {"did": "merge"}


def test_its_hash_is_of_what_decides_the_samples_and_not_of_places_or_notes(source, fresh, tmp_path):
    plain = recipe(source)["sha256"]
    assert recipe(fresh)["sha256"] == plain
    assert make_recipe("curate", {}, {"did": "curate", "kept": 3}, [source])["sha256"] == plain
    other = FinishedDataset(make_dataset(tmp_path / "other", seed=1))
    found = [
        plain, recipe(source, rule="True")["sha256"], recipe(other)["sha256"],
        make_recipe("merge", {}, STEP, [source])["sha256"], make_recipe("curate", {}, STEP, [source, other])["sha256"],
        make_recipe("curate", {}, STEP, [other, source])["sha256"],
        recipe(FinishedDataset(source.directory, "renamed"))["sha256"],
    ]  # fmt: skip
    assert len(set(found)) == len(found)


def test_it_names_no_place(source):
    assert str(source.directory) not in json.dumps(recipe(source))


# Writing


def test_a_copy_of_all_samples_has_the_bytes_of_its_source(source, tmp_path):
    assert write(source, tmp_path / "out") == list(source.shards)
    assert hashes(tmp_path / "out") == hashes(source.directory)
    for name, digest in hashes(tmp_path / "out").items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
    assert json.loads((tmp_path / "out" / RECIPE).read_text()) == recipe(source)


def test_a_stopped_copy_keeps_finished_shards_and_goes_on_with_the_others(source, tmp_path):
    first, second, third = source.shards
    with pytest.raises(KeyboardInterrupt):
        write(source, tmp_path / "out", Results(source, stops_in=second))
    assert list(markers(tmp_path / "out")) == [first.name]
    assert not list((tmp_path / "out").rglob("*.tmp"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*00000-of-00002*")}
    assert len(before) == 2
    assert write(source, tmp_path / "out") == [second, third]
    assert hashes(tmp_path / "out") == hashes(source.directory)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert write(source, tmp_path / "out") == []


def test_a_shard_without_a_marker_is_written_again(source, tmp_path):
    write(source, tmp_path / "out")
    (tmp_path / "out" / source.shards[2].path("marker")).unlink()
    assert write(source, tmp_path / "out") == [source.shards[2]]
    assert hashes(tmp_path / "out") == hashes(source.directory)


def test_a_directory_of_another_recipe_is_refused_by_field_and_left_alone(source, tmp_path):
    write(source, tmp_path / "out", made_by=recipe(source, rule="seed > 1"))
    (tmp_path / "out" / source.shards[0].path("marker")).unlink()
    before = files(tmp_path / "out")
    with pytest.raises(FiguregroundError, match=r'/out holds another recipe.*\n  rule: "seed > 1", now "seed > 2"'):
        write(source, tmp_path / "out", made_by=recipe(source, rule="seed > 2"))
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize("finishes", [True, False])
def test_a_shard_that_another_process_holds_is_waited_for_and_taken_over_if_it_gives_up(
    source, tmp_path, monkeypatch, finishes
):
    monkeypatch.setattr(filling, "SECONDS_BETWEEN_LOOKS", 0.01)
    first, *others = source.shards
    out = tmp_path / "out"
    with ThreadPoolExecutor(1) as pool:
        with claim(out, first):
            waiting = pool.submit(write, source, out)
            wait_for(lambda: waiting.done() or list(markers(out)) == [shard.name for shard in others], seconds=20)
            assert not waiting.done()
            if finishes:
                write_one(source, out, first)
        requested = waiting.result(20)
    assert requested == (others if finishes else [*others, first])
    assert hashes(out) == hashes(source.directory)


def test_a_shard_that_another_process_finished_meanwhile_is_not_written_again(source, tmp_path):
    first, second, third = source.shards

    class Meanwhile(Results):
        def __call__(self, shard):
            if shard == first:
                write_one(source, tmp_path / "out", third)
            yield from super().__call__(shard)

    assert write(source, tmp_path / "out", Meanwhile(source)) == [first, second]
    assert hashes(tmp_path / "out") == hashes(source.directory)


def test_rejects_count_among_the_images_of_a_shard(source, tmp_path):
    def rejects(shard):
        return (Reject(sample.encoded().spec, "dull") for sample in source.stored(shard))

    last = source.shards[2]
    write_shards(
        tmp_path / "out", recipe(source), [last], rejects, source.columns, formats=source.formats,
        image_format=source.image_format, version=source.version, show_progress=False,
    )  # fmt: skip
    marker = markers(tmp_path / "out")[last.name]
    assert (marker["planned"], marker["samples"], marker["rejects"]) == (6, 0, {"dull": 6})


def test_a_pass_over_a_dataset_is_over_all_its_shards_in_order(source):
    assert list(read_all(source, show_progress=False)) == list(source.shards)
    assert len(source.shards) == 3


def test_notes_are_printed_only_where_progress_is(capsys):
    print_note("a note", show_progress=False)
    assert capsys.readouterr() == ("", "")
    print_note("a note", show_progress=True)
    assert "a note" in capsys.readouterr().err


# Words


def test_files_for_readers_are_copied_once_and_no_others(fresh, tmp_path):
    out = tmp_path / "out"
    for name in ("LICENSE", "notice.txt", "CITATION.cff", "thesis.txt", "LICENSE-old"):
        (fresh.directory / name).write_bytes(f"{name}\r\n".encode())
    out.mkdir()
    (out / "LICENSE-old").write_text("edited")
    copy_files(fresh, out)
    found = files(out)
    assert sorted(found) == ["CITATION.cff", "LICENSE", "LICENSE-old", "notice.txt"]
    assert found["LICENSE"] == b"LICENSE\r\n"
    assert found["LICENSE-old"] == b"edited"
    copy_files(fresh, out)
    assert files(out) == found


def test_no_link_is_followed_out_of_the_dataset(fresh, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (fresh.directory / "LICENSE").symlink_to(tmp_path / "secret")
    (fresh.directory / "NOTICE").mkdir()
    copy_files(fresh, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "with a byte order mark"])
def test_what_a_user_wrote_into_the_card_is_kept_and_what_was_generated_is_not(fresh, tmp_path, mark):
    path = fresh.directory / "README.md"
    text = path.read_text().replace("license: unknown", "license: mit  # ours")
    path.write_text(f"{mark}{text}\n## Ask Ada\n")
    generated = text.partition(BEGIN)[2].partition(END)[0]
    assert "Birds and cats of noise." in generated
    copy_card_text(fresh, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\n")
    assert "license: mit  # ours" in card
    assert "## Ask Ada" in card
    assert f"{BEGIN}\n{END}" in card
    assert "Birds and cats of noise." not in card
    header = yaml.safe_load(card.split("---\n")[1])
    assert not header.get("configs")
    assert not header.get("dataset_info")


def test_a_card_that_is_there_stays_and_without_one_there_is_none(fresh, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("mine")
    copy_card_text(fresh, tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_text() == "mine"
    (fresh.directory / "README.md").unlink()
    copy_card_text(fresh, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_card_whose_generated_part_cannot_be_found_is_refused(fresh, tmp_path):
    path = fresh.directory / "README.md"
    path.write_text(f"{path.read_text()}\n{BEGIN}\n")
    with pytest.raises(ShardError, match=r"^README\.md: "):
        copy_card_text(fresh, tmp_path / "out")
    assert not (tmp_path / "out").exists()
