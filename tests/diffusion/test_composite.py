"""A repainted region stands in its source with nothing of the old at its rim and nothing new outside."""

import numpy as np
import pytest

from figureground.diffusion.composite import composite, widen_to_latents


def square(edge, *corners):
    mask = np.zeros((edge, edge), bool)
    left, top, right, bottom = corners
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize("factor", [4, 8])
def test_a_block_that_the_mask_touches_is_repainted_whole(factor):
    edge = 8 * factor
    one = square(edge, 3 * factor - 1, factor, 3 * factor, factor + 1)  # the last pixel of a block's first row
    assert (widen_to_latents(one, factor) == square(edge, 2 * factor, factor, 3 * factor, 2 * factor)).all()
    assert (widen_to_latents(one, factor, 1) == square(edge, factor, 0, 4 * factor, 3 * factor)).all()


def test_full_and_empty_masks_stay_so():
    for mask in (np.ones((16, 16), bool), np.zeros((16, 16), bool)):
        assert (widen_to_latents(mask, 4, 2) == mask).all()


@pytest.mark.parametrize("feather", [0, 0.5, 2, 4])
def test_the_mask_shows_what_was_drawn_and_all_further_than_the_feather_the_source_exactly(feather):
    source, drawn = np.random.default_rng(0).random((2, 32, 32, 3)).astype(np.float32)
    mask = square(32, 12, 8, 20, 16)
    made = composite(source, drawn, mask, feather)
    assert made.dtype == np.float32
    assert (made[mask] == drawn[mask]).all()
    wide = int(np.ceil(feather))
    far = ~square(32, 12 - wide, 8 - wide, 20 + wide, 16 + wide)
    assert (made[far] == source[far]).all()
    assert ((made == source).all(axis=-1) == far).all()


def test_the_drawn_share_falls_evenly_around_the_mask():
    made = composite(np.zeros((16, 16, 3)), np.ones((16, 16, 3)), square(16, 0, 0, 8, 16), feather=3)
    assert made[5, 6:13, 0] == pytest.approx([1, 1, 0.75, 0.5, 0.25, 0, 0])
