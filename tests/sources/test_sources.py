"""Licences and authors of image directories and checkpoints, in the forms that people use."""

import csv
import io
import itertools
import json
import os
import re
import shutil

import pytest
from tiny_checkpoints import make_checkpoint

from figureground import D3S
from figureground.core.resources import find_resource
from figureground.sources.provenance import (
    NOT_STATED,
    Credit,
    Weights,
    detect_license,
    format_credits,
    read_credits,
    read_license,
    read_source,
    read_weights,
    read_weights_license,
)

MIT = (
    "MIT License\n\nCopyright (c) 2020 Ada\n\n"
    "Permission is hereby granted, free of charge, to any person obtaining a copy"
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (MIT, "MIT"),
        (MIT.partition("\n\n")[2], "MIT"),
        ("\n                 Apache License\n           Version 2.0, January 2004\n", "Apache-2.0"),
        ("Creative Commons Attribution 4.0 International\n", "CC-BY-4.0"),
        ("# Attribution-NonCommercial-ShareAlike 3.0 Unported", "CC-BY-NC-SA-3.0"),
        ("All images: CC BY-SA 4.0.", "CC-BY-SA-4.0"),
        ("CC0 1.0 Universal\n", "CC0-1.0"),
        ("SPDX-License-Identifier: ODbL-1.0", "ODbL-1.0"),
        ("\n\nAsk  Ada first.\nReally.\n", "Ask Ada first."),
        ("x" * 300, "x" * 120 + "…"),
        ("\n \n", ""),
    ],
)
def test_a_licence_is_called_by_its_name_or_by_its_first_line(text, name):
    assert detect_license(text) == name


@pytest.mark.parametrize("name", ["LICENSE", "Licence.md", "COPYING", "license.txt"])
def test_a_licence_file_may_have_any_of_its_names(tmp_path, name):
    assert read_license(tmp_path) == (NOT_STATED, "")
    (tmp_path / name).write_text("CC0-1.0")
    assert read_license(tmp_path) == ("CC0-1.0", name)


def test_every_licence_that_a_text_names_is_stated_and_a_list_of_images_is_none(tmp_path):
    assert detect_license("The images are under CC BY-NC 4.0. Three icons are CC0 1.0.") == "CC-BY-NC-4.0, CC0-1.0"
    code = "Code: MIT (SPDX-License-Identifier: MIT). Images: CC BY-NC-SA 4.0"
    assert detect_license(code) == "MIT, CC-BY-NC-SA-4.0"
    (tmp_path / "LICENSES.csv").write_text("cat/001.jpg,CC-BY-4.0\n")
    assert read_license(tmp_path) == ("not stated", "")


def test_a_bare_name_of_several_images_credits_none_of_them(tmp_path):
    images = [tmp_path / "cat/1.jpg", tmp_path / "dog/1.jpg", tmp_path / "dog/2.jpg"]
    (tmp_path / "ATTRIBUTION.csv").write_text("class,file,author\ncat,1.jpg,Ada\ndog,1.jpg,Bob\ndog,2.jpg,Eve\n")
    source, credits = read_source("cutouts", tmp_path, images)
    assert [(credit.file, credit.author) for credit in credits] == [("dog/2.jpg", "Eve")]
    assert "1 file in several ways, such as '1.jpg'" in source.problem
    (tmp_path / "ATTRIBUTION.csv").write_text("file,author\n1.jpg,Ada\n")
    assert read_source("cutouts", tmp_path, images)[1] == []
    at_root = [tmp_path / "1.jpg", tmp_path / "cat/1.jpg"]
    assert [credit.file for credit in read_source("cutouts", tmp_path, at_root)[1]] == ["1.jpg"]


@pytest.mark.parametrize(
    "content",
    [
        b"file,author,license,source,title\nbird/a.jpg,Ad\xc3\xa9,CC-BY-4.0,https://example.org/a,A\n",
        b"\xef\xbb\xbfFile_Name;Photographer;Licence;URL;Caption\r\nbird\\a.jpg;Ad\xc3\xa9;CC-BY-4.0;https://example.org/a;A\r\n",
        b"title\tpath\tsource-url\tlicense\tcreator\tnotes\nA\t./bird/a.jpg\thttps://example.org/a\tCC-BY-4.0\tAd\xe9\t-\n",
        b'\n"Filename","Author","License","Link","Title"\n\n"bird/a.jpg"," Ad\xc3\xa9 ","CC-BY-4.0","https://example.org/a","A"\n',
    ],
    ids=["plain", "semicolons from Windows", "tabs in another coding and order", "quotes and blank lines"],
)
def test_attribution_is_read_in_common_forms(tmp_path, content):
    (tmp_path / "ATTRIBUTION.csv").write_bytes(content)
    expected = Credit("bird/a.jpg", "Adé", "CC-BY-4.0", "https://example.org/a", "A")
    found, problem = read_credits(tmp_path)
    assert problem == ""
    assert list(found) == ["bird/a.jpg"]
    source, credits = read_source("cutouts", tmp_path, [tmp_path / "bird" / "a.jpg", tmp_path / "bird" / "b.jpg"])
    assert credits == [expected]
    assert (source.images, source.credited, source.name) == (2, 1, tmp_path.name)


