"""The card describes the dataset, and keeps what people write into it."""

import json
import re

import numpy as np
import pytest
import webdataset
import yaml
from datasets import DatasetInfo, Features, load_dataset
from forked_commands import Forked
from huggingface_hub import DatasetCard
from PIL import Image

from figureground.recipe.formats import DEFAULT_FORMATS
from figureground.recipe.sample import Sample, Spec, make_key
from figureground.shards import card, card_file
from figureground.shards.card_context import CardContext
from figureground.shards.card_file import BEGIN, END
from figureground.shards.columns import Columns
from figureground.shards.index import finish
from figureground.shards.shard import Shard, ShardError
from figureground.shards.writer import write_shard

COLUMNS = Columns(("bird", "a|b <i>"), ("grass", "no"))
FACTS = CardContext("Birds", "d3s", "Birds on grass.", "@misc{d3s2022}", {"dtype": "float32"}, ("Small images.",))
RECIPE = {
    "checkpoint": "/home/ada/models/sd-v1-4",
    "cutouts": {"train": "~/cats", "validation": "C:\\Users\\ada\\dogs"},
    "prompt": "a photo | of `a` {class}",
    "strength": 0.9,
}


def make_index(cells, foreground_samples=None, split="train", rejects=None):
    samples = sum(count for *_, count in cells)
    rejects = rejects or {}
    return {
        "planned": samples + sum(rejects.values()),
        "samples": samples,
        "rejects": rejects,
        "splits": {
            split: {"samples": samples, "shards": 12, "bytes": {"parquet": 10, "webdataset": 20}, "cells": cells}
        },
        "shards": shards(split, 12),
    }


def shards(split, of, part=0):
    names = [Shard(split, i, of, 1, part) for i in range(of)]
    return [
        {"split": split, "part": part, "files": [n.path(kind) for kind in ("parquet", "webdataset")]} for n in names
    ]


INDEX = make_index([[0, 0, 3], [1, 1, 1200]], rejects={"flat": 7})


def write(directory, index=INDEX, columns=COLUMNS, recipe=RECIPE, facts=FACTS, **options):
    given = {"formats": DEFAULT_FORMATS, "image_format": "jpg", **options}
    preview = card.PREVIEW if (directory / card.PREVIEW).exists() else None
    body = card.render(columns, index, recipe, facts, **given, preview=preview)
    card_file.write(directory, card.describe(columns, index, facts, **given), body)
    return (directory / "README.md").read_text()


def header_of(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_the_yaml_names_files_labels_and_counts(tmp_path):
    header = header_of(write(tmp_path))
    assert header["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-[0-9]*.parquet"}]}
    ]
    info = DatasetInfo._from_yaml_dict(header["dataset_info"])
    assert info.features == COLUMNS.features()
    assert info.splits["train"].num_examples == 1203
    assert (header["license"], header["size_categories"]) == ("unknown", ["1K<n<10K"])
    assert {"figureground", "spurious-correlations", "distribution-shift", "synthetic", "d3s"} == set(header["tags"])


def test_marks_are_announced_only_if_all_images_carry_them_and_are_no_setting(tmp_path):
    name = "Iptc4xmpExt:DigitalSourceType"
    marked = write(tmp_path, recipe={**RECIPE, "marks": name})
    assert f"`{name}`" in marked
    assert "| marks |" not in marked
    for recipe in (RECIPE, {**RECIPE, "marks": {"one": name, "other": None}}):
        assert name not in write(tmp_path, recipe=recipe)


