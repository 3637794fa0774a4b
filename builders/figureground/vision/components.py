"""Contact sheets of the images that most activate a class's neural principal components, to find spurious features."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from figureground.core import signals
from figureground.core.batches import batched
from figureground.core.errors import FiguregroundError, RecipeError, join_names, plural, printable
from figureground.core.files import replace_bytes
from figureground.core.fonts import Font, choose_font, fit_text, to_ascii
from figureground.core.owned import encode_png, is_ours, refuse_within
from figureground.core.progress import Progress
from figureground.sources.images import UnreadableImage, fit_size, list_images, list_non_files, read_image
from figureground.vision.classifiers import Classifier, Reading
from figureground.vision.neural_pca import fit_components, weight_features, write_components

SHEET, TABLE, TENSORS = "components.png", "components.json", "components.safetensors"
"""Output files of the command."""
MADE_BY = "figureground components"
BATCH = 32
MAX_DOWN, MAX_ACROSS = 128, 32
"""Maximum number of components, and of images per component, on a sheet."""
EDGE, GAP, CAPTION, HEAD = 128, 6, 30, 170
"""Sizes in pixels: image edge, gap between images, height of captions, width of the text before a row."""


@dataclass(frozen=True)
class ClassImages:
    """The images of a class, with a classifier's output."""

    paths: tuple[Path, ...]
    reading: Reading
    """On the CPU, in the order of `paths`."""
    unreadable: Mapping[str, str]
    """Files that can't be read as images, and why."""


def read_class_images(classifier: Classifier, directory: Path, *, show_progress: bool = True) -> ClassImages:
    """Run a classifier on all images directly in a directory.

    Raises:
        FiguregroundError: The directory doesn't exist or has fewer than two images, or the classifier isn't a feature
            network.
    """
    classifier.require_features()
    if not directory.is_dir():
        raise FiguregroundError(f"there is no directory {str(directory)!r} with images of the class.")
    unreadable = {printable(path.name): reason for path, reason in list_non_files(directory)}
    paths: list[Path] = []
    readings: list[Reading] = []
    files = list_images(directory)
    with Progress.stoppable(len(files), unit="image", desc="reading", show=show_progress) as bar:
        for batch in bar.track(batched(_read_images(files, unreadable), BATCH), len):
            with torch.inference_mode():
                reading = classifier.read([image for _, image in batch])
            readings.append(Reading(reading.logits.cpu(), reading.features.cpu()))
            paths += [path for path, _ in batch]
    if len(paths) < 2:
        problems = join_names([f"{name}: {reason}" for name, reason in unreadable.items()], 3)
        raise FiguregroundError(
            f"{str(directory)!r} has {plural(len(paths), 'image')} that can be read; components need at least 2, "
            f"preferably 50 or more, directly in the directory{f' ({problems})' if problems else ''}."
        )
    logits, features = (torch.cat(parts).clone() for parts in zip(*readings, strict=True))
    return ClassImages(tuple(paths), Reading(logits, features), unreadable)


def _read_images(files: Sequence[Path], unreadable: dict[str, str]) -> Iterator[tuple[Path, Image.Image]]:
    """Yield the readable images; add the others to `unreadable`, with the reason."""
    for path in files:
        signals.check()
        try:
            yield path, read_image(path)
        except UnreadableImage as error:
            unreadable[printable(path.name)] = error.reason


