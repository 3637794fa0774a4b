"""The D3S builder's plan: what each image starts from, and what is refused before any weight is loaded."""

import shutil
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from PIL import Image

from figureground import D3S
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.core.resources import find_resource

CUTOUTS, SCENES = find_resource("templates/pocket/cutouts"), find_resource("templates/pocket/backgrounds")


def specs(builder):
    plan = builder.plan()
    return [spec for shard in plan.shards() for spec in plan.specs(shard)]


def make_images(root: Path, folders: dict[str, int]) -> Path:
    """Directories of different plain images; a folder's name and how many."""
    for n, (folder, count) in enumerate(folders.items()):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8), (n, i, 99)).save(root / folder / f"{i}.png")
    return root


def test_the_demo_has_600_images_and_every_cell_alike():
    made = specs(D3S("pocket"))
    assert Counter(s.split for s in made) == {"train": 500, "validation": 100}
    assert set(Counter((s.split, s.foreground, s.background) for s in made).values()) == {5, 1}


def test_imagenet_is_d3s_as_its_authors_set_it():
    config = D3S("imagenet").config
    assert (config.checkpoint, config.size, config.scheduler, config.num_inference_steps, config.eta) == (
        "CompVis/stable-diffusion-v1-4",
        512,
        "ddim",
        50,
        0,
    )
    assert (config.strength, config.guidance_scale, config.negative_prompt) == (0.9, 5.0, "")
    assert (config.paste, config.cutout_scale, config.position) == ("square", 0.4, "uniform")
    assert config.per_cell == {"train": 10, "validation": 2}
    assert D3S("imagenet").plan().totals() == {"train": 100_000, "validation": 20_000}


def test_validation_shares_no_cutout_and_no_template_with_training():
    used = defaultdict(set)
    for s in specs(D3S("pocket", per_cell={"train": 20, "validation": 20})):
        used[s.split] |= {s.guide.cutout.split("@")[1], s.guide.template.split("@")[1]}
    assert used["train"]
    assert used["validation"]
    assert used["train"].isdisjoint(used["validation"])


def test_guides_are_of_the_right_class_and_background_and_inside_the_canvas():
    made = specs(D3S("pocket"))
    assert len(made) == 600
    for s in made:
        assert s.guide.cutout.startswith(s.foreground_name + "/")
        assert s.guide.template.startswith(s.background_name + "/")
        left, top, right, bottom = s.guide.box
        assert 0 <= left < right <= 64
        assert 0 <= top < bottom <= 64
        assert s.prompt.startswith(f"a photo of a {s.foreground_name}, ")


def test_matched_foregrounds_are_the_same_on_every_background():
    builder = D3S("pocket", match="foreground")
    objects = defaultdict(set)
    for s in specs(builder):
        objects[s.split, s.foreground, s.key[-5:]].add((s.guide.cutout, s.guide.box, s.guide.flip, s.seed))
    assert {len(o) for o in objects.values()} == {1}
    assert len(objects) == 60
    matched = [s for s in specs(builder) if s.split == "train" and s.foreground == 0 and s.key.endswith("00000")]
    masks = {builder.load_guide(s)[1].tobytes() for s in matched}
    assert len(matched) == 10
    assert len(masks) == 1


def test_recipes_that_differ_in_strength_give_paired_images():
    low, high = (specs(D3S("pocket", strength=s)) for s in (0.5, 0.9))
    assert len(low) == 600
    assert low == high


def test_controls_start_from_nothing_or_from_photographs():
    assert [s.guide for s in specs(D3S("pocket-text-only"))] == [None] * 600
    for name, strength in (("reconstruction", 0.2), ("same-background", 0.6)):
        builder = D3S(f"pocket-{name}")
        assert builder.config.strength == strength
        made = specs(builder)
        assert {(s.foreground, s.background) for s in made} == {(f, b) for f in range(10) for b in range(10)}
        assert {s.guide.kind for s in made} == {"photograph"}
        by_split = [{s.guide.cutout for s in made if s.split == split} for split in ("train", "validation")]
        assert all(by_split)
        assert by_split[0].isdisjoint(by_split[1])