def test_the_files_of_an_extension_are_reported_once_it_is_finished(tmp_path):
    build(tmp_path / "out")
    configs = header_of((tmp_path / "out/README.md").read_text())["configs"]
    assert configs[0]["data_files"] == [
        {"split": "train", "path": ["data/train-[0-9]*.parquet", "data/train-e1-*.parquet"]},
        {"split": "train_2", "path": "data/train_2-[0-9]*.parquet"},
    ]
    before = build(tmp_path / "before", shards=[shard for shard in SHARDS if not shard.part])
    (tmp_path / "before/data/train-e1-00000-of-00002.parquet").write_bytes(b"half of it")
    found = load_dataset(str(tmp_path / "before"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(found) == before["splits"]["train"]["samples"] == 16


def test_without_parquet_the_yaml_describes_the_tars(tmp_path):
    text = write(tmp_path, formats=("webdataset",), image_format="webp")
    header = header_of(text)
    assert header["configs"][0]["data_files"] == [{"split": "train", "path": "webdataset/train-[0-9]*.tar"}]
    features = Features._from_yaml_list(header["dataset_info"]["features"])
    assert set(features) == {"webp", "foreground.cls", "background.cls", "prompt.txt", "__key__"}
    assert features["background.cls"].names == ["grass", "no"]
    assert 'sample["webp"]' in text


def test_the_hub_reads_the_card(tmp_path):
    write(tmp_path)
    assert DatasetCard.load(tmp_path / "README.md").data.pretty_name == "Birds"


def test_the_groups_are_a_table(tmp_path):
    text = write(tmp_path)
    assert "### train: 1,203 images, Cramér's V 1.00" in text
    assert "| | grass | no | all |\n|---|---:|---:|---:|\n" in text
    assert "| bird | 3 | 0 | 3 |" in text
    assert r"| a\|b \<i\> | 0 | 1200 | 1200 |" in text
    assert "| all | 3 | 1200 | 1203 |" in text
    assert "Of 1,210 planned images 1,203 were kept." in text
    assert "| flat | 7 |" in text


def test_one_image_of_one_foreground_is_counted_in_the_singular(tmp_path):
    text = write(tmp_path, make_index([[0, 1, 1]]), Columns(("bird",), ("grass", "no")))
    assert "\n1 image, 1 foreground, 2 backgrounds; splits: train (1)." in text
    assert "### train: 1 image, " in text


def test_of_very_many_foregrounds_only_totals_are_shown(tmp_path):
    columns = Columns([f"class {i}" for i in range(41)], ("grass", "snow"))
    text = write(tmp_path, make_index([[i, i % 2, 1] for i in range(41)]), columns)
    assert "| all | 21 | 20 | 41 |" in text
    assert "| class 7 |" not in text


def test_no_path_of_this_machine_is_disclosed(tmp_path):
    text = write(tmp_path)
    assert "| checkpoint | `sd-v1-4` |" in text
    assert '| cutouts | `{"train": "cats", "validation": "dogs"}` |' in text
    assert "ada" not in text
    assert str(tmp_path) not in text


def test_settings_stay_in_their_cell(tmp_path):
    assert r"| prompt | ``a photo \| of `a` {class}`` |" in write(tmp_path)


def test_the_preview_is_shown_once_there_is_one(tmp_path):
    assert "](preview.png)" not in write(tmp_path)
    (tmp_path / card.PREVIEW).touch()
    assert "](preview.png)" in write(tmp_path)


def test_the_card_tells_how_to_load_the_tars(tmp_path):
    assert '"/webdataset/train-{00000..00011}-of-00012.tar"' in write(tmp_path)
    index = {**make_index([[0, 0, 1]]), "shards": shards("train", 1)}
    assert '"/webdataset/train-00000-of-00001.tar"' in write(tmp_path, index)
    assert "webdataset.WebDataset" not in write(tmp_path, formats=("parquet",))


def test_tars_that_were_added_later_are_reported_too(tmp_path):
    index = {**make_index([[0, 0, 1]]), "shards": [*shards("train", 12), *shards("train", 2, part=1)]}
    text = write(tmp_path, index)
    assert '"/webdataset/train-{00000..00011}-of-00012.tar",\n' in text
    assert '"/webdataset/train-e1-{00000..00001}-of-00002.tar",\n' in text


def test_what_a_person_wrote_survives(tmp_path):
    text = write(tmp_path)
    text = text.replace("license: unknown", "license: cc-by-4.0\nlanguage: [en]").replace("- synthetic\n", "- mine\n")
    text = text.replace("pretty_name: Birds", "pretty_name: My birds").replace("# Birds", "# My birds\n\nBy ---\nme.")
    (tmp_path / "README.md").write_text(text + "\n## Thanks\n\nTo all.\n")
    again = write(tmp_path, make_index([[0, 0, 8]]))
    header = header_of(again)
    assert (header["license"], header["language"], header["pretty_name"]) == ("cc-by-4.0", ["en"], "My birds")
    assert "mine" in header["tags"]
    assert "synthetic" not in header["tags"]
    assert (header["dataset_info"]["splits"][0]["num_examples"], header["size_categories"]) == (8, ["n<1K"])
    assert "# My birds\n\nBy ---\nme.\n" in again
    assert again.endswith("## Thanks\n\nTo all.\n")
    assert "### train: 8 images, Cramér's V 0.00" in again
    assert "1,203" not in again
    assert again.count(BEGIN) == again.count(END) == 1


def test_writing_it_again_changes_nothing(tmp_path):
    assert write(tmp_path) == write(tmp_path)


@pytest.mark.parametrize(
    "text", ["# Mine\n\nHello.\n", "---\nlicense: mit\n---\n# Mine\n\nHello.\n", "---\n---\n# Mine\n\nHello.\n"]
)
def test_a_readme_that_was_there_before_is_only_added_to(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    written = write(tmp_path)
    assert "# Mine\n\nHello.\n" in written
    assert header_of(written)["license"] == ("mit" if "mit" in text else "unknown")
    assert header_of(written)["configs"][0]["config_name"] == "default"
    assert written == write(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("---\na: [\n---\n", "YAML header can't be read"),
        ("---\n- a\n---\n", "mapping"),
        (f"# Mine\n{BEGIN}\n", r"line 2, .* line \(none\)"),
        (f"# Mine\n{END}\n{BEGIN}\n", "line 3, .* line 2"),
        (f"# Mine\n{BEGIN}\n{END}\n{END}\n", "line 2, .* line 3, 4"),
    ],
)
def test_a_readme_that_cannot_be_taken_apart_stays_as_it_is(tmp_path, text, message):
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(ShardError, match=f"README.md: .*{message}"):
        write(tmp_path)
    assert (tmp_path / "README.md").read_text() == text


HOSTILE = f"{END} {BEGIN} a|b `c` </details> \x1b[31m\u202e"


def write_hostile(directory):
    """A card in which every text that can be a person's tries to end the generated part."""
    named = {"name": HOSTILE, "revision": HOSTILE, "license": HOSTILE, "link": HOSTILE}
    source = {"what": HOSTILE, "name": HOSTILE, "images": 2, "splits": [HOSTILE], "skipped": 1, "license": HOSTILE,
              "license_file": HOSTILE, "credited": 1, "problem": HOSTILE}  # fmt: skip
    credit = {"file": HOSTILE, "author": HOSTILE, "license": HOSTILE, "source": HOSTILE, "title": HOSTILE}
    concept = {"class": HOSTILE, "noun": HOSTILE, "feature": HOSTILE, "references": 3, "identifier": HOSTILE,
               "kind": HOSTILE, "sha256": HOSTILE, "losses": {HOSTILE: 0.5}}  # fmt: skip
    step = {"did": HOSTILE, "from": [{"name": HOSTILE, "sha256": HOSTILE}], HOSTILE: HOSTILE}
    facts = CardContext(
        HOSTILE, HOSTILE, HOSTILE, f"@misc{{x}}\n```\n{HOSTILE}", {HOSTILE: HOSTILE, "mixed": [HOSTILE]}, (HOSTILE,),
        (HOSTILE,), (HOSTILE,), named, [source], [credit], [step], [concept],
    )  # fmt: skip
    columns = Columns(("bird", HOSTILE), (HOSTILE, "no"), labels={HOSTILE: ["a"]}, texts=(HOSTILE + "2",))
    return write(directory, columns=columns, recipe={"negative_prompt": HOSTILE, HOSTILE: [HOSTILE]}, facts=facts)


def test_no_text_of_a_person_ends_the_generated_part(tmp_path):
    text = write_hostile(tmp_path)
    body = text.split("\n---\n")[1]
    assert body.count(BEGIN) == body.count(END) == 1
    assert body.rstrip().endswith(END)
    assert "\x1b" not in text
    assert "\u202e" not in text
    (tmp_path / "README.md").write_text(text + "\nMine.\n")
    again = write(tmp_path)
    assert again.endswith(f"{END}\n\nMine.\n")


def test_a_card_that_an_older_release_broke_is_mended(tmp_path):
    text = write(tmp_path)
    broken = text.replace("| strength |", f"| negative_prompt | `{END}` |\n| strength |")
    (tmp_path / "README.md").write_text(f"{broken}\nMine.\n")
    assert write(tmp_path) == f"{text}\nMine.\n"


# What the user's side of the card may look like


def test_comments_quotes_and_order_of_the_yaml_stay_as_they_are_written(tmp_path):
    mine = (
        "# Who may use it:\nlicense:   'cc-by-4.0'  # as agreed\nlanguage:\n  - en # mostly\n"
        'pretty_name: "Oiseaux \U0001f426 é"\n\n# ours to look after\nversion: 1.10\n'
    )
    (tmp_path / "README.md").write_text(f"---\n{mine}---\n# Mine\n")
    text = write(tmp_path)
    assert text.startswith(f"---\n{mine}")
    again = write(tmp_path, make_index([[0, 0, 8]]))
    assert again.startswith(f"---\n{mine}")
    assert header_of(again)["dataset_info"]["splits"][0]["num_examples"] == 8


def test_comments_between_our_keys_stay(tmp_path):
    text = write(tmp_path)
    text = text.replace("configs:\n", "# where the files are\nconfigs:\n").replace(
        "dataset_info:\n", "# nobody counted by hand\n\ndataset_info:\n"
    )
    (tmp_path / "README.md").write_text(text)
    again = write(tmp_path, make_index([[0, 0, 8]], split="test"))
    assert "# where the files are\nconfigs:\n" in again
    assert "# nobody counted by hand\n\ndataset_info:\n" in again
    assert header_of(again)["configs"][0]["data_files"] == [{"split": "test", "path": "data/test-[0-9]*.parquet"}]


@pytest.mark.parametrize(
    "header",
    [
        "{license: mit, language: [en], mine: {a: 1}}\n",
        "  license: mit\n  language: [en]\n  mine: {a: 1}\n",
        "mine: &m {a: 1}\nlicense: mit\nlanguage: [en]\nconfigs: *m\n",
        "? license\n: mit\nlanguage: [en]\nmine: {a: 1}",
        "license: mit\nconfigs: [&en en]\nlanguage: [*en]\nmine: {a: 1}\n",
    ],
)
def test_yaml_in_any_style_keeps_its_values(tmp_path, header):
    (tmp_path / "README.md").write_text(f"---\n{header.rstrip()}\n---\n# Mine\n")
    for index in (INDEX, make_index([[0, 0, 8]])):
        found = header_of(write(tmp_path, index))
        assert (found["license"], found["language"], found["mine"]) == ("mit", ["en"], {"a": 1})
        assert found["configs"][0]["config_name"] == "default"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: ("\n\n" + text).encode(),
        lambda text: text.replace("---\n", "---  \n", 1).encode(),
    ],
    ids=["CRLF", "BOM", "blank lines above", "blanks after the dashes"],
)
def test_a_card_that_another_editor_saved_is_still_ours(tmp_path, change):
    text = write(tmp_path).replace("license: unknown", "license: mit") + "\nAn é of mine.\n"
    (tmp_path / "README.md").write_bytes(change(text))
    assert write(tmp_path) == text
    assert DatasetCard.load(tmp_path / "README.md").data.license == "mit"


