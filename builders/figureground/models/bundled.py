"""Where the bundled networks of the pocket world lie."""

from __future__ import annotations

from figureground.core.resources import PACKAGE

WEIGHTS = PACKAGE / "pocket" / "weights"
"""The bundled checkpoint directory, in diffusers' layout."""

ROBUST = PACKAGE / "pocket" / "robust"
"""The bundled adversarially robust classifier of the world's classes, a transformers directory."""

SEGMENTER = PACKAGE / "pocket" / "segmenter_weights"
"""The bundled segmenter of the world's nouns, a transformers directory."""
