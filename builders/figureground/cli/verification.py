"""Commands on what is known of a dataset's labels: verify."""

from __future__ import annotations

import argparse

from figureground.cli.arguments import Commands, add_device, parse_path
from figureground.core.terminal import print_result


def add_verify(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "verify", parents=[common], help="let models score each image's labels, for `curate` and reports",
        description="Asks models of each image whether it shows its foreground and is on its background. They see "
        "pixels only. Scores go to _figureground/scores/verify.parquet, for rules of `curate` such as "
        "scores.verify.pocket_foreground_p > 0.5. A second run scores only images without scores.",
    )  # fmt: skip
    parser.add_argument("directory", type=parse_path, metavar="DIR")
    parser.add_argument(
        "--scorer", action="append", default=[], metavar="NAME",
        help="pocket; clip:ID (CLIP, SigLIP, SigLIP 2), vlm:ID (image-text-to-text), a directory or Hub id of "
        "transformers each; classifier:ID, as for evaluate; source[:ID], compares with the stored guide; NAME=… before "
        "it names it; several may be given (pocket, for datasets of the pocket model)",
    )  # fmt: skip
    parser.add_argument(
        "--labels",
        type=parse_path,
        metavar="CSV",
        help="label,classifier_label: the classifier's names for dataset labels",
    )
    parser.add_argument(
        "--endpoint", metavar="URL",
        help="OpenAI-compatible server that runs vlm:ID, such as http://localhost:8000/v1; the environment variable "
        "FIGUREGROUND_API_KEY holds its key",
    )  # fmt: skip
    parser.add_argument(
        "--ask-all", action="store_true",
        help="vlm: ask about every label, not only the image's own, for margin, rank and the most probable label",
    )  # fmt: skip
    parser.add_argument(
        "--safety", metavar="NAME",
        help="checkpoint with a safety checker, or an image classifier, for the column safety",
    )  # fmt: skip
    parser.add_argument(
        "--unsafe", action="append", default=[], metavar="CLASS", help="unsafe class of that classifier; repeatable"
    )
    add_device(parser)
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images per batch (64)")
    parser.set_defaults(run=_verify)


def _verify(options: argparse.Namespace) -> int:
    from figureground.verification.summary import summarise
    from figureground.verification.verifying import verify

    result = verify(
        options.directory, options.scorer, labels=options.labels, endpoint=options.endpoint, ask_all=options.ask_all,
        safety=options.safety, unsafe=options.unsafe, device=options.device, batch_size=options.batch_size,
    )  # fmt: skip
    print_result(summarise(result))
    print_result(result.path)
    return 1 if result.unreadable else 0