def test_a_bare_file_name_credits_it_in_any_folder_and_the_exact_path_wins(tmp_path):
    (tmp_path / "attribution.csv").write_text("file,author\na.jpg,Ada\ncat/a.jpg,Bob\ncat/unused.jpg,Eve\n")
    _, credits = read_source("cutouts", tmp_path, [tmp_path / "bird/a.jpg", tmp_path / "cat/a.jpg"])
    assert [(credit.file, credit.author) for credit in credits] == [("bird/a.jpg", "Ada"), ("cat/a.jpg", "Bob")]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("author,license\nAda,MIT\n", "no column 'file' (its columns: author, license)"),
        ("", "no column 'file' (its columns: none)"),
    ],
)
def test_attribution_that_cannot_be_used_is_reported_and_stops_nothing(tmp_path, content, problem):
    (tmp_path / "ATTRIBUTION.csv").write_text(content)
    source, credits = read_source("cutouts", tmp_path, [tmp_path / "bird/a.jpg"])
    assert credits == []
    assert problem in source.problem


@pytest.mark.parametrize("data", [b"\xff\xfeM\0I\0T\0 \0L\0i\0c\0e\0n\0s\0e\0", b"\0\1\2" * 99, b"caf\xe9", b""])
def test_no_bytes_in_a_licence_or_readme_stop_anything(tmp_path, data):
    (tmp_path / "LICENSE").write_bytes(data)
    (tmp_path / "README.md").write_bytes(b"---\nlicense: " + data + b"\n---\n")
    assert len(read_license(tmp_path)) == len(read_weights_license(tmp_path)) == 2


def test_no_special_file_is_waited_for(tmp_path):
    for name in ("LICENSE", "README.md", "ATTRIBUTION.csv"):
        os.mkfifo(tmp_path / name)
    assert read_license(tmp_path) == read_weights_license(tmp_path) == (NOT_STATED, "")
    assert read_credits(tmp_path)[1].startswith("ATTRIBUTION.csv can't be read")


