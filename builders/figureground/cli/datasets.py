"""Commands on finished datasets: show, check, evaluate, curate, extend, merge, push."""

from __future__ import annotations

import argparse
from pathlib import Path

from figureground.cli.arguments import Commands, add_device, parse_path, parse_place
from figureground.core.errors import RecipeError, UsageError, join_names, plural
from figureground.core.owned import refuse_within
from figureground.core.terminal import print_error, print_note, print_result
from figureground.recipe.formats import FORMATS


def add_show(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "show", parents=[common], help="draw preview.png and report.html of a dataset",
        description="Draws preview.png and report.html. The page shows all images, by label, score, answer and reject "
        "reason; it needs the folder report/ beside it, with thumbnails and data, and neither a server nor a network.",
    )  # fmt: skip
    parser.add_argument("directory", type=parse_place, metavar="DIR|URL")
    parser.add_argument(
        "--full", metavar="N|all", default="2000",
        help="number of images at full size, with guide, mask and panels, spread evenly over the cells; or all (2000)",
    )  # fmt: skip
    parser.set_defaults(run=_show)


def _show(options: argparse.Namespace) -> int:
    from figureground.report.showing import show

    if options.full != "all" and not (options.full.isascii() and options.full.isdigit()):
        raise UsageError(f"--full {options.full}: give a number of images, or all.")
    result = show(str(options.directory), full=None if options.full == "all" else int(options.full))
    for path in result.files:
        print_result(path)
    if result.license:
        print_result(result.license)
    if result.missing:
        print_error(f"figureground: {result.missing}")
    return 0


