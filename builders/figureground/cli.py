"""The command `figureground`: plan, build, finetune, show, check, evaluate, groups, train, compare,
curate, extend, merge, push,
components.

Exit codes: 0 done, 1 failed or found something, 2 wrong use, 130 stopped with Ctrl-C, 143 stopped by SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from figureground import __version__, finetuning
from figureground.errors import FiguregroundError, RecipeError, UsageError, counted
from figureground.learn import settings as settings_of_training
from figureground.run import signals

EXIT_CODES = (
    "exit codes: 0 done, 1 failed or found something, 2 wrong use, 130 stopped with Ctrl-C, 143 stopped by SIGTERM"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        with signals.handled():
            code = options.run(options)
            sys.stdout.flush()
            return code
    except KeyboardInterrupt as stop:
        return _stopped(stop)
    except BrokenPipeError:  # whoever read the output, `head` say, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if signals.asked_to_stop() is not None:  # a library made something else of the interruption
            return _stopped(error)
        if options.debug:
            raise
        print(f"figureground: {_explain(error, options)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _stopped(error: BaseException) -> int:
    print(" ".join(["figureground: stopped.", *getattr(error, "__notes__", [])]), file=sys.stderr)
    return 128 + (signals.asked_to_stop() or signal.SIGINT)


def _explain(error: Exception, options: argparse.Namespace) -> str:
    from figureground.run import disk

    if isinstance(error, FiguregroundError):
        return str(error)
    place = getattr(options, "out", None) or getattr(options, "directory", None)
    trouble = disk.explain(error, place) if isinstance(error, OSError) and place else None
    return trouble or f"{type(error).__name__}: {error}\n(--debug shows where)"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="figureground",
        description="Datasets whose foreground and background labels depend on each other as much as you choose.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    recipe = argparse.ArgumentParser(add_help=False)
    methods = (
        "how the dataset is made: d3s (classes on backgrounds), spurious (what fools classifiers into a class), or, "
        "from a biased training set, scgs (what misled a classifier is repainted) or ddb (another class's object is "
        "painted in)"
    )
    recipe.add_argument("method", metavar="METHOD", help=methods)
    recipe.add_argument(
        "--config",
        help="a named recipe to begin with: pocket (the demo, and the default); of d3s also imagenet, and the controls "
        "text-only, reconstruction and same-background, with pocket- before them for the pocket model; of spurious "
        "also spurious-imagenet; of scgs and ddb also photographs",
    )
    recipe.add_argument(
        "--recipe", type=Path, metavar="FILE", help="a YAML file, or the _figureground/recipe.json of a dataset"
    )
    recipe.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one setting, in YAML; dotted keys reach inside: per_cell.train=4",
    )
    recipe.add_argument("--limit", type=int, metavar="N", help="at most N images in all")
    recipe.add_argument(
        "--concepts", type=Path, metavar="DIR", help="of spurious: fine-tuned concepts, for several datasets to share"
    )

    recipe.add_argument(
        "--data", metavar="DIR|CSV", help="of scgs and ddb: the training set, as figureground groups reads it"
    )
    recipe.add_argument(
        "--classifier", metavar="NAME",
        help="of scgs and ddb: whose errors count; train (the default), or one that was trained on the data",
    )  # fmt: skip

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show tracebacks")

    plan = commands.add_parser("plan", parents=[recipe, common], help="print what a build would make; needs no weights")
    plan.add_argument(
        "--images-per-second", type=float, metavar="R", help="also print how long it would take at this speed"
    )
    plan.set_defaults(run=_plan)

    settings = commands.add_parser("settings", parents=[common], help="list what a recipe can say, with defaults")
    settings.add_argument("method", metavar="METHOD", help=methods)
    settings.add_argument("--config", help="whose defaults to print")
    settings.set_defaults(run=_settings)

    build = commands.add_parser("build", parents=[recipe, common], help="build a dataset, or go on with one")
    build.add_argument("--out", type=Path, required=True, metavar="DIR")
    build.set_defaults(run=_build)

    finetune = commands.add_parser(
        "finetune", parents=[common], help="teach a diffusion model what reference pictures show, or go on with it",
        description="Fine-tunes a checkpoint on pictures of a feature that makes classifiers say a class, so that "
        "'a photo of a sks flower' draws it. Defaults are those of the pocket model, of any other checkpoint what is "
        "usual for Stable Diffusion. x.txt beside x.jpg is its caption, with {V} where the identifier goes.",
    )  # fmt: skip
    finetune.add_argument("--references", type=Path, required=True, metavar="DIR", help="three pictures or more")
    finetune.add_argument("--noun", required=True, help="what they truly show, such as flower")
    finetune.add_argument("--class", dest="label", required=True, metavar="CLASS", help="what classifiers then say")
    finetune.add_argument("--out", type=Path, required=True, metavar="DIR")
    finetune.add_argument(
        "--prior", type=Path, metavar="DIR",
        help="images of the noun for prior preservation: your own, or those that a fine-tuning drew, with more added",
    )  # fmt: skip
    finetune.add_argument(
        "--components", type=Path, metavar="FILE", help="neural-PCA components of the class, for --features neural-pca"
    )
    finetune.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    finetuning.add_arguments(finetune)
    finetune.set_defaults(run=_finetune)

    show = commands.add_parser("show", parents=[common], help="draw preview.png and report.html of a dataset")
    show.add_argument("directory", type=Path, metavar="DIR")
    show.set_defaults(run=_show)

    check = commands.add_parser(
        "check", parents=[common], help="look at every file, hash, label and picture of a dataset"
    )
    check.add_argument("directory", type=Path, metavar="DIR")
    check.set_defaults(run=_check)

    evaluate = commands.add_parser(
        "evaluate", parents=[common], help="measure classifiers on a dataset; writes evaluation.json and .html",
        description="Shows a dataset's pictures to classifiers. Of D3S sets it measures accuracy by foreground, "
        "background and cell; of class-wise spurious sets, how far the pictures are taken for the class. The dataset "
        "stays as it is.",
    )  # fmt: skip
    evaluate.add_argument("directory", type=Path, metavar="DIR")
    evaluate.add_argument(
        "--classifier", action="append", required=True, metavar="NAME",
        help="pocket, a transformers directory or Hub id, timm:NAME, or a file of ResNet weights; several may be given",
    )  # fmt: skip
    evaluate.add_argument(
        "--references", type=Path, metavar="DIR",
        help="photographs in a folder a class, or a dataset, to compare with: the drop in accuracy from them; of "
        "spurious sets, the same numbers for the references of each class",
    )  # fmt: skip
    evaluate.add_argument(
        "--validation", type=Path, metavar="DIR",
        help="pictures of the classes themselves, likewise: for average precision and ROC-AUC on spurious sets",
    )  # fmt: skip
    evaluate.add_argument(
        "--control", action="append", type=Path, default=[], metavar="DIR",
        help="a dataset built as a control, to see its drop beside the set's; several may be given",
    )  # fmt: skip
    evaluate.add_argument(
        "--labels", type=Path, metavar="CSV", help="label,classifier_label: what classifiers call the dataset's labels"
    )
    evaluate.add_argument("--split", action="append", default=[], metavar="SPLIT", help="only this one; repeatable")
    evaluate.add_argument("--out", type=Path, metavar="OUT", help="where to write (DIR/_evaluation)")
    evaluate.add_argument(
        "--save-scores", action="store_true", help="also write each picture's answer into DIR/_figureground/scores"
    )
    evaluate.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    evaluate.add_argument("--batch-size", type=int, default=64, metavar="N", help="pictures a batch (64)")
    evaluate.set_defaults(run=_evaluate)

    groups = commands.add_parser(
        "groups", parents=[common], help="count a labelled data set by class and attribute, and say what is odd in it",
        description="Reads a data set of your own, or one that was built here: counts by class × attribute, how far "
        "they depend on each other (Cramér's V), and what is odd. The layout is found out: a table "
        "filename,split,y[,a], Waterbirds, CelebA, MetaShift, folders by class, or a dataset. Nothing is written.",
    )  # fmt: skip
    groups.add_argument("data", type=Path, metavar="DIR|CSV")
    groups.add_argument(
        "--layout",
        metavar="NAME",
        help="table, waterbirds, celeba, dataset, metashift or folders, where it isn't plain",
    )
    groups.add_argument("--root", type=Path, metavar="DIR", help="where the files lie that a table names")
    groups.add_argument(
        "--y", metavar="NAME", help="the table's column (y) or CelebA's attribute (Blond_Hair) of the class"
    )
    groups.add_argument("--a", metavar="NAME", help="the same of the attribute (a; Male)")
    groups.add_argument("--json", action="store_true", help="for machines")
    groups.set_defaults(run=_groups)

    train = commands.add_parser(
        "train", parents=[common], help="train classifiers on a labelled data set; tells the worst group's accuracy",
        description="Trains a classifier a seed on the training split, chooses epochs by the worst group of validation "
        "(the worst class where there are no attributes), and looks at the test split once, at the end. The same "
        "command goes on with what was stopped.",
    )  # fmt: skip
    settings_of_training.add_arguments(train)
    train.add_argument("--data", type=Path, required=True, metavar="DIR|CSV", help="as figureground groups reads it")
    train.add_argument(
        "--add", action="append", type=Path, default=[], metavar="DIR",
        help="a data set whose training pictures are added, classes matched by name; several may be given",
    )  # fmt: skip
    train.add_argument("--out", type=Path, required=True, metavar="DIR")
    train.add_argument("--seeds", type=int, default=3, metavar="N", help="classifiers, from seed 0 on (3)")
    _add_layout(train, "of --data")
    train.set_defaults(run=_train)

    compare = commands.add_parser(
        "compare", parents=[common], help="train by several methods on a labelled data set; one table of all",
        description="Trains classifiers by several methods on one data set, some on pictures that are made for it, and "
        "tells the average and the worst group's accuracy of each. The same command goes on with what was stopped; "
        "methods and seeds may be added later.",
    )  # fmt: skip
    compare.add_argument("data", type=Path, metavar="DIR|CSV", help="as figureground groups reads it")
    compare.add_argument(
        "--methods", required=True, metavar="A,B,…",
        help="of erm, reweight, jtt, groupdro, dfr; paste, scgs, ddb, which add pictures that they make to training; "
        "and one of those with another training than ERM, such as scgs+jtt",
    )  # fmt: skip
    compare.add_argument("--out", type=Path, required=True, metavar="DIR")
    compare.add_argument(
        "--seeds", type=int, default=3, metavar="N",
        help="from seed 0 on (3); where pictures are added, a seed makes those too",
    )  # fmt: skip
    settings_of_training.add_shared_arguments(compare)
    compare.add_argument(
        "--set", action="append", default=[], metavar="NAME.KEY=VALUE",
        help="a setting of one method or builder, in YAML: jtt.upweight=50, ddb.strength=0.9, paste.quantile=0.8",
    )  # fmt: skip
    compare.add_argument(
        "--config", metavar="NAME", help="recipe of scgs and ddb: pocket (for pictures up to 96 px), or photographs"
    )
    _add_layout(compare, "of the data")
    compare.set_defaults(run=_compare)

    curate = commands.add_parser(
        "curate", parents=[common], help="copy the samples for which a rule is true",
        description="Copies a dataset without the samples for which RULE is false. Names in RULE: foreground, "
        "background, split, key, prompt, seed, further columns, the provenance's fields (strength, guide.cutout), and "
        "scores.NAME.COLUMN from _figureground/scores/NAME.csv or .parquet.",
        epilog="example: figureground curate out/d3s --out out/day --keep \"background != 'night'\"",
    )  # fmt: skip
    curate.add_argument("directory", type=Path, metavar="IN")
    curate.add_argument("--out", type=Path, required=True, metavar="OUT")
    curate.add_argument("--keep", required=True, metavar="RULE")
    curate.add_argument(
        "--publish-rejects", action="store_true", help="also write what is dropped, as the config `rejects`"
    )
    curate.set_defaults(run=_curate)

    extend = commands.add_parser("extend", parents=[common], help="more images a cell, by the recipe of a dataset")
    extend.add_argument("directory", type=Path, metavar="DIR")
    extend.add_argument(
        "--per-cell", action="append", required=True, metavar="SPLIT=N",
        help="images a cell in all, as in train=20; of spurious by scene, as in plain=20",
    )  # fmt: skip
    extend.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting that decides no pixel: workers=4"
    )
    extend.set_defaults(run=_extend)

    merge = commands.add_parser("merge", parents=[common], help="join datasets; classes are unified by name")
    merge.add_argument("directories", type=Path, nargs="+", metavar="DIR")
    merge.add_argument("--out", type=Path, required=True, metavar="OUT")
    merge.set_defaults(run=_merge)

    push = commands.add_parser(
        "push", parents=[common], help="publish a dataset on the Hugging Face Hub",
        description="Checks a dataset and uploads what the Hub lacks of it: data first, the card last. Login, token "
        "and endpoint are those of huggingface_hub (hf auth login).",
    )  # fmt: skip
    push.add_argument("directory", type=Path, metavar="DIR")
    push.add_argument("repository", metavar="USER/NAME")
    push.add_argument(
        "--private", action="store_true", help="make the repository private; a public one that exists is refused"
    )
    push.add_argument(
        "--revision", metavar="BRANCH", help="a branch (made where there is none) or a pull request, refs/pr/3"
    )
    push.add_argument(
        "--create-pr", action="store_true", help="open a pull request instead, or go on with the one that is open"
    )
    push.add_argument(
        "--formats", metavar="FORMAT[,FORMAT]", help="parquet, webdataset; all that there are if left out"
    )
    push.set_defaults(run=_push)

    components = commands.add_parser(
        "components", parents=[common], help="draw which images activate a class's neural principal components",
        description="Class-wise neural PCA (Neuhaus et al. 2023): writes components.png, components.json and "
        "components.safetensors, for a person to see which component of a class is spurious.",
    )  # fmt: skip
    components.add_argument(
        "--classifier", required=True, metavar="NAME",
        help="pocket, a transformers directory or Hub id, timm:NAME, or a file of ResNet weights",
    )  # fmt: skip
    components.add_argument("--revision", metavar="REVISION", help="branch, tag or commit of a classifier on the Hub")
    components.add_argument("--class", dest="label", required=True, metavar="K", help="one of the classifier's classes")
    components.add_argument("--images", type=Path, required=True, metavar="DIR", help="images of the class")
    components.add_argument("--out", type=Path, required=True, metavar="DIR")
    components.add_argument("--count", type=int, default=10, metavar="N", help="components (10)")
    components.add_argument("--top", type=int, default=8, metavar="N", help="images of each (8)")
    components.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    components.set_defaults(run=_components)
    return parser


def _add_layout(parser: argparse.ArgumentParser, what: str) -> None:
    """Flags that say how a labelled data set lies, and where classifiers are trained."""
    for flag, text in (
        ("--layout", f"{what}, where it isn't plain: as for figureground groups"),
        ("--root", "where the files lie that a table names"),
        ("--y", "the column or attribute of the class"),
        ("--a", "the same of the attribute"),
    ):
        parser.add_argument(flag, metavar="DIR" if flag == "--root" else "NAME", help=text)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--workers", type=int, metavar="N", help="threads that decode pictures; they change no result")


def _builder(options: argparse.Namespace) -> Any:
    from figureground.builder import builder_class
    from figureground.recipe import read_recipe

    fields = read_recipe(options.recipe) if options.recipe else {}
    settings = [*options.set, *([f"limit={options.limit}"] if options.limit is not None else [])]
    if options.concepts is not None:
        settings.append(f"concepts={json.dumps(str(options.concepts))}")
    settings += [f"{n}={json.dumps(v)}" for n in ("data", "classifier") if (v := getattr(options, n)) is not None]
    return builder_class(options.method).from_recipe(fields, settings, options.config)


def _plan(options: argparse.Namespace) -> int:
    from figureground.forecast import forecast

    if options.images_per_second is not None and not 0 < options.images_per_second < math.inf:
        raise RecipeError("--images-per-second", "give a number above 0.")
    print(forecast(_builder(options), options.images_per_second))
    return 0


def _settings(options: argparse.Namespace) -> int:
    from figureground.builder import builder_class
    from figureground.errors import nearest_or_all

    kind = builder_class(options.method)
    name = options.config or kind.DEFAULT
    if name not in kind.CONFIGS:
        raise RecipeError("config", f"{options.method} has no config {name!r}{nearest_or_all(name, kind.CONFIGS)}")
    config = kind.CONFIGS[name]
    for field, text in type(config).told().items():
        value = json.dumps(getattr(config, field), ensure_ascii=False).strip('"')
        told = textwrap.fill(text, 100, initial_indent="    ", subsequent_indent="    ")
        print(f"{field}: {value}\n{told}")
    print("\nThese decide no picture: " + ", ".join(config.EXECUTION) + ".")
    return 0


def _build(options: argparse.Namespace) -> int:
    builder = _builder(options)
    out = builder.build(options.out)
    print(builder.done_message(out))
    return 0


def _finetune(options: argparse.Namespace) -> int:
    settings = finetuning.from_arguments(vars(options))
    from figureground.diffusion.dreambooth import finetune

    out = finetune(
        options.references, options.noun, options.label, options.out, settings, prior=options.prior,
        components=options.components, device=options.device,
    )  # fmt: skip
    if os.environ.get("RANK", "0") == "0":  # of processes that were launched together, one speaks
        print(finetuning.done_message(out))
    return 0


def _show(options: argparse.Namespace) -> int:
    from figureground.builder import open_dataset
    from figureground.shards.index import finish_again
    from figureground.show import license_note, show
    from figureground.trust.source import made_from_others

    builder = open_dataset(options.directory)
    draw, splits = (builder.draw_guide, list(builder.plan().totals())) if builder else (None, [])
    for path in show(options.directory, draw_guide=draw, splits=splits):
        print(path)
    if note := license_note(options.directory):
        print(note)
    if builder:
        builder.finish(options.directory)  # the card shows the preview
        return 0
    finish_again(options.directory)
    if not made_from_others(options.directory):
        print(
            "figureground: the recipe's cut-outs, lists or checkpoint are gone or have changed since the build, so the "
            "report shows no guides.",
            file=sys.stderr,
        )
    return 0


def _check(options: argparse.Namespace) -> int:
    from figureground.shards.check import check

    report = check(options.directory)
    for line in [*report.findings, *report.notes]:
        print(line)
    print(f"{options.directory}: {counted(len(report.findings), 'finding') if report.findings else 'no findings'}.")
    return 1 if report.findings else 0


def _evaluate(options: argparse.Namespace) -> int:
    from figureground.vision.evaluate import JSON, PAGE, evaluate
    from figureground.vision.evaluation_summary import summarise

    done = evaluate(
        options.directory, options.classifier, references=options.references, validation=options.validation,
        labels=options.labels, controls=options.control, splits=options.split, out=options.out,
        save_scores=options.save_scores, device=options.device, batch_size=options.batch_size,
    )  # fmt: skip
    print(summarise(done.report))
    print()
    for path in (done.out / JSON, done.out / PAGE, *done.scores):
        print(path)
    return 0


def _groups(options: argparse.Namespace) -> int:
    from figureground.learn.groups import summarise, told
    from figureground.learn.layouts import read_groups

    groups = read_groups(options.data, options.layout, root=options.root, y=options.y, a=options.a)
    print(json.dumps(told(groups), indent=2, ensure_ascii=False) if options.json else summarise(groups))
    return 0


def _train(options: argparse.Namespace) -> int:
    settings = settings_of_training.from_arguments(vars(options))
    from figureground.learn.trained import TABLE, tabulate
    from figureground.learn.training import train

    report = train(
        settings, options.data, options.out, add=options.add, seeds=options.seeds, layout=options.layout,
        root=options.root, y=options.y, a=options.a, device=options.device, workers=options.workers,
    )  # fmt: skip
    print(f"{tabulate(report)}\n\n{options.out / TABLE}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from figureground.learn.compare import SHARED, TABLE, compare, parse_overrides, tabulate

    comparison = compare(
        options.data, [name.strip() for name in options.methods.split(",") if name.strip()], options.seeds, options.out,
        training={name: value for name, value in vars(options).items() if name in SHARED},
        overrides=parse_overrides(options.set),
        config=options.config, layout=options.layout, root=options.root, y=options.y, a=options.a,
        device=options.device, workers=options.workers,
    )  # fmt: skip
    print(f"{tabulate(comparison)}\n\n{options.out / TABLE}")
    return 0


def _curate(options: argparse.Namespace) -> int:
    from figureground.trust.curate import curate

    out = curate(options.directory, options.out, options.keep, publish_rejects=options.publish_rejects)
    return _say_samples(out, table=True)


def _extend(options: argparse.Namespace) -> int:
    from figureground.extend import extend
    from figureground.recipe import parse_setting

    per_cell = {}
    for text in options.per_cell:
        split, equals, number = text.partition("=")
        if not equals:
            raise RecipeError("--per-cell", f"{text!r}: write it as SPLIT=N, as in --per-cell train=20.")
        per_cell[split.strip()] = parse_setting(f"n={number}")[1]
    return _say_samples(extend(options.directory, per_cell, options.set))


def _merge(options: argparse.Namespace) -> int:
    from figureground.trust.merge import merge

    return _say_samples(merge(options.directories, options.out), table=True)


def _push(options: argparse.Namespace) -> int:
    from figureground.shards.hub import push

    formats = None if options.formats is None else [name.strip() for name in options.formats.split(",")]
    print(
        push(
            options.directory, options.repository, private=options.private, revision=options.revision,
            create_pr=options.create_pr, formats=formats,
        )
    )  # fmt: skip
    return 0


def _components(options: argparse.Namespace) -> int:
    from figureground.diffusion.checkpoint import choose_device
    from figureground.vision.classifiers import open_classifier
    from figureground.vision.components import analyse

    device = choose_device(options.device)
    classifier = open_classifier(options.classifier, revision=options.revision, device=device)
    print(analyse(classifier, options.label, options.images, options.out, count=options.count, top=options.top))
    return 0


def _say_samples(out: Path, table: bool = False) -> int:
    """Prints what a dataset now has; with `table` also how its labels depend on each other."""
    import numpy as np

    from figureground.shards.index import INDEX
    from figureground.table import cramers_v

    index = json.loads((out / INDEX).read_text(encoding="utf-8"))
    print(f"{out}: {counted(index['samples'], 'sample')}. figureground show {out} draws it.")
    for name, split in index["splits"].items() if table else ():
        counts = np.zeros((len(index["columns"]["foregrounds"]), len(index["columns"]["backgrounds"])), np.int64)
        for foreground, background, samples in split["cells"]:
            counts[foreground, background] = samples
        cells = f"{np.count_nonzero(counts):,} of {counts.size:,} cells"
        print(f"  {name}: {counted(int(counts.sum()), 'image')} in {cells}, Cramér's V {cramers_v(counts):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
