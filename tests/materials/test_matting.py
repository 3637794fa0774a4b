"""Edges of cut-outs follow the image and carry no colour of the old background."""

from __future__ import annotations

import numpy as np
from PIL import Image

from figureground.materials.cutting import Photograph, cut
from figureground.materials.matting import box_mean, foreground_colours, refine, to_alpha
from figureground.materials.settings import Cutting

HEIGHT, WIDTH = 160, 200


def soft_disc(edge=6.0):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.clip((50 - np.hypot(x - 100, y - 80)) / edge + 0.5, 0, 1).astype(np.float32)


def composite(alpha, behind):
    """An object with a gradient in its colours, on a plain background; object and mixture."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    thing = np.stack([0.7 + 0.2 * x / WIDTH, 0.3 + 0.2 * y / HEIGHT, 0 * x + 0.2], 2).astype(np.float32)
    return thing, alpha[..., None] * thing + (1 - alpha[..., None]) * np.array(behind, np.float32)


def test_colours_at_soft_edges_are_the_objects_own():
    alpha = soft_disc()
    thing, image = composite(alpha, (0.1, 0.9, 0.3))
    soft = (alpha > 0.1) & (alpha < 0.9)
    assert soft.sum() > 500
    before, after = (np.abs(each - thing)[soft].mean() for each in (image, foreground_colours(image, alpha)))
    assert before > 0.2
    assert after < 0.02
    inside = alpha == 1
    assert (foreground_colours(image, alpha)[inside] == image[inside]).all()


def test_a_cut_out_on_another_ground_shows_no_rim_of_the_old_one():
    alpha = soft_disc()
    thing, image = composite(alpha, (0.1, 0.9, 0.3))
    photograph = Photograph(Image.fromarray(np.rint(image * 255).astype(np.uint8)), alpha, "mask")
    made = cut(photograph, None, Cutting())
    assert made is not None
    left, top, right, bottom = made.box
    rgba = np.asarray(made.image, np.float32) / 255
    share, new = rgba[..., 3:], np.array([0.1, 0.2, 0.9], np.float32)
    pasted = share * rgba[..., :3] + (1 - share) * new
    true = alpha[top:bottom, left:right, None]
    ideal = true * thing[top:bottom, left:right] + (1 - true) * new
    assert np.abs(pasted - ideal).max() < 0.05
    assert (rgba[share[..., 0] == 0] == 0).all()


def test_coarse_edges_move_to_those_of_the_image():
    sharp = soft_disc(1.0)
    _, image = composite(sharp, (0.1, 0.9, 0.3))
    small = Image.fromarray(sharp).resize((WIDTH // 8, HEIGHT // 8), Image.Resampling.BOX)
    coarse = np.roll(np.asarray(small.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)), 3, axis=1)
    before, after = (((each > 0.5) ^ (sharp > 0.5)).sum() for each in (coarse, refine(coarse, np.float32(image))))
    assert before > 300
    assert after < before / 3


def test_alpha_ramps_around_the_threshold():
    assert to_alpha(np.array([[0.0, 0.1, 0.5, 0.9]], np.float32), 0.5, 0.8).tolist()[0] == [0, 0, 0.5, 1]
    assert to_alpha(np.array([[0.24, 0.26]], np.float32), 0.25, 0.0).tolist() == [[0, 1]]


def test_means_stop_at_the_borders():
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert box_mean(values, 1)[0, 0] == values[:2, :2].mean()
    assert box_mean(values, 1)[1, 2] == values[:, 1:].mean()
    assert box_mean(values, 9)[2, 3] == values.mean()
    assert box_mean(np.dstack([values, values * 2]), 1)[1, 1, 1] == 2 * values[:, :3].mean()