def add_check(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("check", parents=[common], help="check every file, hash, label and image of a dataset")
    parser.add_argument("directory", type=parse_place, metavar="DIR|URL")
    parser.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    from figureground.checking.dataset import check

    report = check(str(options.directory))
    for line in [*report.findings, *report.notes]:
        print_result(line)
    print_result(
        f"{options.directory}: {plural(len(report.findings), 'finding') if report.findings else 'no findings'}."
    )
    return 1 if report.findings else 0


def add_evaluate(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "evaluate", parents=[common], help="measure classifiers on a dataset; writes evaluation.json and .html",
        description="Runs classifiers on a dataset's images. For D3S sets it measures accuracy by foreground, "
        "background and cell; for class-wise spurious sets, how strongly the images are predicted as the class; for "
        "the datasets of build --severity, accuracy by severity and each classifier's failure points. The dataset "
        "isn't changed.",
    )  # fmt: skip
    parser.add_argument("directory", type=parse_path, metavar="DIR")
    parser.add_argument(
        "--classifier", action="append", required=True, metavar="NAME",
        help="pocket, a transformers directory or Hub id, timm:NAME, onnx:FILE, a file of ResNet weights, or clip:ID "
        "(zero-shot, by CLIP or SigLIP); several may be given",
    )  # fmt: skip
    parser.add_argument(
        "--references", type=parse_path, metavar="DIR",
        help="photographs in one folder per class, or a dataset, to compare with: reports the drop in accuracy from "
        "them; for spurious sets, the same metrics on each class's references",
    )  # fmt: skip
    parser.add_argument(
        "--validation", type=parse_path, metavar="DIR",
        help="images of the classes themselves, in the same layout: for average precision and ROC-AUC on spurious sets",
    )  # fmt: skip
    parser.add_argument(
        "--control", action="append", type=parse_path, default=[], metavar="DIR",
        help="a dataset built as a control; its drop in accuracy is reported next to the dataset's; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--labels",
        type=parse_path,
        metavar="CSV",
        help="label,classifier_label: the classifiers' names for dataset labels",
    )
    parser.add_argument(
        "--prompts",
        type=parse_path,
        metavar="FILE",
        help="clip:ID: texts for each class, one a line: a photo of a {class}",
    )
    parser.add_argument(
        "--candidates", metavar="LIST",
        help="clip:ID: further classes to choose from, such as imagenet, or a CSV (the dataset's labels alone)",
    )  # fmt: skip
    parser.add_argument(
        "--split", action="append", default=[], metavar="SPLIT", help="evaluate only this split; repeatable"
    )
    parser.add_argument("--out", type=parse_path, metavar="OUT", help="output directory (DIR/_evaluation)")
    parser.add_argument(
        "--save-scores", action="store_true", help="also write per-image predictions to DIR/_figureground/scores"
    )
    add_device(parser)
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images per batch (64)")
    parser.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    from figureground.evaluation.evaluating import evaluate
    from figureground.evaluation.running import JSON, PAGE
    from figureground.evaluation.summary import summarise
    from figureground.recipe.severity import FILE
    from figureground.shards.shard import PRIVATE

    for name in ("references", "validation") if options.out is not None else ():
        folder = getattr(options, name)
        if folder is not None and not (folder / PRIVATE).is_dir():  # photographs, not a dataset
            refuse_within(options.out, folder, f"--{name}")
    if (options.directory / FILE).exists():
        return _evaluate_severity(options)
    result = evaluate(
        options.directory, options.classifier, references=options.references, validation=options.validation,
        labels=options.labels, prompts=options.prompts, candidates=options.candidates, controls=options.control,
        splits=options.split, out=options.out,
        save_scores=options.save_scores, device=options.device, batch_size=options.batch_size,
    )  # fmt: skip
    print_result(summarise(result.report))
    print_result()
    for path in (result.out / JSON, result.out / PAGE, *result.scores):
        print_result(path)
    return 0


def _evaluate_severity(options: argparse.Namespace) -> int:
    from figureground.evaluation.evaluating_severity import evaluate_severity
    from figureground.evaluation.running import JSON, PAGE
    from figureground.evaluation.severity_page import summarise

    for name in ("validation", "control", "save_scores"):
        if getattr(options, name):
            raise UsageError(f"--{name.replace('_', '-')} is for single datasets; {options.directory} holds several.")
    result = evaluate_severity(
        options.directory, options.classifier, references=options.references, labels=options.labels,
        prompts=options.prompts, candidates=options.candidates, splits=options.split, out=options.out,
        device=options.device, batch_size=options.batch_size,
    )  # fmt: skip
    print_result(summarise(result.report))
    print_result()
    for path in (result.out / JSON, result.out / PAGE):
        print_result(path)
    return 0


def add_curate(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "curate", parents=[common], help="copy the samples for which a rule is true",
        description="Copies a dataset without the samples for which RULE is false. Names in RULE: foreground, "
        "background, split, key, prompt, seed, other columns, provenance fields (strength, guide.cutout), and "
        "scores.NAME.COLUMN from _figureground/scores/NAME.csv or .parquet. votes(TEST, TEST, ...) is the number of "
        "tests that are true.",
        epilog="examples: --keep \"background != 'night'\"; --keep \"votes(scores.verify.pocket_foreground_p > 0.5, "
        "scores.verify.classifier_pocket_foreground_p > 0.7) >= 2\"",
    )  # fmt: skip
    parser.add_argument("directory", type=parse_path, metavar="IN")
    parser.add_argument("--out", type=parse_path, required=True, metavar="OUT")
    parser.add_argument("--keep", metavar="RULE", help="the rule; or let --target choose one")
    parser.add_argument(
        "--target", type=float, metavar="SHARE",
        help="choose thresholds of --scorer so that at most this share of the kept images has a wrong label, on one "
        "half of the images that people reviewed; on the other half the actual share is measured",
    )  # fmt: skip
    parser.add_argument(
        "--scorer", action="append", default=[], metavar="NAME", help="scorer of `verify`, for --target; repeatable"
    )
    parser.add_argument("--votes", type=int, metavar="K", help="scorers that must agree, for --target (all)")
    parser.add_argument(
        "--whole-sets", action="store_true",
        help="keep or drop the images of one object on all backgrounds as a set (match: foreground)",
    )  # fmt: skip
    parser.add_argument(
        "--publish-rejects", action="store_true", help="also write the dropped samples, as the config `rejects`"
    )
    parser.set_defaults(run=_curate)


def _curate(options: argparse.Namespace) -> int:
    from figureground.curation.curating import curate

    if (options.keep is None) == (options.target is None):
        raise UsageError("give either --keep RULE or --target SHARE; for both, curate the copy again.")
    rule, evidence = options.keep, None
    if options.target is None:
        for name in ("scorer", "votes"):
            if getattr(options, name):
                raise UsageError(f"--{name} needs --target SHARE.")
    else:
        from figureground.verification.chosen_rule import choose_rule

        if options.whole_sets:
            raise UsageError(
                "--whole-sets would drop more images than --target allows for, so that its share no longer holds. "
                "Curate with --target first, and then the copy with --whole-sets."
            )
        choice = choose_rule(options.directory, options.scorer, options.target, options.votes)
        rule, evidence, accuracy = choice.format_rule(), choice.summarise_evidence(), choice.reported
        share, low, high = (100 * bound for bound in accuracy.interval)
        print_result(f"rule: {rule}")
        print_result(
            f"of {plural(accuracy.labelled, 'reviewed image')} that were not used for the choice, it keeps "
            f"{accuracy.kept:,}, {accuracy.wrong:,} of them wrong; estimated share of wrong labels among all kept "
            f"images: {share:.1f} % ({low:.1f} to {high:.1f})"
        )
    out = curate(
        options.directory, options.out, rule, whole_sets=options.whole_sets, evidence=evidence,
        publish_rejects=options.publish_rejects,
    )  # fmt: skip
    return _print_samples(out, table=True)


def add_extend(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("extend", parents=[common], help="add images per cell, using the dataset's own recipe")
    parser.add_argument("directory", type=parse_path, metavar="DIR")
    parser.add_argument(
        "--per-cell", action="append", required=True, metavar="SPLIT=N",
        help="total images per cell, such as train=20; for spurious sets by scene, such as plain=20",
    )  # fmt: skip
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting that changes no pixel, such as workers=4",
    )
    parser.set_defaults(run=_extend)


def _extend(options: argparse.Namespace) -> int:
    from figureground.annotation.answers import ANNOTATIONS, list_annotation_files
    from figureground.core.values import Setting, convert
    from figureground.methods.extend import extend

    per_cell = {}
    for text in options.per_cell:
        split, equals, number = text.partition("=")
        if not equals:
            raise RecipeError("--per-cell", f"{text!r} isn't of the form SPLIT=N, such as --per-cell train=20.")
        per_cell[split.strip()] = convert(Setting(number), int, f"--per-cell {split.strip()}")
    if list_annotation_files(options.directory):
        print_note(
            f"the answers in {options.directory / ANNOTATIONS} are about the present images, and can't be used once "
            f"the dataset is larger. A copy keeps them: figureground curate {options.directory} --out COPY --keep True"
        )
    return _print_samples(extend(options.directory, per_cell, options.set))


def add_merge(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("merge", parents=[common], help="join datasets; classes are matched by name")
    parser.add_argument("directories", type=parse_path, nargs="+", metavar="DIR")
    parser.add_argument("--out", type=parse_path, required=True, metavar="OUT")
    parser.set_defaults(run=_merge)


def _merge(options: argparse.Namespace) -> int:
    from figureground.curation.merging import merge

    return _print_samples(merge(options.directories, options.out), table=True)


def add_push(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "push", parents=[common], help="publish a dataset on the Hugging Face Hub",
        description="Checks a dataset and uploads the files that the Hub lacks: data first, the card last. Login, "
        "token and endpoint are those of huggingface_hub (hf auth login).",
    )  # fmt: skip
    parser.add_argument("directory", type=parse_place, metavar="DIR|URL")
    parser.add_argument("repository", metavar="USER/NAME")
    parser.add_argument(
        "--private", action="store_true", help="make the repository private; an existing public one is refused"
    )
    parser.add_argument(
        "--revision", metavar="BRANCH", help="a branch (created if missing) or a pull request, refs/pr/3"
    )
    parser.add_argument(
        "--create-pr", action="store_true", help="open a pull request instead, or continue the open one"
    )
    parser.add_argument(
        "--formats",
        metavar="FORMAT[,FORMAT]",
        help=f"{join_names(FORMATS.names())}; default: all formats of the dataset",
    )
    parser.set_defaults(run=_push)


def _push(options: argparse.Namespace) -> int:
    from figureground.hub.push import push

    formats = None if options.formats is None else [name.strip() for name in options.formats.split(",")]
    print_result(
        push(
            str(options.directory), options.repository, private=options.private, revision=options.revision,
            create_pr=options.create_pr, formats=formats,
        )
    )  # fmt: skip
    return 0


def _print_samples(out: Path, table: bool = False) -> int:
    """Print a dataset's sample count; with `table`, also Cramér's V between its labels per split."""
    import numpy as np

    from figureground.recipe.table import cramers_v
    from figureground.shards.finished import read_finished_index

    index = read_finished_index(out)
    print_result(f"{out}: {plural(index['samples'], 'sample')}. Next: figureground show {out}")
    for name, split in index["splits"].items() if table else ():
        counts = np.zeros((len(index["columns"]["foregrounds"]), len(index["columns"]["backgrounds"])), np.int64)
        for foreground, background, samples in split["cells"]:
            counts[foreground, background] = samples
        cells = f"{np.count_nonzero(counts):,} of {counts.size:,} cells"
        print_result(f"  {name}: {plural(int(counts.sum()), 'image')} in {cells}, Cramér's V {cramers_v(counts):.3f}")
    return 0
