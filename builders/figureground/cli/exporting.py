"""The command `export`: a dataset's images as files, for other people's code."""

from __future__ import annotations

import argparse

from figureground.cli.arguments import Commands, parse_path
from figureground.core.errors import RecipeError, UsageError, plural
from figureground.core.terminal import print_result


def add_export(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "export", parents=[common], help="write the images as files, in a layout that other code reads",
        description="Writes a dataset's images as files, byte for byte as the shards hold them, with tables for other "
        "people's code: imagefolder (SPLIT/CLASS/KEY.jpg and metadata.csv), folders (SPLIT/CLASS/KEY.jpg), "
        "waterbirds (group_DRO, DFR), wilds, subpopbench. The same command resumes a stopped export.",
    )  # fmt: skip
    parser.add_argument("directory", type=parse_path, metavar="DIR")
    parser.add_argument("--out", type=parse_path, required=True, metavar="OUT")
    parser.add_argument(
        "--layout", default="imagefolder", metavar="NAME",
        help="imagefolder (default), folders, waterbirds, wilds, subpopbench, or a layout of another package",
    )  # fmt: skip
    parser.add_argument(
        "--split", action="append", default=[], metavar="SPLIT[=AS]",
        help="export only this split, renamed if a name is given, such as correlated=train; repeatable",
    )  # fmt: skip
    parser.add_argument("--keep", metavar="RULE", help="export only samples for which a rule, as for curate, is true")
    parser.add_argument(
        "--columns", default="", metavar="NAME[,NAME]",
        help="further columns: prompt, seed and other fields of the provenance, scores.NAME.COLUMN, scores (all), "
        "answers (how many people gave each)",
    )  # fmt: skip
    links = parser.add_mutually_exclusive_group()
    links.add_argument(
        "--link", type=parse_path, metavar="EXPORT",
        help="make hard links to the images of an earlier export of DIR instead of copies",
    )  # fmt: skip
    links.add_argument("--symlink", type=parse_path, metavar="EXPORT", help="like --link, with symbolic links")
    parser.add_argument(
        "--sign", nargs=2, type=parse_path, metavar=("CERT", "KEY"),
        help="sign each image with C2PA (PEM files; the chain begins with the signer's certificate); this changes the "
        "files' bytes, but no pixel",
    )  # fmt: skip
    parser.add_argument(
        "--timestamp-url",
        metavar="URL",
        help="time-stamping service (RFC 3161) that certifies the time of signing; without it, nothing is sent",
    )
    parser.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    from figureground.exporting.exporting import export

    if options.timestamp_url and not options.sign:
        raise UsageError("--timestamp-url needs --sign CERT KEY.")
    splits: dict[str, str] = {}
    for text in options.split:
        split, equals, name = (part.strip() for part in text.partition("="))
        if not split or (equals and not name) or split in splits:
            raise RecipeError("split", f"{text!r}: give each split once, as SPLIT or SPLIT=AS.")
        splits[split] = name or split
    result = export(
        options.directory, options.out, options.layout, splits=splits, keep=options.keep,
        columns=[name for name in (part.strip() for part in options.columns.split(",")) if name],
        link=options.link or options.symlink, symbolic=options.symlink is not None,
        sign=tuple(options.sign) if options.sign else None, timestamp_url=options.timestamp_url,
    )  # fmt: skip
    links = f", {result.linked:,} of them links" if result.linked else ""
    print_result(f"{result.out}: {plural(result.images, 'image')}{links}. {result.readers}")
    return 0
