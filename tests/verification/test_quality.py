"""Blur and brightness."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from figureground.verification.quality import measure_blur, measure_brightness


def noise(size=64):
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (size, size, 3), dtype=np.uint8))


def grey(image):
    return np.asarray(image.convert("L"), np.float64) / 255


def test_a_smoother_image_is_more_blurred():
    found = [measure_blur(grey(noise().filter(ImageFilter.GaussianBlur(radius)))) for radius in (0, 1, 4)]
    assert found == sorted(found)
    assert found[0] < 0.2 < 0.8 < found[-1] <= 1


def test_an_image_without_an_inside_is_blurred():
    assert measure_blur(np.zeros((2, 2))) == 1


@pytest.mark.parametrize(("colour", "expected"), [("black", 0.0), ("white", 1.0), ((128, 128, 128), 128 / 255)])
def test_brightness_is_the_mean_luma(colour, expected):
    assert measure_brightness(Image.new("RGB", (8, 8), colour)) == pytest.approx(expected)
