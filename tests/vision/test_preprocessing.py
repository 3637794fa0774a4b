"""A classifier's input agrees with the output of its own image processor."""

import json

import numpy as np
import pytest
import torch
import transformers as t
from PIL import Image

from figureground.core.errors import FiguregroundError
from figureground.vision.preprocessing import Preprocessing, read_preprocessing, read_timm, resize_matrix, to_pixels

PROCESSORS = {
    "vit": lambda: t.ViTImageProcessorPil(),
    "vit of a number": lambda: t.ViTImageProcessorPil(size=48),
    "vit bicubic": lambda: t.ViTImageProcessorPil(size={"height": 96, "width": 72}, resample=3),
    "vit lanczos": lambda: t.ViTImageProcessorPil(size={"height": 50, "width": 50}, resample=1),
    "vit box": lambda: t.ViTImageProcessorPil(size={"height": 50, "width": 50}, resample=4),
    "vit hamming": lambda: t.ViTImageProcessorPil(size={"height": 50, "width": 50}, resample=5),
    "vit as it comes": lambda: t.ViTImageProcessorPil(do_resize=False),
    "vit in 0..255": lambda: t.ViTImageProcessorPil(do_rescale=False, do_normalize=False, size=40),
    "convnext": lambda: t.ConvNextImageProcessorPil(size={"shortest_edge": 224}),
    "convnext of a share": lambda: t.ConvNextImageProcessorPil(size={"shortest_edge": 64}, crop_pct=0.7),
    "convnext large": lambda: t.ConvNextImageProcessorPil(size={"shortest_edge": 384}),
    "deit": lambda: t.DeiTImageProcessorPil(),
    "bit": lambda: t.BitImageProcessorPil(size={"shortest_edge": 256}),
    "mobilenet": lambda: t.MobileNetV2ImageProcessorPil(),
    "mobilevit": lambda: t.MobileViTImageProcessorPil(),
    "poolformer": lambda: t.PoolFormerImageProcessorPil(),
    "poolformer of both": lambda: t.PoolFormerImageProcessorPil(size={"height": 60, "width": 60}, crop_size=60),
    "levit": lambda: t.LevitImageProcessorPil(),
    "efficientnet": lambda: t.EfficientNetImageProcessorPil(),
    "efficientnet offset": lambda: t.EfficientNetImageProcessorPil(rescale_offset=True, rescale_factor=1 / 127.5),
    "beit": lambda: t.BeitImageProcessorPil(),
    "a crop larger than the image": lambda: t.ViTImageProcessorPil(
        do_resize=False, do_center_crop=True, crop_size={"height": 131, "width": 90}
    ),
    "a longest edge": lambda: t.ViTImageProcessorPil(size={"shortest_edge": 60, "longest_edge": 70}),
}
SHAPES = [(64, 64), (100, 67), (75, 133), (300, 300)]
"""Width and height."""


def photograph(width: int, height: int) -> Image.Image:
    """Smooth colours in fine noise, with white and black cut off: hard for filters."""
    rng = np.random.default_rng(width)
    down, across = np.mgrid[0:height, 0:width] / 16
    smooth = 128 + 127 * np.stack([np.sin(across), np.sin(down), np.sin(across + down)], -1)
    return Image.fromarray(np.clip(smooth + rng.normal(0, 20, smooth.shape), 0, 255).astype(np.uint8))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", PROCESSORS)
def test_the_result_is_the_processors_own_but_for_rounding_to_8_bits(tmp_path, name, shape):
    processor = PROCESSORS[name]()
    processor.save_pretrained(tmp_path)
    image = photograph(*shape)
    expected = torch.from_numpy(np.stack(processor(image)["pixel_values"]))
    preprocessing = read_preprocessing(tmp_path, "it")
    result = preprocessing(to_pixels(image)[None])
    assert result.shape == expected.shape
    # In the 255 levels: Pillow rounds and cuts off after each of its two passes, whose order newer ones choose.
    levels = (result - expected).abs() * torch.tensor(preprocessing.std)[:, None, None] * 255
    assert levels.quantile(0.98) <= 1.5
    assert levels.mean() <= 0.5


def test_the_same_size_is_left_exactly_as_it_is():
    pixels = torch.rand(1, 3, 40, 40)
    for filter in ("bilinear", "bicubic", "lanczos", "box", "hamming"):
        same = Preprocessing((40, 40), None, filter, None, (0.0,) * 3, (1.0,) * 3)(pixels)
        assert torch.equal(same, pixels)
        assert torch.allclose(resize_matrix(40, 40, filter), torch.eye(40), atol=1e-6)


def test_gradients_are_those_of_the_function():
    preprocessing = Preprocessing(9, None, "bicubic", (8, 8), (0.4,) * 3, (0.3,) * 3)
    pixels = (0.3 + 0.4 * torch.rand(1, 3, 11, 14, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(preprocessing, pixels)


def test_what_was_used_without_gradients_first_can_be_used_with_gradients():
    preprocessing = Preprocessing((21, 23), None, "bilinear", None, (0.0,) * 3, (1.0,) * 3)
    pixels = torch.rand(1, 3, 57, 59)
    with torch.inference_mode():
        preprocessing(pixels)
    preprocessing(pixels.requires_grad_()).sum().backward()
    assert pixels.grad.abs().sum() > 0


def test_a_constant_image_stays_constant_at_every_size():
    for filter in ("bilinear", "bicubic", "lanczos", "box", "hamming"):
        for size, to in ((64, 7), (7, 64), (5, 5), (224, 223)):
            assert torch.allclose(resize_matrix(size, to, filter).sum(1), torch.ones(to), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (None, "has no preprocessor_config.json"),
        ("{", "can't be used"),
        ({"size": {"longest_edge": 20}}, "longest_edge.*without shortest_edge"),
        ({"image_mean": [0.5]}, "three channels"),
        ({"do_pad": True}, "pads images"),
        ({"resample": 0}, "nearest pixel"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_used_are_reported(tmp_path, change, words):
    t.ViTImageProcessorPil().save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    if change is None:
        path.unlink()
    elif isinstance(change, str):
        path.write_text(change)
    else:
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(FiguregroundError, match=words) as refused:
        read_preprocessing(tmp_path, "my-vit")
    assert "my-vit" in str(refused.value)


def test_old_names_of_processors_and_settings_left_out_are_understood(tmp_path):
    old = {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 224, "image_mean": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    found = read_preprocessing(tmp_path, "old")
    assert (found.size, found.crop, found.filter) == (256, (224, 224), "bicubic")


def test_timms_settings_are_read():
    about = {"input_size": (3, 224, 224), "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.25,) * 3}
    found = read_timm({**about, "crop_pct": 0.9, "crop_mode": "center"})
    assert (found.size, found.crop, found.filter, found.std) == (248, (224, 224), "bicubic", (0.25,) * 3)
    assert read_timm({**about, "crop_pct": 1.0, "crop_mode": "squash"}).size == (224, 224)
    with pytest.raises(FiguregroundError, match="crop_mode is 'border'"):
        read_timm({**about, "crop_mode": "border"})
