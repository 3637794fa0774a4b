"""Classifiers in ONNX files; see `vision.onnx_classifier`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from figureground.models.classifier_files import ClassifierKind
from figureground.models.need import Need
from figureground.models.needs import ONNX, missing_onnx, refuse_absent_onnx
from figureground.models.onnx_files import fingerprint_onnx

if TYPE_CHECKING:
    from figureground.vision.classifiers import Classifier


class OnnxKind(ClassifierKind):
    """`onnx:FILE`."""

    KIND: ClassVar[str] = "onnx"
    GIVES_FEATURES: ClassVar[bool] = False

    def identify(self, rest: str, revision: str | None) -> str:
        path = Path(rest).expanduser()
        return fingerprint_onnx(path) if path.exists() else f"{ONNX}{rest}@main"

    def refuse_absent(self, field: str, rest: str) -> None:
        refuse_absent_onnx(field, rest)

    def needs(self, field: str, rest: str, revision: str | None) -> list[Need]:
        return missing_onnx(field, rest)

    def open(self, rest: str, revision: str | None) -> Classifier:
        from figureground.vision.classifiers import Classifier, make_labels
        from figureground.vision.onnx_classifier import open_parts

        path = Path(rest).expanduser()
        parts = open_parts(path, f"classifier {ONNX + rest!r}")
        labels = parts.labels if parts.labels is not None else make_labels(parts.classes)
        return Classifier(parts.network, parts.preprocessing, labels, path.name, parts.facts, edge=parts.edge)