def test_a_card_in_another_coding_is_refused_in_words(tmp_path):
    (tmp_path / "README.md").write_bytes("# Mine é\n".encode("latin-1"))
    with pytest.raises(ShardError, match=r"README.md.*not written in UTF-8.*Save it"):
        write(tmp_path)


@pytest.mark.parametrize(
    ("written", "license"),
    [
        ("license: unknown", None),
        ("language: en", None),
        ("license: cc0-1.0", "cc0-1.0"),
        ("license: [mit, cc0-1.0]", "mit, cc0-1.0"),
        ("license: other\nlicense_name: mine", "mine"),
    ],
)
def test_the_licence_is_unknown_until_a_person_sets_it(tmp_path, written, license):
    assert card_file.read_license(tmp_path) is None
    (tmp_path / "README.md").write_text(f"---\n{written}\n---\n")
    assert card_file.read_license(tmp_path) == license


# What else the card tells


def full_facts(**more):
    source = {
        "what": "cutouts", "name": "birds", "images": 30, "splits": ["train"], "skipped": 2, "license": "CC-BY-4.0",
        "license_file": "LICENSE.txt", "credited": 1, "problem": "",
    }  # fmt: skip
    credit = {
        "file": "bird/a.jpg", "author": "Ada *L*", "license": "CC-BY-4.0", "source": "https://example.org/a_(1)",
        "title": "A <bird>",
    }  # fmt: skip
    return CardContext(
        "Birds", "d3s", "Birds on grass.", "@misc{d3s2022}",
        {"device": "cpu", "versions": {"torch": "2.9"}, "mixed": [{"device": "cuda"}]},
        uses=("Tests.",), misuses=("Life.",),
        checkpoint={"name": "a/b", "revision": "abc", "license": "openrail++", "link": "https://example.org/l"},
        **{"sources": [source], "credits": [credit], **more},
    )  # fmt: skip