def test_photographs_without_known_background_are_labelled_unknown(tmp_path):
    photographs = make_images(tmp_path, {"bird": 3, "car": 3})
    builder = D3S(
        "reconstruction", photographs=str(photographs), classes={"bird": "", "car": ""}, checkpoint="pocket", size=64
    )
    assert builder.columns().backgrounds == ["unknown"]
    assert {s.prompt for s in specs(builder)} == {"a photo of a bird", "a photo of a car"}
    with pytest.raises(RecipeError, match="2 of 2 classes have none on a known background: bird, car"):
        D3S("same-background", photographs=str(photographs), classes={"bird": "", "car": ""})


def test_ones_own_directories_with_classes_named_by_their_folders(tmp_path):
    cutouts = make_images(tmp_path / "c", {"tea_pot": 3, "Kaffeekanne ä": 3})
    scenes = make_images(tmp_path / "t", {"beach": 2, "grass": 2})
    builder = D3S(
        "imagenet",
        cutouts=str(cutouts),
        scenes=str(scenes),
        classes="folders",
        backgrounds={"beach": "on the beach", "grass": "on grass"},
    )
    prompts = {s.prompt for s in specs(builder)}
    assert "a photo of a tea pot, on the beach" in prompts
    assert "a photo of a Kaffeekanne ä, on grass" in prompts


def test_class_folders_may_be_named_by_wordnet_id(tmp_path):
    cutouts = make_images(tmp_path / "c", {"n01440764": 2, "goldfish": 2})
    builder = D3S("imagenet", classes=["tench", "goldfish"], cutouts=str(cutouts), scenes="pocket")
    assert {s.guide.cutout.split("/")[0] for s in specs(builder) if s.foreground_name == "tench"} == {"n01440764"}


def test_directories_by_split_that_share_a_file_are_refused(tmp_path):
    for split in ("train", "validation"):
        shutil.copytree(CUTOUTS, tmp_path / split)
    d3s = D3S("pocket", cutouts={split: str(tmp_path / split) for split in ("train", "validation")})
    with pytest.raises(FiguregroundError, match="used by two splits"):
        d3s.build(tmp_path / "d3s")
    assert not (tmp_path / "d3s").exists()


def test_the_recipe_does_not_depend_on_where_the_images_lie(tmp_path):
    shutil.copytree(CUTOUTS, tmp_path / "elsewhere")
    assert (
        D3S("pocket", cutouts=str(tmp_path / "elsewhere")).content_hashes()["cutouts"]
        == D3S("pocket").content_hashes()["cutouts"]
    )
    next((tmp_path / "elsewhere" / "bird").glob("*.png")).unlink()
    assert (
        D3S("pocket", cutouts=str(tmp_path / "elsewhere")).content_hashes()["cutouts"]
        != D3S("pocket").content_hashes()["cutouts"]
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"strenght": 0.5}, "strenght: d3s has no such field, did you mean 'strength'"),
        ({"strength": 1.5}, r"strength: 1\.5 is not a number from 0 to 1"),
        ({"strength": "high"}, "strength: 'high' is not a number"),
        ({"num_inference_steps": 10, "strength": 0.05}, "less than one step"),
        ({"num_inference_steps": 0}, "num_inference_steps: 0 is not a whole number from 1 to 1000"),
        ({"guidance_scale": -1}, "guidance_scale: -1"),
        ({"guidance_scale": float("inf")}, "guidance_scale: inf"),
        ({"strength": float("nan")}, "strength: nan"),
        ({"scheduler": "dimm"}, "scheduler: 'dimm' is not one of .*did you mean 'ddim'"),
        ({"paste": "alpha"}, "paste: 'alpha' is not one of mask, square"),
        ({"position": "left"}, "position: 'left'"),
        ({"match": "background"}, "match: 'background'"),
        ({"guide": "sketch"}, "guide: 'sketch'"),
        ({"image_format": "jpeg"}, "did you mean 'jpg'"),
        ({"formats": []}, "formats: the list is empty"),
        ({"formats": ["arrow"]}, "formats: 'arrow' is not one of parquet, webdataset"),
        ({"keep": "guide"}, "keep: 'guide' is not a list"),
        ({"cutout_scale": 0}, "cutout_scale: 0 is not a number from 0.05 to 1"),
        ({"cutout_scale": [0.9, 0.2]}, "cutout_scale"),
        ({"per_cell": 3}, "per_cell: 3 is not a mapping"),
        ({"per_cell": {"Train!": 3}}, "per_cell: 'Train!' "),
        ({"per_cell": {"all": 3}}, "per_cell: 'all' "),
        ({"per_cell": {"train": -1}}, r"per_cell\.train: -1"),
        ({"per_cell": {"train": 0, "validation": 0}}, "train would have no image"),
        ({"classes": ["brid"]}, "classes: 'brid' is not in the list 'pocket', did you mean 'bird'"),
        ({"backgrounds": ["gras"]}, "backgrounds: 'gras' is not in the list 'd3s', did you mean 'grass'"),
        ({"prompt": "a {clas}"}, r"nothing fills the placeholder \{clas\}"),
        ({"table": {"correlation": 1}}, "90 cells without images: .*allow_empty"),
        ({"cutouts": "/nonexistent"}, "cutouts: there is no directory '/nonexistent'"),
        ({"limit": 0}, "limit: 0"),
        ({"workers": 0}, "workers: 0"),
        ({"dtype": "int8"}, "dtype: 'int8'"),
        ({"compile": "yes please"}, "compile: 'yes please' is not true or false"),
        ({"definitions": "missing.csv"}, "definitions: there is no file"),
        ({"definitions": 3}, "definitions: 3 is not a text"),
        ({"revision": 1234567}, "revision: 1234567 is not a text; put it in quotes"),
        ({"formats": ["parquet", "parquet"]}, "formats: parquet, parquet names the same one twice"),
        ({"guide": "none", "keep": ["guide"]}, "keep: 'guide' .*guide=none"),
        ({"table": {"pairing": {"bird": None}}}, "bird: None is neither a background nor a list"),
    ],
)
def test_a_bad_field_is_refused_naming_field_value_and_what_is_accepted(fields, message):
    with pytest.raises(RecipeError, match=message):
        D3S("pocket", **fields)


