"""A requested fine-tuning, and the parts of it that are saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from figureground.finetune.settings import Finetuning
from figureground.recipe.prompts import fill_noun
from figureground.training.saved_run import SavedRun


@dataclass(frozen=True)
class FinetuneRequest:
    """Arguments of `finetune`."""

    references: Path
    noun: str
    label: str
    out: Path
    settings: Finetuning
    prior: Path | None
    components: Path | None
    class_folder: Path | None
    show_progress: bool

    def fill(self, template: str) -> str:
        return fill_noun(template, self.noun, self.settings.identifier)

    def fill_caption(self, caption: str | None) -> str:
        return self.fill(caption or self.settings.prompt)

    def fill_class_prompt(self) -> str:
        """The prior's prompt with the class in place of the noun; of ImageNet's synonyms, the first."""
        return fill_noun(self.settings.prior_prompt, self.label.split(",")[0].strip(), self.settings.identifier)


@dataclass
class SavedProgress(SavedRun):
    """Saved parts of an unfinished concept."""

    prior: Path | None = None
    """Folder of the prior images drawn so far."""

    def describe(self) -> str:
        if not self.step and self.prior and any(self.prior.glob("*.png")):
            return "No step is saved yet, but the prior images drawn so far are; the same command resumes from there."
        return super().describe()
