"""The command `audit`."""

from __future__ import annotations

import argparse

from figureground.cli.arguments import Commands, add_device, parse_path
from figureground.core.owned import refuse_within
from figureground.core.terminal import print_result


def add_audit(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "audit", parents=[common], help="find shortcuts, leaks and duplicates; writes audit.json and audit.html",
        description="Looks for dependent labels, image regions that reveal a label that they don't show, "
        "near-duplicates, and cut-outs and scenes that splits share. With --references it compares the images with "
        "photographs; with --classifier it measures a classifier's biases on the dataset's objects. The dataset isn't "
        "changed.",
    )  # fmt: skip
    parser.add_argument("directory", type=parse_path, metavar="DIR")
    parser.add_argument(
        "--references", type=parse_path, metavar="REFERENCES", help="photographs in one folder per class, or a dataset"
    )
    parser.add_argument(
        "--features", metavar="NAME",
        help="feature network: pocket (default up to 96 px), a transformers directory or Hub id, timm:NAME, or a file "
        "of ResNet weights",
    )  # fmt: skip
    parser.add_argument(
        "--classifier", action="append", default=[], metavar="NAME",
        help="measure the biases of a classifier; named like --features; several may be given",
    )  # fmt: skip
    parser.add_argument(
        "--split", action="append", default=[], metavar="SPLIT", help="audit only this split; repeatable"
    )
    parser.add_argument("--small", type=int, default=10, metavar="N", help="name cells with fewer images (%(default)s)")
    parser.add_argument("--out", type=parse_path, metavar="OUT", help="output directory (DIR/_audit)")
    add_device(parser)
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images per batch (64)")
    parser.set_defaults(run=_audit)


def _audit(options: argparse.Namespace) -> int:
    from figureground.auditing.auditing import JSON, PAGE, audit
    from figureground.auditing.summary import summarise
    from figureground.shards.shard import PRIVATE

    references = options.references
    if options.out is not None and references is not None and not (references / PRIVATE).is_dir():
        refuse_within(options.out, references, "--references")
    result = audit(
        options.directory, references=references, features=options.features, classifiers=options.classifier,
        splits=options.split, small=options.small, out=options.out, device=options.device,
        batch_size=options.batch_size,
    )  # fmt: skip
    print_result(summarise(result.report))
    print_result()
    for path in (result.out / JSON, result.out / PAGE):
        print_result(path)
    return 0
