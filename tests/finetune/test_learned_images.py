"""Images that a token is learned from, and their masks."""

import shutil

import numpy as np
import torch
from PIL import Image

from figureground.core.hashing import content_hash
from figureground.finetune.images import hide_region, read_images, to_grid
from figureground.finetune.training_images import format_notes


def test_files_of_one_name_are_told_apart(images, tmp_path):
    files = []
    for i, path in enumerate(sorted(images.iterdir())):
        (tmp_path / f"{i}").mkdir()
        files.append(shutil.copy(path, tmp_path / f"{i}" / "mug.png"))
    found, left_out = read_images(files, 32, False, None)
    assert [image.name for image in found] == ["mug.png", "mug.png (2)", "mug.png (3)", "mug.png (4)"]
    assert format_notes(left_out) == []


def test_each_image_keeps_its_own_mask_in_whatever_order_they_are_given(images, tmp_path):
    masks = []
    for i, _ in enumerate(images.iterdir()):
        mask = Image.new("L", (40, 40))
        mask.paste(200, (0, 0, 10 * (i + 1), 40))
        mask.save(tmp_path / f"{i}.png")
        masks.append(tmp_path / f"{i}.png")
    files = sorted(images.iterdir())
    again = shutil.copy(files[0], tmp_path / "again.png")  # the same image under a later name
    found, left_out = read_images([again, *files[::-1]], 32, True, [masks[3], *masks[::-1]])
    assert left_out.repeated == [(tmp_path / "again.png", images / "00.png")]
    assert [image.mask.getbbox() for image in found] == [(0, 0, 10 * (i + 1), 40) for i in range(4)]
    assert [image.mask_sha256 for image in found] == [content_hash(mask) for mask in masks]


def test_a_mask_on_the_latent_grid_is_shares_of_area_mirrored_with_its_image():
    mask = Image.new("L", (40, 40))
    mask.paste(255, (0, 0, 15, 40))
    plain, mirrored = to_grid(mask, 8, flip=True)[:, 0]
    assert torch.equal(plain[0], torch.tensor([1, 1, 1, 0, 0, 0, 0, 0.0]))
    assert torch.equal(mirrored, plain.flip(1))
    assert 0 < to_grid(Image.fromarray(np.pad([[255]], 999).astype(np.uint8)), 8, flip=False).sum() < 1e-2


def test_what_an_inpainting_checkpoint_is_to_paint_is_grey_with_a_margin_and_all_else_stays(images, tmp_path):
    mask = Image.new("L", (40, 40))
    mask.paste(255, (0, 0, 10, 40))
    mask.save(tmp_path / "left.png")
    files = sorted(images.iterdir())
    (first, *_), _ = read_images(files, 32, True, [tmp_path / "left.png"] * len(files))
    seen, where = hide_region(first, 8, 1)
    seen, where, image = np.asarray(seen), np.asarray(where) > 0, np.asarray(first.image)
    assert where[:, :16].all()  # a quarter of 32 pixels, and a latent pixel around
    assert not where[:, 16:].any()
    assert (seen[where] == 128).all()
    assert (seen[~where] == image[~where]).all()
    whole, everywhere = hide_region(first._replace(mask=None), 8, 1)
    assert np.asarray(everywhere).min() == 255
    assert (np.asarray(whole) == 128).all()
