"""Audit a dataset: find what it teaches besides its labels, and write it as JSON and an HTML page."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from figureground.auditing.features import choose_network
from figureground.auditing.findings import LEVEL, Section, confirm_findings, join_sections
from figureground.auditing.leaks import find_differences, find_leaks, probe_to_dict
from figureground.auditing.measuring import ImageScan, Measurements, measure_images, scan_images
from figureground.auditing.page import write_page
from figureground.auditing.probe import TooFew, max_images, probe
from figureground.auditing.result import Audit
from figureground.auditing.samples import Samples, open_samples
from figureground.auditing.sections import report_duplicates, report_labels, report_reuse
from figureground.core.devices import check_device
from figureground.core.errors import FiguregroundError, RecipeError
from figureground.core.files import replace_text
from figureground.core.local_paths import strip_local_paths
from figureground.core.owned import refuse_output
from figureground.data.images import DatasetImages, FolderImages, open_images
from figureground.models.needs import refuse_absent_classifier, refuse_featureless
from figureground.recipe.sample import derive_seed

if TYPE_CHECKING:
    from figureground.vision.classifiers import Classifier

FOLDER = "_audit"
"""Output folder inside a dataset: `load_dataset` ignores it, and it is not published."""
JSON, PAGE = "audit.json", "audit.html"
BATCH_SIZE = 64
"""Images per batch."""
SMALL = 10
"""Default size below which groups are named."""
_MADE_BY = "figureground audit"


def audit(
    directory: Path | str,
    *,
    references: Path | str | None = None,
    features: str | None = None,
    classifiers: Sequence[str] = (),
    splits: Sequence[str] = (),
    small: int = SMALL,
    out: Path | str | None = None,
    device: str = "auto",
    batch_size: int = BATCH_SIZE,
    show_progress: bool = True,
) -> Audit:
    """Find what a dataset teaches besides its labels, and write `audit.json` and `audit.html`.

    Args:
        directory: A finished dataset.
        references: Photographs in one folder per class, or a dataset, to compare the images with.
        features: Feature network, a name for `open_classifier`; by default the bundled `pocket` for images of up to 96
            pixels. Needed only if masks are kept or references are given.
        classifiers: Names for `open_classifier` of classifiers whose biases are measured on the set's objects.
        splits: Splits to audit; all by default.
        small: Cells with fewer images are named.
        out: Output directory; `_audit` in the dataset by default.
        device: auto, cpu, cuda, cuda:1 or mps.
        batch_size: Images per batch; halved if memory doesn't suffice.
        show_progress: Whether to show progress bars.

    Raises:
        FiguregroundError: The dataset isn't finished; an image is damaged; a network can't be opened, has no features,
            or returns features that aren't finite; or references contain none of the classes or can't be read.
        UsageError: No feature network is given for images that need one.
    """
    if batch_size < 1:
        raise RecipeError("--batch-size", f"{batch_size} is not a whole number of at least 1.")
    if small < 0:
        raise RecipeError("--small", f"{small} is not a whole number of at least 0.")
    check_device(device, "--device")
    for option, name in [("--features", features), *(("--classifier", classifier) for classifier in classifiers)]:
        if name is not None:
            refuse_absent_classifier(option, name)
    if features is not None:
        refuse_featureless("--features", features)
    directory = Path(directory)
    samples = open_samples(directory, splits)
    occurring = [samples.foregrounds[k] for k in np.unique(samples.foreground)]
    reference_images = None if references is None else open_images(Path(references), samples.foregrounds, occurring)
    out = directory / FOLDER if out is None else Path(out)
    refuse_output(out, directory, FOLDER, JSON, PAGE)
    network_name = None
    if samples.why_no_masks is None or reference_images is not None:
        network_name = choose_network(features, _read_first_size(samples))
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise FiguregroundError(f"{out} isn't writable. Give another --out.")

    scan = scan_images(samples, show_progress)
    network, judges = _open_networks(network_name, classifiers, device)
    rows = np.arange(len(samples.keys))
    if len(rows) > (limit := max_images(max(len(occurring), len(np.unique(samples.background))))):
        rows = np.sort(np.random.default_rng(derive_seed(0, "audit", "rows")).choice(rows, limit, replace=False))
    measurements = measure_images(samples, rows, scan, network, batch_size=batch_size, show_progress=show_progress)

    sections = {
        "labels": report_labels(samples, small),
        "regions": _report_regions(samples, measurements),
        "whole_image": _report_whole_images(samples, measurements),
        "duplicates": report_duplicates(samples, scan.hashes),
        "reuse": report_reuse(samples),
        "references": _report_references(samples, reference_images, network, batch_size, show_progress),
        "biases": _report_biases(samples, scan, judges, show_progress),
    }
    whole = join_sections({name: section.report for name, section in sections.items()}, sections.values())
    confirmed = confirm_findings(whole.findings, whole.p_values)
    report = {
        "made_by": _MADE_BY,
        "dataset": {
            "name": samples.name,
            "builder": samples.source.facts.builder,
            "recipe_sha256": samples.source.recipe["sha256"],
            "samples": len(samples.keys),
            "splits": {split: int((samples.split == number).sum()) for number, split in enumerate(samples.splits)},
            "foregrounds": len(occurring),
            "backgrounds": len(np.unique(samples.background)),
            "objects": len(np.unique(samples.objects)),
        },
        "findings": [finding.to_json() for finding in confirmed],
        "tests": {"count": len(whole.p_values), "correction": "Holm", "level": LEVEL},
        "features": None if network is None else strip_local_paths(network.facts),
        "small": small,
        **(whole.report or {}),
    }
    result = Audit(samples, confirmed, report, out)
    replace_text(out / PAGE, write_page(result))
    replace_text(out / JSON, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return result


def _read_first_size(samples: Samples) -> tuple[int, int]:
    _, image, _ = next(samples.decode([0]))
    return image.size


def _open_networks(
    name: str | None, classifiers: Sequence[str], device: str
) -> tuple[Classifier | None, list[Classifier]]:
    """Open the feature network and the classifiers; torch is imported only if there are any."""
    if name is None and not classifiers:
        return None, []
    from figureground.core.accelerator import choose_device
    from figureground.vision.classifiers import open_classifier

    torch_device = choose_device(device)
    network = None if name is None else open_classifier(name, device=torch_device)
    if network is not None:
        network.require_features()
    return network, [open_classifier(classifier, device=torch_device) for classifier in classifiers]


def _report_regions(samples: Samples, measurements: Measurements) -> Section:
    """Report what the surroundings say about the object, and the object about its background."""
    if reason := samples.why_no_masks:
        return Section({"reason": f"Not measured: {reason}."})
    leaks = {region.name: find_leaks(region) for region in measurements.regions}
    report = {name: {"left_out": measurements.left_out[name], **(leak.report or {})} for name, leak in leaks.items()}
    return join_sections(report, leaks.values())


def _report_references(
    samples: Samples,
    references: DatasetImages | FolderImages | None,
    network: Classifier | None,
    batch_size: int,
    show_progress: bool,
) -> Section:
    if references is None or network is None:
        return Section(None)
    from figureground.auditing.references import report_references

    return report_references(samples, references, network, batch_size=batch_size, show_progress=show_progress)


def _report_biases(
    samples: Samples, scan: ImageScan, classifiers: Sequence[Classifier], show_progress: bool
) -> Section:
    """Report the biases of each classifier, by name."""
    if not classifiers:
        return Section(None)
    if reason := samples.why_no_masks:
        return Section({"reason": f"Not measured: {reason}."})
    from figureground.auditing.biases import measure_biases
    from figureground.evaluation.counterparts import LabelTable, find_counterparts

    occurring = [samples.foregrounds[k] for k in np.unique(samples.foreground)]
    counterparts = find_counterparts(classifiers, samples.foregrounds, occurring, LabelTable())
    report: dict[str, Any] = {}
    parts: list[Section] = []
    for classifier, mapping in zip(classifiers, counterparts, strict=True):
        part = measure_biases(samples, scan, classifier, mapping, show_progress=show_progress)
        name = classifier.name if classifier.name not in report else f"{classifier.name} ({len(report) + 1})"
        report[name] = {"facts": strip_local_paths(classifier.facts), **(part.report or {})}
        parts.append(part)
    return join_sections(report, parts)


def _report_whole_images(samples: Samples, measurements: Measurements) -> Section:
    """Report how well six numbers of the whole image predict each label, given the other.

    That is no finding: objects and backgrounds have colours of their own.
    """
    report: dict[str, Any] = {}
    rows = measurements.rows
    for name, own, other, labels in (
        ("foreground", samples.foreground, samples.background, samples.foregrounds),
        ("background", samples.background, samples.foreground, samples.backgrounds),
    ):
        try:
            result = probe(measurements.whole_image, own[rows], samples.objects[rows], nuisance=other[rows])
        except TooFew as reason:
            report[name] = {"reason": f"Not measured: {reason}."}
            continue
        report[name] = probe_to_dict(result, labels)
        report[name]["differences"] = find_differences(measurements.whole_image, own[rows], other[rows], labels)
    return Section(report)
