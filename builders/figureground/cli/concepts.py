"""Commands on concepts: finetune learns one, components shows the candidates."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path

from figureground.cli.arguments import Commands, add_device, add_later, add_track, parse_path
from figureground.core.devices import check_device
from figureground.core.errors import RecipeError
from figureground.core.files import read_json
from figureground.core.owned import refuse_within
from figureground.core.terminal import print_error, print_result


def add_finetune(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "finetune", parents=[common], help="fine-tune a diffusion model on reference images, or resume it",
        description="Fine-tunes a checkpoint on images of a feature that makes classifiers predict a class, so that "
        "'a photo of a sks flower' draws it. Defaults are tuned for the pocket model; for other checkpoints they are "
        "the usual Stable Diffusion values. x.txt beside x.jpg is its caption, with {V} for the identifier.",
    )  # fmt: skip
    parser.add_argument("--references", type=parse_path, required=True, metavar="DIR", help="three images or more")
    parser.add_argument("--noun", required=True, help="what the references actually show, such as flower")
    parser.add_argument(
        "--class", dest="label", required=True, metavar="CLASS", help="the class that classifiers predict for them"
    )
    parser.add_argument("--out", type=parse_path, required=True, metavar="DIR")
    parser.add_argument(
        "--prior", type=parse_path, metavar="DIR",
        help="images of the noun for prior preservation: your own, used as they are, or those that a fine-tuning run "
        "drew, which are topped up",
    )  # fmt: skip
    parser.add_argument(
        "--components",
        type=parse_path,
        metavar="FILE",
        help="neural-PCA components of the class, for --features neural-pca",
    )
    parser.add_argument(
        "--class-folder", type=parse_path, metavar="DIR",
        help="images of the class itself, for --class-direction images and --early-stopping without-class: your own, "
        "used as they are, or those that a fine-tuning run drew, which are topped up",
    )  # fmt: skip
    add_device(parser)
    add_track(parser)
    add_later(parser, lambda: _add_settings(parser))
    parser.set_defaults(run=_finetune)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each setting, with the pocket model's defaults, and those of other checkpoints."""
    from figureground.cli.flags import add_flags, show_default
    from figureground.finetune.settings import POCKET, Finetuning

    general, defaults = Finetuning("-", feature_model="-"), {}
    for field in dataclasses.fields(Finetuning):
        if field.name not in ("checkpoint", "feature_model", "preview_prompts"):
            pocket, other = (show_default(getattr(settings, field.name)) for settings in (POCKET, general))
            defaults[field.name] = pocket if pocket == other else f"{pocket}; else {other}"
    add_flags(parser, Finetuning, defaults)


def _finetune(options: argparse.Namespace) -> int:
    from figureground.cli.flags import read_flags
    from figureground.finetune.preflight import check_inputs
    from figureground.finetune.settings import POCKET, Finetuning, settings_for
    from figureground.tracking.tracker import check_tracker

    values = read_flags(vars(options), Finetuning)
    settings = settings_for(values.pop("checkpoint", POCKET.checkpoint), **values)
    refuse_within(options.out, options.references, "--references")
    for flag, folder in (("--prior", options.prior), ("--class-folder", options.class_folder)):
        if folder is not None:
            refuse_within(options.out, folder, flag)
    check_tracker(options.track)
    check_inputs(
        options.references, options.noun, options.label, options.out, settings, prior=options.prior,
        components=options.components, device=options.device, class_folder=options.class_folder,
    )  # fmt: skip
    from figureground.models.distilled import checkpoint_notes

    is_first = os.environ.get("RANK", "0") == "0"  # one of the processes launched together
    sampling = (settings.checkpoint, settings.revision, settings.num_inference_steps, settings.guidance_scale)
    for note in checkpoint_notes(*sampling) if is_first else ():
        print_error(f"figureground: {note}")
    from figureground.finetune.dreambooth import finetune

    out = finetune(
        options.references, options.noun, options.label, options.out, settings, prior=options.prior,
        class_folder=options.class_folder, components=options.components, device=options.device, track=options.track,
    )  # fmt: skip
    if is_first:
        print_result(_format_done_message(out))
    return 0


def _format_done_message(out: Path) -> str:
    """Return what is printed for a finished concept."""
    facts = read_json(out / "concept.json")
    usage = f"{out / 'checkpoint'} is a checkpoint of its own"
    if facts["kind"] == "lora":
        usage = f"{out / 'lora.safetensors'} is for {facts['base']['checkpoint']}"
    steps = f"{facts['steps']:,} steps"
    if stopping := facts.get("early_stopping"):
        steps += f" (the best of {stopping['trained_steps']:,}, by {stopping['rule']})"
    previews = "previews/ and " if (out / "previews").is_dir() else ""
    return (
        f"{out}: {facts['identifier']} {facts['noun']}, {steps}, learned in "
        f"{facts['seconds']:,.0f} s. {usage}; see {previews}curves.png."
    )


def add_components(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "components", parents=[common], help="show the images that most activate a class's neural principal components",
        description="Class-wise neural PCA (Neuhaus et al. 2023): writes components.png, components.json and "
        "components.safetensors, so that a person can judge which components of a class are spurious.",
    )  # fmt: skip
    parser.add_argument(
        "--classifier", required=True, metavar="NAME",
        help="pocket, a transformers directory or Hub id, timm:NAME, or a file of ResNet weights",
    )  # fmt: skip
    parser.add_argument("--revision", metavar="REVISION", help="branch, tag or commit of a classifier on the Hub")
    parser.add_argument("--class", dest="label", required=True, metavar="K", help="one of the classifier's classes")
    parser.add_argument("--images", type=parse_path, required=True, metavar="DIR", help="images of the class")
    parser.add_argument("--out", type=parse_path, required=True, metavar="DIR")
    parser.add_argument("--count", type=int, default=10, metavar="N", help="number of components (10)")
    parser.add_argument("--top", type=int, default=8, metavar="N", help="images per component (8)")
    add_device(parser)
    parser.set_defaults(run=_components)


def _components(options: argparse.Namespace) -> int:
    from figureground.models.needs import refuse_absent_classifier, refuse_featureless
    from figureground.sources.images import list_images

    refuse_within(options.out, options.images, "--images")
    check_device(options.device, "--device")
    refuse_featureless("--classifier", options.classifier)
    refuse_absent_classifier("--classifier", options.classifier)
    for flag, value in (("--count", options.count), ("--top", options.top)):
        if value < 1:
            raise RecipeError(flag, f"{value} is less than 1.")
    if not options.images.is_dir():
        raise RecipeError("--images", f"the directory {str(options.images)!r} doesn't exist.")
    if len(list_images(options.images)) < 2:
        raise RecipeError("--images", f"{str(options.images)!r} has fewer than 2 images directly in it.")
    if options.out.exists() and not options.out.is_dir():
        raise RecipeError("--out", f"{options.out} is a file; give a directory.")

    from figureground.core.accelerator import choose_device
    from figureground.vision.classifiers import open_classifier
    from figureground.vision.components import analyse

    device = choose_device(options.device)
    classifier = open_classifier(options.classifier, revision=options.revision, device=device)
    print_result(analyse(classifier, options.label, options.images, options.out, count=options.count, top=options.top))
    return 0