def test_sources_licences_and_authors_are_named(tmp_path):
    text = write(tmp_path, facts=full_facts())
    assert "| cutouts | `birds` | train | 30 | CC-BY-4.0 (LICENSE.txt) | 1 |" in text
    assert "2 of the cutouts files in `birds` were skipped" in text
    assert r"- `bird/a.jpg`: *A \<bird\>* by Ada \*L\*, CC-BY-4.0, [source](https://example.org/a_%281%29)" in text
    assert "| licence | openrail++, [its text](https://example.org/l) |" in text
    assert "| revision | `abc` |" in text


def test_many_authors_stand_in_a_file_of_their_own(tmp_path):
    credits = [{**full_facts().credits[0], "file": f"bird/{i}.jpg", "source": f"/home/ada/{i}"} for i in range(21)]
    facts = full_facts(credits=credits)
    text = write(tmp_path, facts=facts)
    card.write_attribution(tmp_path, facts)
    rows = (tmp_path / card.ATTRIBUTION).read_text().splitlines()
    assert rows[0] == "file,author,license,source,title"
    assert rows[1] == "bird/0.jpg,Ada *L*,CC-BY-4.0,0,A <bird>"
    assert len(rows) == 22
    assert "21 images are credited" in text
    assert "| CC-BY-4.0 | 21 |" in text
    assert "bird/7.jpg" not in text
    card.write_attribution(tmp_path, FACTS)
    assert not (tmp_path / card.ATTRIBUTION).exists()


