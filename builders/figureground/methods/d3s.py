"""D3S: every foreground class on every background (Kattakinda, Levine, Feizi 2022, arXiv 2211.10370).

A cut-out is pasted on a scene, and the composite guides image-to-image. The paper's D3S drew the
background of each image at random and shared cut-outs between splits. Here the class × background table is
filled exactly, and validation shares no cut-out and no scene with training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from figureground.core.errors import FiguregroundError, RecipeError, join_names, plural, printable
from figureground.core.hashing import digest
from figureground.core.names import RULE, Lookup, describe_same_names, find_same_names, unique_slugs
from figureground.core.resources import find_resource
from figureground.materials.settings import is_from_photographs
from figureground.methods import citations
from figureground.methods.base import Method
from figureground.methods.cutout_stage import CUTOUTS, CutStage
from figureground.methods.d3s_settings import EDIT_STARTS_FROM_NOISE, POCKET, D3SConfig, configs
from figureground.methods.panels import d3s as d3s_panels
from figureground.methods.panels.panel import Panel
from figureground.models.need import Need
from figureground.recipe import document as recipes
from figureground.recipe.classes import ClassEntry, add_definitions, find_list, read_nouns
from figureground.recipe.plan import Plan, no_guide, pick
from figureground.recipe.prompts import fill, read_templates, shorten
from figureground.recipe.sample import Guide, Spec, derive_seed
from figureground.recipe.table import find_planned_gaps, read_table
from figureground.running.directory import claim_directory, settle_recipe
from figureground.shards.home import home_of
from figureground.shards.shard import PRIVATE, STAGES
from figureground.shards.stages import run_stage
from figureground.sources.guide import ImagePool, check_disjoint, compose, read_square, sample_box, split_bank
from figureground.sources.images import UnreadableImage, list_folders, list_images
from figureground.sources.provenance import Credit, Source, read_source

if TYPE_CHECKING:
    from PIL import Image

    from figureground.diffusion.checkpoint import Checkpoint
    from figureground.models.family_records import Route
    from figureground.shards.columns import Columns

NEEDED: dict[str, tuple[str, ...]] = {"paste": ("cutouts", "scenes"), "photograph": ("photographs",), "none": ()}
"""Fields with the image directories that each kind of guide needs."""
UNKNOWN = "unknown"
"""Background label of a photograph whose scene isn't labelled."""


def _find_folder(root: Path, folders: Lookup, names: Sequence[str]) -> str | None:
    """Return the folder in `root` that matches one of the names by `name_key`, or None.

    Args:
        folders: The folder names in `root`.

    Raises:
        FiguregroundError: Several folders match.
    """
    matches = folders.find(*names)
    if len(matches) > 1:
        paths = " and ".join(str(root / name) for name in matches)
        raise FiguregroundError(
            f"photographs: {names[0]!r} has more than one folder: {paths}. {RULE}: keep one folder."
        )
    return matches[0] if matches else None