def test_a_credit_is_no_formula_in_a_spreadsheet(tmp_path):
    credits = [Credit("a.jpg", '=HYPERLINK("https://x")', "-1", "@a", "'+b"), Credit("=b.jpg", "'quoted' Ada")]
    written = format_credits(credits)
    cells = [cell for row in csv.reader(io.StringIO(written)) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    (tmp_path / "ATTRIBUTION.csv").write_text(written)
    assert list(read_credits(tmp_path)[0].values()) == credits


def test_credits_survive_being_written_and_read(tmp_path):
    credits = [Credit("bird/a, b.jpg", 'Ada "A"', "MIT", "https://example.org/?a=1;b", "É\tx"), Credit("c.jpg")]
    (tmp_path / "ATTRIBUTION.csv").write_text(format_credits(credits))
    found, _ = read_credits(tmp_path)
    assert found["bird/a, b.jpg"].author == 'Ada "A"'
    assert found["c.jpg"] == Credit("c.jpg")


BOMB = "".join(f"{b}: &{b} [{', '.join(['*' + a] * 10)}]\n" for a, b in itertools.pairwise("abcdefghijkl"))


@pytest.mark.parametrize(
    ("readme", "license", "expected"),
    [
        ("---\nlicense: creativeml-openrail-m\n---\n# M", None, ("creativeml-openrail-m", "")),
        (
            "---\nlicense: other\nlicense_name: mine\nlicense_link: https://example.org/l\n---\n",
            None,
            ("mine", "https://example.org/l"),
        ),
        ("---\nlicense: other\nlicense_link: LICENSE.md\n---\n", None, ("other", "")),
        ("---\nlicense: [mit, cc0-1.0]\n---\n", None, ("mit, cc0-1.0", "")),
        ("---\ntags: [a\n---\n", "Apache License\nVersion 2.0", ("Apache-2.0", "")),
        (None, MIT, ("MIT", "")),
        ("---\nlicense: mit\ndate: 2024-02-30\nno: yes\n---\n", None, ("mit", "")),
        ("---\nlicense: 1.0\n---\n", None, ("1.0", "")),
        ("---\nlicense: {a: 1}\nlicense_link: [1]\n---\n", MIT, ("MIT", "")),
        ("---\nlicense: [mit, {a: b}, ~]\n---\n", None, ("mit, ~", "")),
        ("---\nlicense: mit\nlicense: !!python/name:os.system x\n? [a]\n: b\n---\n", None, ("mit", "")),
        (f"---\nlicense: {'x y ' * 99}\n---\n", None, (f"{'x y ' * 30}".rstrip() + "…", "")),
        (f"---\nlicense: mit\na: &a [1]\n{BOMB}---\n", None, ("mit", "")),
        ("---\nlicense: mit\n---\n" + "é" * 2**20, None, ("mit", "")),
        ("# A model", None, (NOT_STATED, "")),
        (None, None, (NOT_STATED, "")),
    ],
)
def test_a_checkpoint_names_its_licence_in_its_readme_or_beside_it(tmp_path, readme, license, expected):
    if readme is not None:
        (tmp_path / "README.md").write_text(readme)
    if license is not None:
        (tmp_path / "LICENSE").write_text(license)
    assert read_weights_license(tmp_path) == expected
    assert read_weights(str(tmp_path), "sha256:ab") == Weights(tmp_path.name, "sha256:ab", *expected)


@pytest.mark.parametrize(
    ("readme", "terms", "link"),
    [
        ("license: creativeml-openrail-m", "claims no rights", "CompVis"),
        ("license: openrail++", "claims no rights", "stable-diffusion-xl"),
        ("license: apache-2.0", "says nothing", "apache.org"),
        ("license: MIT", "says nothing", "MIT"),
        ("license: other\nlicense_name: flux-1-dev-non-commercial-license\nlicense_link: LICENSE.md", "FLUX", "github"),
        ("license: other\nlicense_name: stabilityai-ai-community\nlicense_link: https://a.org", "derivative", "a.org"),
        ("license: [mit, apache-2.0]", "under mit, apache-2.0", "MIT"),
        ("license: other\nlicense_name: house-rules", "under house-rules.*isn't known", ""),
        ("license: [mit, house-rules]", "isn't known", ""),
        ("tags: [a]", "unknown: no licence was found", ""),
    ],
)
def test_a_checkpoints_terms_for_images_are_reported_or_called_unknown(tmp_path, readme, terms, link):
    (tmp_path / "README.md").write_text(f"---\n{readme}\n---\n")
    found = read_weights(str(tmp_path), None).terms()
    assert re.search(terms, found["terms"])
    assert link in found["terms_link"]
    assert bool(found["terms_link"]) == bool(link)
    assert ("may bind them" in found["terms"]) == ("license" in readme)


def test_a_checkpoint_of_the_hub_is_looked_up_in_the_cache(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--user--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "README.md").write_text("---\nlicense: mit\n---\n")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert read_weights("user/model", "abc") == Weights("user/model", "abc", "mit")
    assert read_weights("user/other", None) == Weights("user/other", "", NOT_STATED)


def test_the_pocket_weights_are_under_the_packages_licence():
    assert read_weights("pocket", "sha256:ab").license == "Apache-2.0"


def test_no_path_of_this_machine_is_in_the_name(tmp_path):
    assert read_weights(str(tmp_path / "gone" / "model"), None).name == "model"


def test_a_built_dataset_names_its_sources_and_keeps_their_credits(tmp_path):
    pocket = find_resource("templates/pocket")
    for split in ("train", "validation"):
        for kind, folders in (("cutouts", ("bird", "mug")), ("backgrounds", ("grass", "snow"))):
            for folder in folders:
                there = tmp_path / kind / split / folder
                there.mkdir(parents=True)
                for image in sorted((pocket / kind / folder).iterdir())[split == "validation" :: 2][:3]:
                    shutil.copy(image, there)
    (tmp_path / "cutouts/train/LICENSE.txt").write_text("Creative Commons Attribution 4.0 International")
    first = sorted((tmp_path / "cutouts/train/bird").iterdir())[0].name
    (tmp_path / "cutouts/train/ATTRIBUTION.csv").write_text(f"file,author\nbird/{first},Ada\nbird/other.png,Bob\n")
    (tmp_path / "cutouts/train/bird/broken.png").write_bytes(b"")
    checkpoint = make_checkpoint("sd1", tmp_path / "tiny-model")
    (checkpoint / "README.md").write_text("---\nlicense: creativeml-openrail-m\n---\n")
    folders = {
        name: {split: str(tmp_path / kind / split) for split in ("train", "validation")}
        for name, kind in (("cutouts", "cutouts"), ("scenes", "backgrounds"))
    }
    out = D3S(
        "pocket", checkpoint=str(checkpoint), classes=["bird", "mug"], backgrounds=["grass", "snow"], **folders,
        per_cell={"train": 1, "validation": 1}, num_inference_steps=2, strength=0.9, size=32, batch_size=4,
        device="cpu", threads=1,
    ).build(tmp_path / "out", show_progress=False)  # fmt: skip
    card = (out / "README.md").read_text()
    assert "| cutouts | `train` | train | 6 | CC-BY-4.0 (LICENSE.txt) | 1 |" in card
    assert "| cutouts | `validation` | validation | 6 | not stated | 0 |" in card
    assert "1 of the cutouts files in `train` was skipped" in card
    assert f"- `bird/{first}` by Ada\n" in card
    assert f"| checkpoint | `{checkpoint.name}` |" in card
    assert "| licence | creativeml-openrail-m |" in card
    assert "| terms on images | the images were drawn with a checkpoint under creativeml-openrail-m, whose" in card
    facts = json.loads((out / "_figureground/index.json").read_text())["card"]["facts"]
    assert "claims no rights" in facts["checkpoint"]["terms"]
    assert (out / "_figureground/attribution.csv").read_text().splitlines()[1:] == [f"bird/{first},Ada,,,"]
    assert "rombach2022latent" in card
    for name in ("README.md", "croissant.json", "_figureground/index.json"):
        assert str(tmp_path) not in (out / name).read_text()
