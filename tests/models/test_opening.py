"""Code, kernels and pickles that a model's directory names are refused, and nothing opens a model in another way."""

import ast
import io
import json
from pathlib import Path

import pytest
from PIL import Image
from tiny_classifiers import make_classifier
from transformers import AutoModelForImageClassification, ResNetConfig

from figureground.cli.main import main
from figureground.core.errors import FiguregroundError, UsageError
from figureground.learn.backbones import open_backbone
from figureground.learn.settings import Training
from figureground.models.bundled import MATCHER, ROBUST, SEGMENTER, WEIGHTS
from figureground.models.needs import missing_model
from figureground.models.opening import make_network, refuse_code
from figureground.models.weights import check_files
from figureground.vision.classifiers import open_classifier
from figureground.vision.segmentation import open_segmenter

ROOT = Path(__file__).parents[2]
HELPER = ROOT / "builders/figureground/models/opening.py"
OPENERS = {
    "from_pretrained", "from_config", "from_single_file", "create_model", "load_lora_weights",
    "load_textual_inversion", "load_ip_adapter", "load_attn_procs", "get_class_from_dynamic_module",
}  # fmt: skip
"""Functions that open a model, or make one from a configuration."""
AS_BAD = ("DiffusionPipeline.download", "pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "dill.load")


def make_evil(folder: Path, ran: Path) -> Path:
    """A classifier whose directory brings code that leaves a file where it runs."""
    make_classifier(folder)
    lines = f"open({str(ran)!r}, 'w')\nclass Evil:\n    def __init__(self, *a, **k): open({str(ran)!r}, 'w')\n"
    for name in ("evil.py", "None.py", "transformers.py"):
        (folder / name).write_text(lines)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoImageProcessor": "evil.Evil"}}))
    return folder


def test_a_yes_on_standard_input_runs_no_code_of_a_classifier(tmp_path, monkeypatch, capsys):
    evil, ran = make_evil(tmp_path / "evil", tmp_path / "ran"), tmp_path / "ran"
    (tmp_path / "images").mkdir()
    for color in ("red", "blue"):
        Image.new("RGB", (32, 32), color).save(tmp_path / "images" / f"{color}.png")
    arguments = ["components", "--classifier", str(evil), "--class", "hen", "--images", str(tmp_path / "images")]
    stdin = io.StringIO("y\n" * 100)
    monkeypatch.setattr("sys.stdin", stdin)
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 1
    errors = capsys.readouterr().err
    assert "preprocessor_config.json" in errors
    assert "auto_map" in errors
    assert stdin.tell() == 0
    assert not ran.exists()


KERNEL = "nobody/kernel@main:attention"
ENTRIES = {
    "auto_map": {"auto_map": {"AutoConfig": "evil.Evil"}},
    "attn_implementation": {"attn_implementation": KERNEL},
    "_attn_implementation": {"_attn_implementation": {"": "sdpa", "vision_config": KERNEL}},
    "experts_implementation": {"text_config": {"deeper": [{"experts_implementation": KERNEL}]}},
    "quantization_config": {"quantization_config": {"quant_method": "mxfp4"}},
    "transformers_weights": {"transformers_weights": "weights.bin"},
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_what_a_config_may_not_name_is_refused_naming_file_and_entry(tmp_path, entry):
    (tmp_path / "config.json").write_text(json.dumps(ENTRIES[entry]))
    with pytest.raises(FiguregroundError, match=rf"mine: its config\.json .*\b{entry}"):
        refuse_code(tmp_path, "mine")


@pytest.mark.parametrize("folder", [MATCHER, ROBUST, SEGMENTER, WEIGHTS])
def test_ordinary_models_pass(folder):
    refuse_code(folder, "mine")


def test_classes_may_have_any_names(tmp_path):
    labels = {"id2label": {"0": "auto_map"}, "label2id": {"auto_map": 1, "use_kernels": 2}}
    (tmp_path / "config.json").write_text(json.dumps({**labels, "attn_implementation": "sdpa", "auto_map": None}))
    refuse_code(tmp_path, "mine")


def test_an_adapter_that_names_another_model_and_a_deep_or_huge_config_are_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("[" * 100_000)
    with pytest.raises(FiguregroundError, match=r"config\.json is nested"):
        refuse_code(tmp_path, "mine")
    path.write_bytes(b" " * (2**24 + 1))
    with pytest.raises(FiguregroundError, match=r"config\.json has 16,777,217 bytes"):
        refuse_code(tmp_path, "mine")
    path.rename(tmp_path / "adapter_config.json")
    with pytest.raises(FiguregroundError, match=r"adapter_config\.json .*base_model_name_or_path"):
        refuse_code(tmp_path, "mine")


@pytest.mark.parametrize(
    ("file", "entries"),
    [
        ("model_index.json", {"custom_pipeline": "evil"}),
        ("model_index.json", {"_class_name": ["evil", "StableDiffusionPipeline"]}),
        ("model_index.json", {"scheduler": ["evil", "DDIMScheduler"]}),
        ("model_index.json", {"feature_extractor": ["subprocess", "Popen"]}),
        ("unet/config.json", {"auto_map": {"AutoModel": "evil.Evil"}}),
        ("text_encoder/config.json", {"attn_implementation": KERNEL}),
        ("tokenizer/tokenizer_config.json", {"auto_map": ["evil.Evil", None]}),
        ("scheduler/scheduler_config.json", {"auto_map": {"Scheduler": "evil.Evil"}}),
    ],
)
def test_a_checkpoint_that_names_code_is_refused_before_torch_is_needed(made, edit, file, entries):
    edit(made / "sd1" / file, **entries)
    with pytest.raises(FiguregroundError, match=f"{file} .*{next(iter(entries))}"):
        check_files(made / "sd1", "mine")


def test_classifiers_backbones_and_segmenters_are_opened_through_it(tmp_path, edit):
    evil, ran = make_evil(tmp_path / "evil", tmp_path / "ran"), tmp_path / "ran"
    with pytest.raises(FiguregroundError, match="auto_map"):
        open_classifier(str(evil))
    with pytest.raises(UsageError, match=r"classifier.*auto_map"):
        missing_model("classifier", str(evil))
    with pytest.raises(FiguregroundError, match="auto_map"):
        open_backbone(Training("erm", backbone=str(evil)), ("a", "b"), 32, 0)
    edit(evil / "config.json", model_type="clipseg")
    with pytest.raises(FiguregroundError, match="auto_map"):
        open_segmenter(str(evil))
    assert not ran.exists()


def test_a_configuration_that_names_code_makes_no_network():
    config = ResNetConfig(auto_map={"AutoModelForImageClassification": "evil.Evil"})
    with pytest.raises(FiguregroundError, match="auto_map"):
        make_network(AutoModelForImageClassification, config)


def bypasses(source: str) -> list[str]:
    """Places in a file's source that open models, pickles or foreign code without the helper."""
    found = []
    for node in ast.walk(ast.parse(source)):
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None
        if name in OPENERS:
            found.append(f"{node.lineno}: {name}")
        if isinstance(node, ast.Constant) and node.value in OPENERS:  # getattr(kind, "from_pretrained")
            found.append(f"{node.lineno}: {node.value!r}")
        if isinstance(node, ast.ImportFrom) and "pipeline" in {each.name for each in node.names}:
            found.append(f"{node.lineno}: pipeline")
        if not isinstance(node, ast.Call):
            continue
        keywords = {word.arg: word.value for word in node.keywords}
        constants = {arg: value.value for arg, value in keywords.items() if isinstance(value, ast.Constant)}
        called = ast.unparse(node.func)
        if called == "torch.load" and constants.get("weights_only") is not True:
            found.append(f"{node.lineno}: torch.load without weights_only=True")
        if called in AS_BAD or called.startswith("torch.hub."):
            found.append(f"{node.lineno}: {called}")
        if constants.get("trust_remote_code") is True or constants.get("allow_pickle") is True:
            found.append(f"{node.lineno}: trusts code or a pickle")
    return found


def test_nothing_opens_a_model_without_the_helper():
    files = [path for folder in ("builders", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 100
    found = {str(p.relative_to(ROOT)): lines for p in files if p != HELPER and (lines := bypasses(p.read_text()))}
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "kind.from_pretrained(folder)", "map(kind.from_config, configs)", "getattr(kind, 'from_pretrained')(folder)",
        "timm.create_model('a')", "torch.load(path)", "np.load(path, allow_pickle=True)", "pickle.load(f)",
        "from transformers import pipeline", "torch.hub.load('a', 'b')", "f(trust_remote_code=True)",
    ],
)  # fmt: skip
def test_the_walk_sees_each_way_around_the_helper(source):
    assert bypasses(source)
