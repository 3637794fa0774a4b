"""Mistakes that can be told without torch are told before it is imported, which takes seconds."""

import json
import subprocess
import sys

import pytest
from PIL import Image

RUN = """
import contextlib, io, json, sys
from figureground.cli.main import main
found = []
for command in json.load(sys.stdin):
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        code = main(command)
    found.append((code, err.getvalue(), "torch" in sys.modules))
print(json.dumps(found))
"""
TRAIN = "train erm --data data.csv --out out"
COMPARE = "compare data.csv --out out --methods"
FINETUNE = "finetune --references images --noun bird --class bird --out"
COMPONENTS = "components --classifier pocket --class bird --images images --out out"
WRONG = {
    "train erm --data nowhere --out out": "nowhere", f"{TRAIN} --seeds 0": "seeds", f"{TRAIN} --workers 0": "workers",
    f"{TRAIN} --device gpu": "gpu", f"{TRAIN} --y colour": "data.csv", f"{TRAIN} --add nowhere": "nowhere",
    f"{TRAIN} --backbone ./nowhere": "./nowhere", f"{TRAIN} --revision x": "revision",
    "train groupdro --data data.csv --out out": "groupdro", "train erm --data data.csv --out images": "images",
    f"{COMPARE} foo": "foo", f"{COMPARE} erm --seeds 0": "seeds", f"{COMPARE} jtt --set jtt.upwait=3": "upwait",
    f"{COMPARE} paste --set paste.quantile=3": "paste.quantile", f"{COMPARE} erm --backbone ./nowhere": "./nowhere",
    f"{COMPARE} scgs --set scgs.folds=1": "folds", "compare nowhere --methods erm --out out": "nowhere",
    "compare data.csv --methods erm --out images": "images", f"{COMPARE} erm --device gpu": "gpu",
    "evaluate dataset --classifier pocket --split test": "test", "evaluate dataset --classifier ./nowhere": "./nowhere",
    "evaluate nowhere --classifier pocket": "nowhere", "evaluate dataset --classifier pocket --device gpu": "gpu",
    "evaluate dataset --classifier pocket --labels nowhere.csv": "nowhere.csv",
    "evaluate dataset --classifier pocket --references nowhere": "nowhere",
    "evaluate dataset --classifier pocket --out data.csv": "data.csv",
    "audit nowhere": "nowhere", "audit dataset --features ./nowhere": "./nowhere",
    "audit dataset --classifier ./nowhere": "./nowhere", "audit dataset --references nowhere": "nowhere",
    "audit dataset --split test": "test", "audit dataset --device gpu": "gpu", "audit dataset --small -1": "--small",
    "audit dataset --references images": "images", "audit dataset --out data.csv": "data.csv",
    "audit dataset --references cutouts --out cutouts/out": "--out cutouts/out",
    f"{COMPONENTS} --device gpu": "gpu", f"{COMPONENTS} --count 0": "--count",
    "components --classifier ./nowhere --class bird --images images --out out": "./nowhere",
    "components --classifier pocket --class bird --images nowhere --out out": "nowhere",
    "finetune --references nowhere --noun bird --class bird --out out": "nowhere", f"{FINETUNE} images": "images",
    f"{FINETUNE} out --device gpu": "gpu", f"{FINETUNE} out --checkpoint ./nowhere --sfsl-weight 0": "./nowhere",
    f"{FINETUNE} out --feature-model ./nowhere": "./nowhere", f"{FINETUNE} out --size 65": "65",
    f"{FINETUNE} out --features neural-pca": "components",
    "build d3s --out out --set size=65": "65", "build d3s --out images": "images",
    "build d3s --out out --set checkpoint=./nowhere": "./nowhere", "build d3s --out out --set device=gpu": "gpu",
    "build d3s --out out --set revision=x": "revision", "plan d3s --set revision=x": "revision",
    "scenes d3s --out out --checkpoint pocket --revision x": "revision", f"{FINETUNE} out --revision x": "revision",
    "build d3s --out out --set scheduler=euler --set eta=0.5": "eta",
    "build spurious --out out --set feature_model=./nowhere": "./nowh",
    "build scgs --out out --data data.csv --classifier ./nowhere": "./nowhere",
    "build ddb --out out --data data.csv --set segmenter=./nowhere": "./nowhere",
    "build ddb --out out --data data.csv --set training.backbone=./nowhere": "./nowhere",
    "evaluate dataset --classifier nope": "nope", f"{TRAIN} --backbone nope": "nope",
    f"{COMPARE} erm --backbone nope": "nope", "audit dataset --classifier nope": "nope",
    f"{FINETUNE} out --feature-model nope": "nope", "cutouts images --out out --segmenter nope": "nope",
    "evaluate dataset --classifier ./coded": "auto_map", f"{TRAIN} --backbone ./coded": "auto_map",
    f"{COMPARE} erm --backbone coded": "auto_map", f"{FINETUNE} out --feature-model ./coded": "auto_map",
    "components --classifier coded --class bird --images images --out out": "auto_map",
    "build scgs --out out --data data.csv --classifier coded": "auto_map",
    "build ddb --out out --data data.csv --set training.backbone=coded": "auto_map",
    "build d3s --out cutouts/out --set cutouts=cutouts": "cutouts",
    "build d3s --out cutouts --set cutouts=cutouts": "cutouts",
    "evaluate dataset --classifier pocket --references cutouts --out cutouts/out": "--out cutouts/out",
    f"{FINETUNE} coded/out --prior coded": "--out coded/out",
    "train erm --data data.csv --out cutouts/out --add cutouts": "--out cutouts/out",
    "extend nowhere --per-cell train=9": "nowhere", "curate dataset --out out --keep foo==3": "foo",
    "merge dataset --out out": "dataset", "merge nowhere dataset --out out": "nowhere", "show nowhere": "nowhere",
    "push nowhere a/b": "nowhere", "groups nowhere": "nowhere", "plan d3s --set device=gpu": "gpu",
}  # fmt: skip
"""Wrong commands, and what the error names."""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    from tiny_datasets import make_dataset

    folder = tmp_path_factory.mktemp("early")
    make_dataset(folder / "dataset")
    (folder / "images").mkdir()
    (folder / "coded").mkdir()
    (folder / "coded" / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "code.Config"}}))
    for name in ("bird", "car"):
        (folder / "cutouts" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGBA", (8, 8), (9 * i, 9, 9, 255)).save(folder / "cutouts" / name / f"{i}.png")
    rows = ["filename,split,y"]
    for i in range(8):
        Image.new("RGB", (32, 32), (9 * i, 0, 0)).save(folder / "images" / f"{i}.png")
        rows.append(f"images/{i}.png,{i // 3},{'ab'[i % 2]}")
    (folder / "data.csv").write_text("\n".join(rows))
    before = sorted(folder.rglob("*"))
    commands = [command.split() for command in WRONG]
    process = subprocess.run(
        [sys.executable, "-c", RUN], input=json.dumps(commands), capture_output=True, text=True, cwd=folder
    )
    assert process.returncode == 0, process.stderr
    assert sorted(folder.rglob("*")) == before
    return dict(zip(WRONG, json.loads(process.stdout), strict=True))


@pytest.mark.parametrize("command", WRONG)
def test_what_is_wrong_is_reported_by_name_before_torch_is_imported(command, results):
    code, err, torch = results[command]
    assert code in (1, 2)
    assert WRONG[command] in err
    assert "--debug" not in err
    assert not torch