def test_mixed_numerics_are_reported(tmp_path):
    text = write(tmp_path, facts=full_facts())
    assert "**Mixed numerics**: shards were computed in 2 different ways" in text
    assert '- also: `{"device": "cuda"}`' in text
    assert "| torch | `2.9` |" in text
    assert "Mixed numerics" not in write(tmp_path)


def test_the_origin_of_a_dataset_is_described_step_by_step(tmp_path):
    origin = {"name": "/home/ada/birds", "sha256": "0123456789abcdef", "samples": 1203}
    lineage = [
        {"did": "curate", "rule": "score > 0.5 | x", "from": origin, "kept": 1000, "dropped": 203},
        {"did": "merge", "from": [origin, {"name": "b", "samples": 5}], "kept": 1005},
    ]
    text = write(tmp_path, facts=full_facts(lineage=lineage))
    assert (
        r"1. Curated: rule `score > 0.5 \| x`; from `birds` (recipe `0123456789ab`, 1,203 samples); "
        "kept 1,000; dropped 203." in text
    )
    assert "2. Merged: from `birds` (recipe `0123456789ab`, 1,203 samples); `b` (5 samples); kept 1,005." in text
    assert "/home" not in text


def test_published_rejects_are_a_config_of_their_own(tmp_path):
    rejects = {"train": {"files": ["rejects/train-00000-of-00002.parquet"], "samples": 7, "bytes": 1}}
    text = write(tmp_path, {**INDEX, "published_rejects": rejects})
    default, second = header_of(text)["configs"]
    assert (default["config_name"], default["default"]) == ("default", True)
    assert second == {
        "config_name": "rejects",
        "data_files": [{"split": "train", "path": "rejects/train-[0-9]*.parquet"}],
    }
    assert 'load_dataset(where, "rejects")' in text