def test_an_unknown_config_names_the_nearest():
    with pytest.raises(RecipeError, match="d3s has no config 'poket', did you mean 'pocket'"):
        D3S("poket")


def test_missing_sources_are_reported_before_anything_is_loaded(tmp_path):
    with pytest.raises(RecipeError, match=r"cutouts: none are given\. .*--set cutouts=DIR"):
        D3S("imagenet").build(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_photographs_are_found_whatever_capitals_their_folders_have(tmp_path):
    photographs = make_images(tmp_path, {"Great_White_Shark/Water": 3, "tench/water": 3})
    builder = D3S("same-background", photographs=str(photographs), classes=["tench", "great white shark"])
    assert {(s.foreground_name, s.background_name) for s in specs(builder)} == {
        ("tench", "water"), ("great white shark", "water"),
    }  # fmt: skip


@pytest.mark.parametrize("config", ["pocket-same-background", "pocket-reconstruction", "edit"])
def test_photographs_beside_the_folders_of_backgrounds_are_reported(tmp_path, config):
    photographs = make_images(tmp_path, {"bird": 2, "bird/grass": 3, "bird/snow": 3, "car/grass": 3})
    fields = {"photographs": str(photographs), "classes": ["bird", "car"], "backgrounds": ["grass", "snow"]}
    if config == "edit":
        fields["classes"] = dict.fromkeys(fields["classes"])
    notes = D3S(config, **fields).notes()
    assert "2 photographs beside these, such as bird/0.png" in "\n".join(notes)
    for path in (photographs / "bird").glob("*.png"):
        path.unlink()
    assert not any("Not used" in note for note in D3S(config, **fields).notes())


def test_whole_numbers_and_paths_are_the_same_recipe_as_floats_and_texts():
    one = D3S("pocket", strength=1, guidance_scale=4, cutout_scale=0.5, cutouts=CUTOUTS)
    other = D3S("pocket", strength=1.0, guidance_scale=4.0, cutout_scale=[0.5, 0.5], cutouts=str(CUTOUTS))
    assert one.identity() == other.identity()


def test_a_split_whose_images_come_from_a_csv_alone_gets_its_share_of_cutouts(tmp_path):
    (tmp_path / "t.csv").write_text("foreground,background,count\nbird,grass,2\n")
    builder = D3S("pocket", per_cell={"train": 5, "validation": 0}, table=str(tmp_path / "t.csv"), allow_empty=True)
    assert Counter(s.split for s in specs(builder)) == {"train": 2, "validation": 2}
    with pytest.raises(RecipeError, match=r"without images: .* Add their counts to .*t\.csv, or .*allow_empty"):
        D3S("pocket", per_cell={"train": 5}, table=str(tmp_path / "t.csv")).plan()


def test_unreadable_cutouts_are_skipped_and_listed_with_the_reason(tmp_path):
    shutil.copytree(CUTOUTS, tmp_path / "c")
    whole = (tmp_path / "c" / "bird" / "bird-00.png").read_bytes()
    (tmp_path / "c" / "bird" / "broken.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "c" / "bird" / "empty.png").touch()
    builder = D3S("pocket", cutouts=str(tmp_path / "c"))
    assert [name for name, _ in builder.skipped()] == ["bird/broken.png", "bird/empty.png"]
    assert all(reason for _, reason in builder.skipped())
    cutouts = [s.guide.cutout for s in specs(builder)]
    assert len(cutouts) == 600
    assert not any("broken" in cutout for cutout in cutouts)


def test_a_plan_needs_no_checkpoint_and_a_build_says_that_it_is_missing(tmp_path):
    builder = D3S("pocket", checkpoint="./not-here")
    assert builder.plan().totals() == {"train": 500, "validation": 100}
    with pytest.raises(FiguregroundError, match=r"no such directory: '\./not-here'"):
        builder.build(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_text_only_control_takes_its_classes_from_the_same_cutout_folders(tmp_path):
    cutouts = make_images(tmp_path, {"tea_pot": 1, "cup": 1})
    builder = D3S("text-only", classes="folders", cutouts=str(cutouts))
    assert {s.foreground_name for s in specs(builder)} == {"tea_pot", "cup"}
    assert {s.guide for s in specs(builder)} == {None}


def test_backgrounds_can_be_the_folders_of_the_templates(tmp_path):
    cutouts = make_images(tmp_path / "cutouts", {"red fox": 2, "owl": 2})
    scenes = make_images(tmp_path / "scenes", {"beach": 2, "car_park": 2})
    builder = D3S(cutouts=cutouts, scenes=scenes, classes="folders", backgrounds="folders")
    assert builder.plan().backgrounds == ["beach", "car_park"]
    assert {s.prompt for s in specs(builder)} == {
        f"a photo of a {noun}, {scene}"
        for noun in ("red fox", "owl")
        for scene in ("beach background", "car park background")
    }


def test_missing_scenes_are_called_backgrounds_and_the_way_out_is_named(tmp_path):
    scenes = make_images(tmp_path / "scenes", {"beach": 2})
    with pytest.raises(FiguregroundError, match=r"10 of 10 backgrounds have no folder .*--set backgrounds=folders"):
        D3S("pocket", scenes=scenes).build(tmp_path / "d3s")


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ({"prompt": "a photo of a {class}"}, "{background}"),
        ({"prompt": "a photo, {background}"}, "{class}"),
        ({"paste": "square"}, "150 of 150 cut-outs have transparency or a mask"),
        ({}, None),
    ],
)
def test_what_may_be_a_mistake_is_reported_by_plan(settings, note):
    notes = D3S("pocket", **settings).plan_notes()
    assert notes == [] if note is None else note in notes[0]


def test_opaque_cut_outs_doubled_ones_and_unreadable_files_are_reported_by_plan(tmp_path):
    cutouts = make_images(tmp_path / "cutouts", {"red fox": 3, "owl": 3})
    shutil.copy(cutouts / "owl" / "0.png", cutouts / "red fox" / "same.png")
    (cutouts / "owl" / "broken.png").write_bytes(b"")
    notes = "\n".join(D3S(cutouts=cutouts, classes="folders", paste="mask").plan_notes())
    assert "1 images are in more than one class, such as owl, red fox." in notes
    assert "6 of 6 cut-outs have neither transparency nor a mask" in notes
    assert "1 source files can't be read, such as owl/broken.png: the file is empty" in notes
