"""Any classifier that `evaluate` takes, where it knows a dataset's labels.

A label may correspond to several of the classifier's classes; its logit is then the logarithm of the sum of their
exponentials. The probabilities are the softmax over the labels of a column that have a class: classes that stand for no
label are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image

from figureground.core.errors import FiguregroundError, join_names
from figureground.core.softmax import softmax
from figureground.evaluation.counterparts import COLUMNS, LabelTable, read_label_table
from figureground.models.needs import refuse_absent_classifier
from figureground.verification.questions import LabelQuestion
from figureground.verification.scorer import LabelScorer, Options

if TYPE_CHECKING:
    from figureground.vision.classifiers import Classifier


class ClassifierScorer(LabelScorer):
    """Runs a classifier; `id` is a name for `open_classifier`."""

    KIND: ClassVar[str] = "classifier"
    USES: ClassVar[frozenset[str]] = frozenset({"label_table"})

    def __init__(self, id: str, questions: Sequence[LabelQuestion], options: Options):
        super().__init__(id, questions, options)
        refuse_absent_classifier("--scorer classifier", id)
        labels = list(dict.fromkeys(label for question in questions for label in question.labels))
        table = options.label_table
        self._table = LabelTable() if table is None else read_label_table(table, labels)

    def identify(self) -> dict[str, Any]:
        from figureground.vision.classifiers import open_classifier

        self._classifier: Classifier | None = open_classifier(self.id)
        self._groups = {
            q.what: [self._find_classes(self._classifier, label) for label in q.labels] for q in self.questions
        }
        for question in self.questions:
            self._refuse_shared_classes(question.labels, self._groups[question.what])
        self.leave_out(
            {
                q.what: [name for name, group in zip(q.labels, self._groups[q.what], strict=True) if not group]
                for q in self.questions
            }
        )
        if not self.answerable_questions():
            raise FiguregroundError(
                f"--scorer classifier:{self.id} has no two classes named like labels of the dataset. Its classes: "
                f"{join_names(self._classifier.labels, 5)}; the dataset's foregrounds: "
                f"{join_names(self.questions[0].labels, 5)}; its backgrounds: "
                f"{join_names(self.questions[-1].labels, 5)}. Map "
                f"them in a CSV with the columns {','.join(COLUMNS)}, and give it as --labels."
            )
        classes = self._classifier.labels
        counterparts = {
            what: [[classes[k] for k in group] for group in groups] for what, groups in self._groups.items()
        }
        return {"sha256": self._classifier.facts["sha256"], "counterparts": counterparts}

    def open(self) -> None:
        from figureground.core.accelerator import choose_device

        assert self._classifier is not None
        self._classifier.to(choose_device(self.options.device))

    def close(self) -> None:
        self._classifier = None

    def probabilities(self, images: Sequence[Image.Image]) -> Mapping[str, np.ndarray]:
        import torch

        assert self._classifier is not None
        with torch.inference_mode():
            logits = self._classifier.read(images).logits.cpu().double().numpy()
        probabilities = {}
        for question in self.answerable_questions():
            groups = self._groups[question.what]
            joined = np.stack([np.logaddexp.reduce(logits[:, list(g)], axis=1) for g in groups if g], axis=1)
            p = np.full((len(images), len(groups)), np.nan)
            p[:, self.knows(question)] = softmax(joined)
            probabilities[question.what] = p
        return probabilities

    def _refuse_shared_classes(self, labels: Sequence[str], groups: Sequence[Sequence[int]]) -> None:
        """Raise FiguregroundError if a class stands for two labels, which the classifier can't tell apart then."""
        assert self._classifier is not None
        label_by_class: dict[int, str] = {}
        for label, group in zip(labels, groups, strict=True):
            for position in group:
                other = label_by_class.setdefault(position, label)
                if other != label:
                    raise FiguregroundError(
                        f"--scorer classifier:{self.id}: its class {self._classifier.labels[position]!r} stands for "
                        f"both {other!r} and {label!r}, so it can't tell these labels apart. Give each a class of its "
                        "own in --labels, or use another scorer."
                    )

    def _find_classes(self, classifier: Classifier, label: str) -> tuple[int, ...]:
        """Return the classes that stand for a label, from the table, else by name."""
        if rows := self._table.rows.get(label):
            positions = []
            for line, name in rows:
                try:
                    positions.append(classifier.index(name))
                except FiguregroundError as error:
                    raise FiguregroundError(f"--labels {self._table.path}, line {line}: {error}") from None
            return tuple(sorted(set(positions)))
        by_name = (classifier.index_or_none(name) for name in (label, *label.split(",")))
        return tuple([position for position in by_name if position is not None][:1])
