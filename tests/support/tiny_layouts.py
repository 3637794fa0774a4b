"""Miniature copies of the layouts in which labelled data sets come, each of a few small images."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

_NUMBERS = itertools.count()


def make_image(path: Path, size: tuple[int, int] = (10, 8)) -> Path:
    """An image of noise, another one each time; a JPEG or what the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(next(_NUMBERS)).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def make_images(folder: Path, count: int, suffix: str = "jpg") -> None:
    for i in range(count):
        make_image(folder / f"{i}.{suffix}")


def make_mask(path: Path, size: tuple[int, int] = (10, 8), value: int = 255) -> Path:
    """The mask of an image: its left half is the object."""
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[:, : size[0] // 2] = value
    beside = path.with_name(f"{path.stem}.mask.png")
    Image.fromarray(mask).save(beside)
    return beside


def write_csv(path: Path, header: str, rows: Iterable[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n", encoding="utf-8")
    return path


TABLE = [
    (f"{split}/{y}{a}{i}.png", n, y, a)
    for n, split in enumerate(("train", "val", "test"))
    for y in (0, 1) for a in (0, 1)
    for i in range(4 if n == 0 and y == a else 1)
]  # fmt: skip
"""Rows of a table: four training images where y is a, and one of each group else."""


def make_table(folder: Path, rows=TABLE, header: str = "filename,split,y,a", images: bool = True) -> Path:
    """`metadata.csv` with images below it."""
    for row in rows if images else ():
        make_image(folder / row[0])
    return write_csv(folder / "metadata.csv", header, rows)


def make_waterbirds(folder: Path, train: Sequence[int] = (5, 2, 1, 3)) -> Path:
    """Waterbirds: training images of the four groups, and one of each in the other splits."""
    rows = []
    for split, counts in enumerate((train, (1, 1, 1, 1), (1, 1, 1, 1))):
        for (y, place), count in zip(itertools.product((0, 1), (0, 1)), counts, strict=True):
            for _ in range(count):
                name = f"{len(rows) % 3:03d}.Some_Bird/Some_Bird_{len(rows):04d}.jpg"
                rows.append((len(rows) + 1, name, y, split, place, "/b/beach/00000001.jpg"))
                make_image(folder / name)
    return write_csv(folder / "metadata.csv", "img_id,img_filename,y,split,place,place_filename", rows)


ATTRIBUTES = ("Bald", "Blond_Hair", "Male", "Young")
FACES = [(f"{i + 1:06d}.jpg", -1, 1 if i % 3 == 0 else -1, 1 if i % 2 else -1, 1) for i in range(24)]
"""Name and attributes; of every third the hair is blond, every second is a man."""


def make_celeba(folder: Path, kind: str = "csv", images: str = "img_align_celeba") -> Path:
    """CelebA: `csv` as archives have it now, `txt` as it was published."""
    for name, *_ in FACES:
        make_image(folder / images / name)
    splits = [(face[0], i // 8) for i, face in enumerate(FACES)]
    if kind == "csv":
        write_csv(folder / "list_eval_partition.csv", "image_id,partition", splits)
        return write_csv(folder / "list_attr_celeba.csv", ",".join(["image_id", *ATTRIBUTES]), FACES)
    (folder / "list_eval_partition.txt").write_text("".join(f"{name} {split}\n" for name, split in splits))
    lines = [
        str(len(FACES)),
        " ".join(ATTRIBUTES) + " ",
        *(f"{f[0]}  {f[1]:>2} {f[2]:>2} {f[3]:>2} {f[4]:>2}" for f in FACES),
    ]
    path = folder / "list_attr_celeba.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


METASHIFT = {
    "train/cat/cat(sofa)": 8, "train/cat/cat(bed)": 20, "train/dog/dog(cabinet)": 7, "train/dog/dog(bed)": 1,
    "test/cat/cat(shelf)": 2, "test/dog/dog(shelf)": 3,
}  # fmt: skip


def make_folders(folder: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        make_images(folder / name, count)
    return folder