class D3S(Method):
    """Build images of foreground classes on backgrounds, after D3S: `D3S("pocket").build("out/d3s")`.

    A cut-out of the class is pasted on a scene of the background, and the composite guides image-to-image
    (Kattakinda, Levine, Feizi 2022, arXiv 2211.10370). The table of images per class and background is filled
    exactly, with any correlation between the two labels. Validation shares no source image with training.
    `figureground settings d3s` lists the settings, fields of `D3SConfig`.
    """

    METHOD = "d3s"
    CONFIGS = configs()
    DEFAULT = POCKET
    TITLE = "D3S: foreground classes on backgrounds"
    SUMMARIES: ClassVar[dict[str, str]] = {
        "paste": "Each foreground class on each background, drawn by a diffusion model. A cut-out of the class was "
        "pasted on a scene of the background, and the composite guided image-to-image. Validation uses no "
        "cut-out and no scene of training.",
        "none": "Each foreground class on each background, drawn by a diffusion model from a prompt alone: the control "
        "of a D3S set that starts from no guide.",
        "photograph": "Photographs of each foreground class, redrawn by a diffusion model on the scene that they show: "
        "a control of a D3S set. Validation uses no photograph of training.",
    }
    EDITED: ClassVar[dict[str, str]] = {
        "paste": "Each foreground class on each background. A cut-out of the class was pasted on a scene of the "
        "background, and a diffusion model edited the composite by an instruction, the prompt. Validation uses no "
        "cut-out and no scene of training.",
        "photograph": "Photographs of each foreground class, which a diffusion model put on each background by an "
        "instruction, the prompt. Validation uses no photograph of training.",
    }
    CITATIONS = (citations.D3S,)
    LIMITS = (
        "The images carry the biases of the checkpoint that drew them.",
        "Backgrounds don't explain all of a classifier's drop on them: compare it with the controls text-only, "
        "reconstruction and same-background.",
    )
    SHARED = (*Method.SHARED, "cutouts", "scenes", "photographs")
    STARTER = (
        "classes", "backgrounds", "cutouts", "scenes", "prompt", "per_cell", "table", "match", "paste", "cutout_scale",
        "position", "strength", *Method.STARTER, "keep",
    )  # fmt: skip
    config: D3SConfig

    def summary(self) -> str:
        return (self.EDITED if self.config.edit else self.SUMMARIES)[self.config.guide]

    def check_fields(self, names: Collection[str]) -> None:
        super().check_fields(names)
        if self.config.edit and "strength" in names:
            raise RecipeError("strength", EDIT_STARTS_FROM_NOISE)

    def load_inputs(self) -> None:
        config = self.config
        self._shortened: dict[str, str] = {}
        for name in NEEDED[config.guide]:
            if getattr(config, name) is not None:
                self._find_directories(name)  # report a missing directory at once
        if config.classes == "folders":
            self.classes = self._read_classes_from_folders()
        else:
            default = str(self.CONFIGS[config.name].classes)
            self.classes = read_nouns("classes", config.classes, "classes", default)
        if config.definitions:
            self.classes = add_definitions(self.classes, find_list("definitions", config.definitions, "classes"))
        if config.backgrounds == "folders":
            names = self._list_folder_names("backgrounds", "scenes")
            preposition = "on a " if config.edit else ""  # an instruction says where to
            self.backgrounds = [ClassEntry(n, f"{preposition}{n.replace('_', ' ')} background") for n in names]
        else:
            self.backgrounds = read_nouns("backgrounds", config.backgrounds, "backgrounds", "d3s")
        from_photographs = config.guide == "photograph" and config.photographs is not None and not config.edit
        if from_photographs and all(ground == UNKNOWN for _, ground in self._photograph_folders):
            self.backgrounds = [ClassEntry(UNKNOWN, "")]
        self.prompts = read_templates(config.prompt)
        if config.edit and config.guide == "photograph" and config.photographs is not None:
            _ = self._edited_folders  # report classes without a folder at once
        names, grounds = self._label_names()
        self.counts, self.pairings = read_table(config.table, config.per_cell, names, grounds, config.seed)
        self.earlier: list[dict[str, np.ndarray]] = []
        available = np.ones((len(names), len(grounds)), bool)
        if from_photographs:
            available = np.array([[(f, b) in self._photograph_folders for b in grounds] for f in names])
            empty = [name for name, row in zip(names, available, strict=True) if not row.any()]
            if empty:
                raise RecipeError(
                    "photographs",
                    f"{len(empty)} of {len(names)} classes have none on a known background: {join_names(empty, 5)}. "
                    "Lay photographs out as <class>/<background>/*, or, for reconstruction alone, as <class>/*.",
                )
        self.counts = {split: counts * available for split, counts in self.counts.items()}
        self._refuse_empty(names, grounds)
        for per_cell in config.extended:
            self.earlier.append(self.counts)
            larger, _ = read_table(config.table, per_cell, names, grounds, config.seed, self.counts)
            self.counts = {split: counts * available for split, counts in larger.items()}
            self._refuse_fewer(self.earlier[-1], names, grounds)

    def _refuse_fewer(self, earlier: dict[str, np.ndarray], names: list[str], grounds: list[str]) -> None:
        """Check that the latest extension adds images and no cell loses any."""
        for split, counts in self.counts.items():
            fewer = [f"{names[f]} on {grounds[b]}" for f, b in np.argwhere(counts < earlier[split])]
            if fewer:
                raise RecipeError(
                    f"extended.{split}",
                    f"the new total is below the present number of images of {len(fewer)} cells: "
                    f"{join_names(fewer, 3)}. Give a larger total; extend never removes images.",
                )
        if all((counts == earlier[split]).all() for split, counts in self.counts.items()):
            raise RecipeError("extended", "it adds no image: a table from a CSV of counts can't be extended.")

    def _label_names(self) -> tuple[list[str], list[str]]:
        return [noun.name for noun in self.classes], [noun.name for noun in self.backgrounds]

    def _refuse_empty(self, names: list[str], grounds: list[str]) -> None:
        for split, counts in self.counts.items():
            by_design = find_planned_gaps(self.config.table, split, self.pairings.get(split))
            empty = np.argwhere((counts == 0) & (True if by_design is None else ~by_design))
            if counts.sum() == 0:
                raise RecipeError(
                    "table",
                    f"{split} would have no images. Leave it out of per_cell, as in --set 'per_cell={{train: 5}}', or "
                    "check table and photographs.",
                )
            if len(empty) and not self.config.allow_empty:
                cells = [f"{names[f]} on {grounds[b]}" for f, b in empty]
                table: object = self.config.table
                table = table.get(split) if isinstance(table, dict) and split in table else table
                remedy = f"Raise per_cell.{split}, lower table.correlation or table.bias_aligned_share"
                if isinstance(table, str) and table not in ("uniform", "correlated"):
                    remedy = f"Add their counts to {table}"
                raise RecipeError(
                    "table",
                    f"{split} has {len(empty)} cells without images: {join_names(cells, 3)}. {remedy}, or allow "
                    "empty cells with --set allow_empty=true.",
                )

    # --- source images ------------------------------------------------------------------------

    def _read_classes_from_folders(self) -> list[ClassEntry]:
        needs_photographs = self.config.guide == "photograph"
        has_only_photographs = (
            self.config.guide == "none" and self.config.cutouts is None and self.config.photographs is not None
        )
        names = self._list_folder_names(
            "classes", "photographs" if needs_photographs or has_only_photographs else "cutouts"
        )
        return [ClassEntry(name, name.replace("_", " ")) for name in names]

    def _list_folder_names(self, field: str, source: str) -> list[str]:
        """Return the folder names in the directories of the field `source`."""
        roots = self._find_directories(source).values()
        names = sorted({path.name for directory in roots for path in list_folders(directory)})
        if not names:
            raise RecipeError(field, f"it is 'folders', but {source} contains no folder.")
        if same := find_same_names(names):
            raise RecipeError(field, f"folders {describe_same_names(same)} in {source}. {RULE}: keep one spelling.")
        return names

    def _find_directories(self, name: str) -> dict[str, Path]:
        """Return the directories of `cutouts`, `scenes` or `photographs` by split, under `''` if splits share one.

        Raises:
            RecipeError: None is given, one is missing, or a split has none.
        """
        value = getattr(self.config, name)
        if name == "cutouts" and self._cut_stage is not None:
            return {"": self._cut_stage.photographs}
        if value is None:
            raise RecipeError(
                name,
                f"none are given. Give a directory of your own, --set {name}=DIR, with one folder per "
                f"{'background' if name == 'scenes' else 'class'}.",
            )
        if value == POCKET:
            return {"": find_resource(f"templates/pocket/{'backgrounds' if name == 'scenes' else name}")}
        directories = value if isinstance(value, Mapping) else {"": value}
        if isinstance(value, Mapping):
            recipes.check_names(value, self.config.per_cell, f"{name}, given by split,")
            missing = [s for s in self.config.per_cell if s not in value]
            if missing:
                raise RecipeError(name, f"no directory is given for the split {missing[0]!r}.")
        for split, directory in directories.items():
            if not isinstance(directory, str | Path) or not Path(directory).is_dir():
                raise RecipeError(f"{name}.{split}" if split else name, f"there is no directory {str(directory)!r}.")
        return {split: Path(directory) for split, directory in directories.items()}

    def _read_banks(
        self, name: str, names: list[str], noun: str, aliases: dict[str, tuple[str, ...]]
    ) -> dict[str, ImagePool]:
        """Read disjoint pools of images by split, so that validation shares no image with training."""
        shares = {split: max(1, n) for split, n in self.config.per_cell.items() if self.counts[split].any()}
        directories = self._find_directories(name)
        if name == "cutouts" and self._cut_stage is not None:
            directories = {"": self._cut_stage.require_folder()}
        try:
            if "" in directories:
                return split_bank(ImagePool.read(directories[""], names, noun, aliases), shares)
            banks = {split: ImagePool.read(directories[split], names, noun, aliases) for split in shares}
            check_disjoint(banks)
        except ValueError as error:
            raise FiguregroundError(str(error)) from error
        return banks

    @cached_property
    def cutouts(self) -> dict[str, ImagePool]:
        return self._read_banks(
            "cutouts", [c.name for c in self.classes], "cutouts", {c.name: c.aliases for c in self.classes}
        )

    @cached_property
    def scenes(self) -> dict[str, ImagePool]:
        names = [b.name for b in self.backgrounds]
        slugs = unique_slugs(names)  # the folders that `figureground scenes` makes
        return self._read_banks("scenes", names, "scenes", {name: (slugs[name],) for name in names})

    @cached_property
    def photographs(self) -> dict[str, ImagePool]:
        if self.config.edit:
            folders = [folder for class_folders in self._edited_folders.values() for _, folder in class_folders]
        else:
            folders = list(self._photograph_folders.values())
        return self._read_banks("photographs", folders, "photographs", {})

    @cached_property
    def _edited_folders(self) -> dict[str, list[tuple[str, str]]]:
        """By class name, the folders of photographs to edit, each with its scene's name, which is empty if none."""
        scenes_by_class: dict[str, dict[str, str]] = {}
        for root in self._find_directories("photographs").values():
            folders = Lookup(path.name for path in list_folders(root))
            for f in self.classes:
                class_folder = _find_folder(root, folders, (f.name, *f.aliases))
                if class_folder is not None:
                    scenes = {f"{class_folder}/{path.name}": path.name for path in list_folders(root / class_folder)}
                    scenes_by_class.setdefault(f.name, {}).update(scenes or {class_folder: ""})
        if missing := [f.name for f in self.classes if f.name not in scenes_by_class]:
            raise RecipeError(
                "photographs",
                f"{len(missing)} of {len(self.classes)} classes have no folder: {join_names(missing, 5)}. Lay "
                "photographs out as <class>/* or <class>/<scene>/*.",
            )
        return {
            name: [(scene, folder) for folder, scene in sorted(class_scenes.items())]
            for name, class_scenes in scenes_by_class.items()
        }

    @cached_property
    def _photograph_folders(self) -> dict[tuple[str, str], str]:
        """Folder of photographs by (class name, background name), relative to the given directory.

        If no class has a folder for a background, backgrounds are unknown, unless `known_background` requires them.
        """
        by_background, by_class = {}, {}
        for root in self._find_directories("photographs").values():
            folders = Lookup(path.name for path in list_folders(root))
            for f in self.classes:
                class_folder = _find_folder(root, folders, (f.name, *f.aliases))
                if class_folder is None:
                    continue
                by_class[f.name, UNKNOWN] = class_folder
                scenes = Lookup(path.name for path in list_folders(root / class_folder))
                for b in self.backgrounds:
                    scene = _find_folder(root / class_folder, scenes, (b.name,))
                    if scene is not None:
                        by_background[f.name, b.name] = f"{class_folder}/{scene}"
        return by_background if by_background or self.config.known_background else by_class

    def _list_unused_photographs(self) -> list[str]:
        """Return the photographs that lie beside the folders of backgrounds of a class, which alone are used."""
        if self.config.edit:
            folders = {folder for class_folders in self._edited_folders.values() for _, folder in class_folders}
        else:
            folders = set(self._photograph_folders.values())
        classes = sorted({folder.partition("/")[0] for folder in folders if "/" in folder} - folders)
        class_folders = [root / name for root in self._find_directories("photographs").values() for name in classes]
        return [f"{each.name}/{path.name}" for each in class_folders if each.is_dir() for path in list_images(each)]

    @property
    def _cut_stage(self) -> CutStage | None:
        """The stage that cuts objects out of photographs; None if cut-outs are given or not needed."""
        return self._recipe_cut_stage if self.config.guide == "paste" else None

    @cached_property
    def _recipe_cut_stage(self) -> CutStage | None:
        value = self.config.cutouts
        return CutStage(value) if is_from_photographs(value) else None

    # --- hooks of the build ---------------------------------------------------------------------

    def content_hashes(self) -> dict[str, Any]:
        content: dict[str, Any] = {
            **super().content_hashes(),
            "cutout_scale": list(self.config.scale_range()),
            "classes": [[c.name, c.text, c.definition] for c in self.classes],
            "backgrounds": [[b.name, b.text] for b in self.backgrounds],
            "definitions": None,
            "prompt": [t.text for t in self.prompts],
            "table": {split: digest(counts.tolist()) for split, counts in (self.earlier or [self.counts])[0].items()},
        }
        banks = NEEDED[self.config.guide]
        for name in ("cutouts", "scenes", "photographs"):
            content[name] = None
            if name == "cutouts" and self._cut_stage is not None:
                content[name] = self._cut_stage.content(self.classes)
            elif name in banks and getattr(self.config, name) is not None:
                content[name] = {split: bank.digest for split, bank in getattr(self, name).items()}
        return content

    def per_cell(self) -> dict[str, int]:
        return dict(self.config.per_cell)

    def columns(self) -> Columns:
        from figureground.shards.columns import Columns

        names, grounds = self._label_names()
        return Columns(names, grounds, guide="guide" in self.config.keep, mask="mask" in self.config.keep)

    def plan(self) -> Plan:
        config = self.config
        names, grounds = self._label_names()
        choose_guide = {
            "paste": self._choose_paste_guide,
            "photograph": self._choose_photograph_guide,
            "none": no_guide,
        }[config.guide]
        return Plan(
            self.counts, names, grounds, config.seed, config.shard_size, config.limit, choose_guide, self._make_prompt,
            match_foreground=config.match == "foreground", earlier=self.earlier,
        )  # fmt: skip

    def refuse_absent(self) -> None:
        super().refuse_absent()
        if self._cut_stage is not None:
            self._cut_stage.refuse_absent(self.classes)

    def run_planning_stages(self, out: Path) -> None:
        if self._cut_stage is None:
            return
        stages, inputs = out / STAGES, self.content["cutouts"]
        cut = partial(self._cut_stage.cut, self.classes, self.config.device, self.show_progress)
        with claim_directory(out, self.recipe(out / PRIVATE), lambda: "Cut-outs that were made are kept."):
            with home_of(out).settling():
                settle_recipe(out, self.recipe(out / PRIVATE))
                run_stage(stages, CUTOUTS, inputs, cut)
            self.read_stages(stages)
            with self._cut_stage.explain_errors():
                _ = self.cutouts

    def read_stages(self, stages: Path) -> None:
        if self._cut_stage is not None:
            self._cut_stage.read(stages)

    def _make_prompt(self, split: str, f: int, b: int, i: int) -> str:
        template = self.prompts[pick(self.config.seed, ["prompt", split, str(f), str(b)], len(self.prompts), i)]
        noun = self.classes[f]
        noun = dataclasses.replace(noun, definition=self._shortened.get(noun.name, noun.definition))
        return fill(template, noun, self._prompt_grounds()[b])

    def _choose_paste_guide(self, split: str, f: int, b: int, i: int) -> Guide:
        config, seed = self.config, self.config.seed
        labels = [split, str(f)] if config.match == "foreground" else [split, str(f), str(b)]
        cutouts = self.cutouts[split].items[self.classes[f].name]
        scenes = self.scenes[split].items[self.backgrounds[b].name]
        cutout = cutouts[pick(seed, ["cutout", *labels], len(cutouts), i)]
        scene = scenes[pick(seed, ["template", split, str(b), str(f)], len(scenes), i)]
        rng = np.random.default_rng(derive_seed(seed, "place", *labels, str(i)))
        box = sample_box(rng, config.size, config.scale_range(), config.position)
        return Guide("paste", cutout.id, scene.id, box, bool(rng.random() < 0.5))

    def _choose_photograph_guide(self, split: str, f: int, b: int, i: int) -> Guide:
        if self.config.edit:
            return self._choose_photograph_to_edit(split, f, b, i)
        items = self.photographs[split].items[self._photograph_folders[self.classes[f].name, self.backgrounds[b].name]]
        item = items[pick(self.config.seed, ["photograph", split, str(f), str(b)], len(items), i)]
        return Guide("photograph", item.id)

    def _choose_photograph_to_edit(self, split: str, f: int, b: int, i: int) -> Guide:
        """Choose a photograph that doesn't show the background yet, if there is one; matched ones are all the same."""
        folders, matched = self._edited_folders[self.classes[f].name], self.config.match == "foreground"
        current_scene = Lookup([self.backgrounds[b].name])
        other_scenes = [folder for scene, folder in folders if matched or not current_scene.find(scene)]
        pool = self.photographs[split].items
        items = [item for folder in other_scenes or [folder for _, folder in folders] for item in pool[folder]]
        labels = [split, str(f)] if matched else [split, str(f), str(b)]
        return Guide("photograph", items[pick(self.config.seed, ["photograph", *labels], len(items), i)].id)

    def prepare(self, stages: Path, checkpoint: Checkpoint) -> None:
        """Tokenise every prompt and shorten definitions that would push the background out of the token limit."""
        limit = min(most for _, most in checkpoint.count_tokens(""))

        def work(folder: Path) -> dict[str, Any]:
            shortened = {}
            for noun in self.classes:
                definition = noun.definition
                for template in self.prompts:
                    for ground in self._prompt_grounds():
                        definition = shorten(
                            template, dataclasses.replace(noun, definition=definition), ground, checkpoint.count_tokens
                        )
                if definition != noun.definition:
                    shortened[noun.name] = definition
            return {"limit": limit, "shortened": shortened}

        run_stage(stages, "sources", self.identity(), lambda folder: {"skipped": self.skipped()})
        self._shortened = run_stage(stages, "prompts", {"identity": self.identity(), "limit": limit}, work)["shortened"]

    def citations(self) -> tuple[str, ...]:
        guided = () if self.config.guide == "none" else (citations.SDEDIT,)
        guided = (citations.INSTRUCT_PIX2PIX,) if self.config.edit else guided
        return (*super().citations(), citations.LATENT_DIFFUSION, *guided)

    def sources(self) -> tuple[list[Source], list[Credit]]:
        sources, credits = [], []
        for name in NEEDED[self.config.guide]:
            is_bundled = getattr(self.config, name) == POCKET
            banks: dict[str, ImagePool] = getattr(self, name)
            for split, directory in self._find_directories(name).items():
                pools = [banks[split]] if split in banks else [] if split else list(banks.values())
                if not pools:
                    continue
                paths = [item.path for bank in pools for items in bank.items.values() for item in items]
                if name == "cutouts" and self._cut_stage is not None:
                    paths = self._cut_stage.photographs_of(paths)
                source, new_credits = read_source(
                    name, directory, paths,
                    name=POCKET if is_bundled else None, splits=[split] if split else [],
                    skipped=len(pools[0].skipped), license_in=find_resource("templates/pocket") if is_bundled else None,
                )  # fmt: skip
                sources.append(source)
                credits += new_credits
        return sources, credits

    def skipped(self) -> list[list[str]]:
        """Return the unreadable source files, as [`folder/name`, reason]."""
        reasons = {
            f"{printable(path.parent.name)}/{printable(path.name)}": reason
            for name in NEEDED[self.config.guide]
            for bank in getattr(self, name).values()
            for path, reason in bank.skipped
        }
        if self._cut_stage is not None:
            reasons |= self._cut_stage.unreadable
        return [list(pair) for pair in sorted(reasons.items())]

    def done_message(self, out: Path) -> str:
        skipped = self.skipped()
        lines = [f"  {name}: {reason}" for name, reason in skipped[:5]]
        if len(skipped) > 5:
            lines.append(f"  … all in {out}/{STAGES}/sources/done.json")
        listing = [f"{len(skipped)} source files were skipped:", *lines] if skipped else []
        cutouts = [] if self._cut_stage is None else [self._cut_stage.describe(self.classes)]
        return "\n".join([super().done_message(out), *cutouts, *self.notes(), *listing])

    def panels(self, directory: Path, provenance: Mapping[str, Any]) -> list[Panel]:
        return d3s_panels.sample_panels(self, provenance)

    def _prompt_grounds(self) -> list[ClassEntry | None]:
        return [None if b.name == UNKNOWN else b for b in self.backgrounds]

    @property
    def route(self) -> Route:
        if self.config.guide == "none":
            return "text"
        return "edit" if self.config.edit else "image"

    def sampling(self) -> dict[str, Any]:
        return {"edit": self.config.edit}

    def unset_sampling(self) -> list[str]:
        unset = super().unset_sampling()
        if self.config.edit:
            return [*unset, "noise", "strength"]
        return unset if self.CONFIGS[self.config.name].edit else [*unset, "edit"]

    def denoiser_steps(self) -> int:
        return self.steps_on_guide() if self.route == "image" else super().denoiser_steps()

    def _missing_inputs(self) -> list[str]:
        return [name for name in NEEDED[self.config.guide] if getattr(self.config, name) is None]

    def needs(self) -> list[Need]:
        segmenter = [] if self._cut_stage is None else self._cut_stage.missing_models()
        missing = (Need(name, "none are given", f"--set {name}=DIR") for name in self._missing_inputs())
        return [*super().needs(), *segmenter, *missing]

    def check_plan(self) -> None:
        if not self._missing_inputs() and (self._cut_stage is None or self._cut_stage.is_finished):
            super().check_plan()

    def plan_notes(self) -> list[str]:
        if self._missing_inputs():
            return []
        if self._cut_stage is not None and not self._cut_stage.is_finished:
            return [self._cut_stage.describe(self.classes)]
        skipped = self.skipped()
        first = ": ".join(skipped[0]) if skipped else ""
        return [*self.notes(), *([f"{len(skipped)} source files can't be read, such as {first}."] if skipped else [])]

    def notes(self) -> list[str]:
        """Return warnings about likely mistakes."""
        warnings = []
        for name in ("class", "background"):
            if incomplete := [t.text for t in self.prompts if f"{{{name}}}" not in t.text]:
                warnings.append(
                    f"The prompt {incomplete[0]!r} lacks {{{name}}}, so images may not show what their labels say."
                )
        if self.config.guide == "none":
            return warnings
        banks = self.cutouts if self.config.guide == "paste" else self.photographs
        classes: dict[str, set[str]] = {}
        for bank in banks.values():
            for name, items in bank.items.items():
                for item in items:
                    classes.setdefault(item.pixels, set()).add(name.split("/")[0])
        if repeated := [names for names in classes.values() if len(names) > 1]:
            warnings.append(
                f"{len(repeated)} images are in more than one class, such as {join_names(sorted(repeated[0]))}."
            )
        if self.config.guide == "photograph" and (unused := self._list_unused_photographs()):
            warnings.append(
                f"Not used, because their classes have folders of backgrounds: {plural(len(unused), 'photograph')} "
                f"beside these, such as {printable(unused[0])}. Move each into the folder of its background."
            )
        if self.config.guide == "paste":
            cutouts = [item for bank in banks.values() for items in bank.items.values() for item in items]
            has_shape = {item.pixels: item.has_mask for item in cutouts}
            num_shaped = sum(has_shape.values())
            if self.config.paste == "mask" and num_shaped < len(has_shape):
                warnings.append(
                    f"{len(has_shape) - num_shaped} of {len(has_shape)} cut-outs have neither transparency nor "
                    "a mask: their centre square is pasted."
                )
            elif self.config.paste == "square" and num_shaped:
                warnings.append(
                    f"{num_shaped} of {len(has_shape)} cut-outs have transparency or a mask, but only their centre "
                    "square is pasted; --set paste=mask pastes the masked part."
                )
        return warnings

    def load_guide(self, spec: Spec) -> tuple[Image.Image, Image.Image | None]:
        guide, size = spec.guide, self.config.size
        assert guide is not None
        try:
            if guide.kind == "photograph":
                return read_square(self.photographs[spec.split].find(guide.cutout).path, size), None
            assert guide.template is not None
            assert guide.box is not None
            return compose(
                self.cutouts[spec.split].find(guide.cutout).path, self.scenes[spec.split].find(guide.template).path,
                guide.box, guide.flip, size, self.config.paste,
            )  # fmt: skip
        except UnreadableImage as error:
            raise FiguregroundError(
                f"{spec.key}: {error.path.parent.name}/{error.path.name} can't be read: {error.reason}. "
                "Remove or repair it, and build into a new directory."
            ) from error
