"""The commands that make what D3S composes: cutouts, scenes."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figureground.cli.arguments import Commands, add_device, add_later, parse_path
from figureground.core.errors import plural
from figureground.core.names import name_key, unique_slugs
from figureground.core.terminal import print_error, print_result

if TYPE_CHECKING:
    from figureground.materials.cutouts import Cutouts

MAX_NAMED = 20
"""Classes that a summary names."""


def add_cutouts(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "cutouts", parents=[common], help="cut objects out of photographs, for D3S to paste",
        description="Cuts the object out of each photograph in PHOTOS/<class>/*, and writes CUTOUTS/<class>/*.png, "
        "which D3S pastes: --set cutouts=CUTOUTS --set paste=mask. Photographs outside the limits below are left "
        "out, listed in cutouts.csv with the reason, and shown in cutouts.html. The same command resumes a stopped "
        "run.",
    )  # fmt: skip
    parser.add_argument("photographs", type=parse_path, metavar="PHOTOS", help="directory with one folder per class")
    parser.add_argument("--out", type=parse_path, required=True, metavar="CUTOUTS", help="directory of the cut-outs")
    parser.add_argument(
        "--segmenter", metavar="NAME",
        help="onnx:FILE (a salient-object network, such as U²-Net), a directory or Hub id of a CLIPSeg, "
        "grounding-dino:ID+sam:ID, or pocket; not needed for photographs with NAME.mask.png or transparency. Without "
        "one, the command says how to fetch one",
    )  # fmt: skip
    parser.add_argument(
        "--phrases", type=parse_path, metavar="CSV",
        help="CSV class,phrase: text that the segmenter looks for, if it reads phrases (the folder's name)",
    )  # fmt: skip
    parser.add_argument(
        "--marks",
        type=parse_path,
        metavar="CSV",
        help="CSV file,mark from cutouts.html; its marks, keep or leave, override the limits",
    )
    add_device(parser)
    add_later(parser, lambda: _add_limits(parser))
    parser.set_defaults(run=_cutouts)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    from figureground.cli.flags import add_settings
    from figureground.materials.settings import Cutting

    add_settings(parser, Cutting)


def _cutouts(options: argparse.Namespace) -> int:
    from figureground.cli.flags import read_flags
    from figureground.materials.cutouts import cutouts
    from figureground.materials.settings import Cutting

    values: dict[str, Any] = read_flags(vars(options), Cutting)
    result = cutouts(
        options.photographs, options.out, options.segmenter, settings=Cutting(**values), phrases=options.phrases,
        marks=options.marks, device=options.device,
    )  # fmt: skip
    _print_report(result)
    if not result.kept:
        print_error(f"figureground: no photograph became a cut-out. Look at {result.out / 'cutouts.html'}.")
        return 1
    return 0


def _print_report(result: Cutouts) -> None:
    from figureground.materials.decisions import count_reasons

    print_result(f"{result.out}: {result.kept:,} of {plural(len(result.decisions), 'photograph')} became cut-outs.")
    for folder, counts in list(result.counts.items())[:MAX_NAMED]:
        reasons = ", ".join(f"{n} {kind}" for kind, n in counts.items() if kind not in ("photographs", "kept"))
        print_result(
            f"  {folder}: {counts['kept']} of {counts['photographs']}" + (f"; left out: {reasons}" if reasons else "")
        )
    if len(result.counts) > MAX_NAMED:
        reasons = ", ".join(f"{n:,} {kind}" for kind, n in count_reasons(result.counts).items())
        print_result(
            f"  … and {len(result.counts) - MAX_NAMED:,} further classes; left out in all: {reasons or 'none'}"
        )
    print_result(f"Check {result.out / 'cutouts.html'}, mark wrong decisions, and rerun with --marks marks.csv")
    if result.kept:
        print_result(f"Then: figureground build d3s --set cutouts={result.out} --set paste=mask")


def add_scenes(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "scenes", parents=[common], help="draw backgrounds by text-to-image, for D3S to paste on",
        description="Draws images of backgrounds, OUT/<background>/*.png, as D3S takes them: --set scenes=OUT. With "
        "--avoid, the negative prompt names the classes that they shouldn't show, and with --scorer, images are "
        "checked, and rejected ones are drawn again. The same command resumes a stopped run.",
    )  # fmt: skip
    parser.add_argument(
        "backgrounds", nargs="+", metavar="NAME|FILE",
        help="names from the list d3s, the name of a list in prompts/backgrounds, or a CSV name,phrase",
    )  # fmt: skip
    parser.add_argument("--out", type=parse_path, required=True, metavar="DIR", help="directory of the scenes")
    parser.add_argument(
        "--avoid", action="append", default=[], metavar="NAME|FILE",
        help="class that scenes shouldn't show, or a list of classes as for d3s: a CSV or imagenet; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--scorer",
        metavar="NAME",
        help="checks that no avoided class is shown: pocket, clip:ID or vlm:ID, as for verify",
    )
    parser.add_argument("--endpoint", metavar="URL", help="OpenAI-compatible server that runs vlm:ID, as for verify")
    add_later(parser, lambda: _add_drawing(parser))
    parser.set_defaults(run=_scenes)


def _add_drawing(parser: argparse.ArgumentParser) -> None:
    from figureground.cli.flags import add_settings
    from figureground.materials.scenes import Drawing

    add_settings(parser, Drawing)


def _scenes(options: argparse.Namespace) -> int:
    from figureground.cli.flags import read_flags
    from figureground.materials.scenes import Drawing
    from figureground.verification.scenes import scenes

    values: dict[str, Any] = read_flags(vars(options), Drawing)
    settings = Drawing(**values)
    avoid = _one_or_several(options.avoid) if options.avoid else None
    result = scenes(
        _one_or_several(options.backgrounds), options.out, avoid=avoid,
        scorer=options.scorer, endpoint=options.endpoint, settings=settings,
    )  # fmt: skip
    print_result(f"{result.out}: {sum(result.kept.values()):,} scenes of {len(result.kept):,} backgrounds.")
    if result.rejected:
        print_result("  drawn again: " + ", ".join(f"{n:,} {reason}" for reason, n in result.rejected.items()))
    incomplete = {name: n for name, n in result.kept.items() if n < result.wanted}
    for name, n in list(incomplete.items())[:MAX_NAMED]:
        print_error(
            f"figureground: {name} has {n} of {result.wanted} scenes; the others were rejected {settings.tries} times."
        )
    names = list(result.kept)
    known_by_folder = all(name_key(slug) == name_key(name) for name, slug in unique_slugs(names).items())
    backgrounds = "folders" if known_by_folder else shlex.quote(f"[{', '.join(map(json.dumps, names))}]")
    print_result(f"Then: figureground build d3s --set scenes={result.out} --set backgrounds={backgrounds}")
    return 1 if incomplete else 0


def _one_or_several(names: list[str]) -> str | list[str] | dict[str, str | None]:
    """Return one file or list as its name, and several names as a list."""
    if len(names) == 1 and _is_list_name(names[0]):
        return names[0]
    return names


def _is_list_name(name: str) -> bool:
    """Whether a name is that of a file, or of a list that comes with the package."""
    from figureground.core.resources import find_resource
    from figureground.core.tables import TABLES

    bundled = (find_resource(f"prompts/{kind}") / f"{name}.csv" for kind in ("backgrounds", "classes"))
    return "/" in name or Path(name).suffix.lower() in TABLES or any(path.is_file() for path in bundled)