# What the card says to run

SHARDS = [Shard("train", 0, 2, 8), Shard("train", 1, 2, 8), Shard("train", 0, 1, 4, part=1), Shard("train_2", 0, 1, 4)]


def build(out, formats=("parquet", "webdataset"), shards=SHARDS):
    for shard in shards:
        samples = []
        for i in range(shard.count):
            n = shard.part * 1000 + shard.index * 100 + i
            name = make_key(shard.split, n % 2, n // 2 % 2, n)
            spec = Spec(name, shard.split, n % 2, n // 2 % 2, "bird", "grass", f"a bird, {n}", n)
            samples.append(Sample(spec, Image.fromarray(np.full((32, 32, 3), n % 255, np.uint8))))
        write_shard(out, shard, COLUMNS, samples, lambda sample: {"seed": sample.spec.seed}, formats=formats)
    return finish(out, shards, COLUMNS, {"size": 32}, FACTS, formats=formats)


@pytest.mark.slow
@pytest.mark.parametrize("formats", [("parquet", "webdataset"), ("webdataset",)], ids=["both", "tars"])
def test_the_code_on_the_card_runs(tmp_path, formats):
    out = tmp_path / "out"
    build(out, formats)
    blocks = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    printed = []
    for block in blocks:
        process = Forked([], block.replace("path/to/this/directory", str(out)), cwd=tmp_path)
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        printed.append(output)
    assert "(32, 32) bird" in printed[0]
    assert re.search(r"epoch 10: loss \d.*\nall of train_2: [\d.]+%\non grass: [\d.]+% of 2\n", printed[1])


def test_the_webdataset_urls_of_the_card_give_every_sample_of_their_split(tmp_path):
    build(tmp_path)
    urls = re.findall(r'where \+ "/(.*)"', (tmp_path / "README.md").read_text())
    samples = webdataset.WebDataset("::".join(f"{tmp_path}/{url}" for url in urls), shardshuffle=False)
    rows = load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert [name for (name,) in samples.to_tuple("__key__")] == list(rows["key"])


def test_sizes_are_those_that_load_dataset_sees(tmp_path):
    out = tmp_path / "out"
    build(out)
    info = DatasetInfo._from_yaml_dict(header_of((out / "README.md").read_text())["dataset_info"])
    loaded = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert set(info.splits) == set(loaded) == {"train", "train_2"}
    for name, split in info.splits.items():
        assert split.num_examples == len(loaded[name])
        assert split.num_bytes == pytest.approx(loaded[name].info.splits[name].num_bytes, rel=0.01)
    assert info.download_size == sum(path.stat().st_size for path in out.glob("data/*"))


def test_the_index_tells_all_that_the_card_was_written_from(tmp_path):
    build(tmp_path)
    saved = json.loads((tmp_path / "_figureground/index.json").read_text())["card"]
    assert CardContext(**saved["facts"]) == CardContext(**json.loads(json.dumps(vars(FACTS))))
    assert saved["recipe"] == {"size": 32}