def analyse(
    classifier: Classifier,
    name: str,
    directory: Path,
    out: Path,
    *,
    count: int = 10,
    top: int = 8,
    show_progress: bool = True,
) -> str:
    """Compute a class's components and write `components.png`, `components.json` and `components.safetensors`.

    Args:
        name: The class, as for `Classifier.index`.
        directory: Images of the class, preferably the classifier's training images.
        out: Output directory, created if missing. The three files of an earlier run are replaced.
        count: Number of components, those with the largest eigenvalues.
        top: Number of images drawn per component.

    Returns:
        A summary of a few lines.

    Raises:
        FiguregroundError: The class is unknown, there are too few images, or other files are in the way.
        RecipeError: `count` or `top` is out of range.
    """
    label = classifier.index(name)
    classifier.require_features()
    width = classifier.weight.shape[1]
    for field, value, most in (("--count", count, min(MAX_DOWN, width)), ("--top", top, MAX_ACROSS)):
        if not 1 <= value <= most:
            raise RecipeError(field, f"give a number from 1 to {most}, not {value}.")
    refuse_within(out, directory, "--images")
    _refuse_foreign_files(out)
    images = read_class_images(classifier, directory, show_progress=show_progress)
    weighted = weight_features(images.reading.features, classifier.weight[label].cpu())
    count = min(count, len(images.paths) - 1)  # further ones would be rounding errors
    components = fit_components(weighted, label, count)
    alpha = components.activations(weighted)
    probability = images.reading.logits.softmax(1)[:, label]
    share = float((images.reading.logits.argmax(1) == label).float().mean())
    ranked = alpha.argsort(dim=0, descending=True, stable=True)[:top].T.tolist()
    # Images with a negative α don't activate the component.
    order = [[row for row in rows if alpha[row, i] > 0] or rows[:1] for i, rows in enumerate(ranked)]
    facts = {
        "classifier": classifier.facts,
        "class": classifier.labels[label],
        "images": len(images.paths),
        "predicted": share,
    }
    table = {
        "made_by": MADE_BY,
        **facts,
        "label": label,
        "unreadable": dict(images.unreadable),
        # α's mean over all images is 0 by construction, so it is reported over the drawn images
        "components": [
            {
                "component": i,
                "eigenvalue": float(components.values[i]),
                "share_of_variance": float(components.values[i] / (weighted - components.mean).square().sum(1).mean()),
                "mean_alpha": float(alpha[rows, i].mean()),
                "deviation_of_alpha": float(alpha[:, i].std(correction=0)),
                "images": [
                    {"file": images.paths[row].name, "alpha": float(alpha[row, i]), "p": float(probability[row])}
                    for row in rows
                ],
            }
            for i, rows in enumerate(order)
        ],
    }
    out.mkdir(parents=True, exist_ok=True)
    sheet = encode_png(draw(table, images.paths, order))
    # The table is written first: it marks the other files as ours, including those of a killed run.
    replace_bytes(out / TABLE, (json.dumps(table, indent=2, ensure_ascii=False) + "\n").encode())
    write_components(components, out / TENSORS, facts)
    replace_bytes(out / SHEET, sheet)
    lines = [
        f"{out}: {plural(count, 'component')} of {classifier.labels[label]!r} from "
        f"{plural(len(images.paths), 'image')}, {share:.0%} of them predicted as such. Inspect {SHEET}: "
        "a row that shows something other than the class is spurious."
    ]
    if images.unreadable:
        lines.append(f"{plural(len(images.unreadable), 'file')} left out: {join_names(sorted(images.unreadable), 5)}.")
    return "\n".join(lines)


def _refuse_foreign_files(out: Path) -> None:
    """Raise FiguregroundError unless existing files are an earlier result."""
    foreign = [name for name in (SHEET, TABLE, TENSORS) if os.path.lexists(out / name) and not is_ours(out / name)]
    if foreign and not (is_ours(out / TABLE) and not any((out / name).is_symlink() for name in foreign)):
        raise FiguregroundError(f"{out} has a {foreign[0]} that isn't an earlier result. Give another --out.")


def draw(table: Mapping[str, Any], paths: Sequence[Path], order: Sequence[Sequence[int]]) -> Image.Image:
    """Draw one row per component: its most activating images, each with its α and file name.

    Args:
        table: Content of `components.json`.
        paths: The images.
        order: For each component, rows of `paths`, the most activating first.
    """
    across = max(map(len, order))
    title = 44
    sheet = Image.new(
        "RGB", (HEAD + across * (EDGE + GAP) + GAP, title + len(order) * (EDGE + CAPTION + GAP) + GAP), "white"
    )
    pen = ImageDraw.Draw(sheet)
    heading = f"{table['class']}: what activates its neural principal components ({table['classifier']['name']})"
    heading, large = _spell(heading, 18)
    pen.text((GAP, 12), fit_text(heading, large, sheet.width - 2 * GAP), "black", large)
    for i, (component, rows) in enumerate(zip(table["components"], order, strict=True)):
        top = title + i * (EDGE + CAPTION + GAP)
        lines = [
            f"component {component['component']}", f"{component['share_of_variance']:.1%} of the variance",
            f"α of these: {component['mean_alpha']:.3g}", f"deviation of α: {component['deviation_of_alpha']:.3g}",
        ]  # fmt: skip
        text, small = _spell("\n".join(lines), 12)
        pen.multiline_text((GAP, top + 4), text, "black", small, spacing=6)
        for j, (row, image) in enumerate(zip(rows, component["images"], strict=True)):
            left = HEAD + j * (EDGE + GAP)
            picture = read_image(paths[row])
            thumbnail = picture.resize(fit_size(picture.size, EDGE), Image.Resampling.LANCZOS)
            sheet.paste(thumbnail, (left + (EDGE - thumbnail.width) // 2, top + (EDGE - thumbnail.height) // 2))
            text, small = _spell(f"α {image['alpha']:.3g}   p {image['p']:.2f}", 12)
            pen.text((left, top + EDGE + 1), text, "black", small)
            file, small = _spell(printable(image["file"]), 12)
            pen.text((left, top + EDGE + 15), fit_text(file, small, EDGE, keep_end=True), "dimgrey", small)
    return sheet


def _spell(text: str, size: int) -> tuple[str, Font]:
    """Return a text and its font; where no font has its letters, α is spelt out and others become ASCII."""
    font, has_letters = choose_font(text, size)
    return (text if has_letters else to_ascii(text.replace("α", "alpha"))), font
