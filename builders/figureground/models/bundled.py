"""Paths of the bundled networks of the pocket world."""

from __future__ import annotations

from figureground.core.resources import PACKAGE

WEIGHTS = PACKAGE / "pocket" / "weights"
"""Bundled checkpoint, a diffusers directory."""

ROBUST = PACKAGE / "pocket" / "robust"
"""Bundled adversarially robust classifier of the pocket world's classes, a transformers directory."""

SEGMENTER = PACKAGE / "pocket" / "segmenter_weights"
"""Bundled segmenter of the pocket world's nouns, a transformers directory."""

MATCHER = PACKAGE / "pocket" / "matcher_weights"
"""Bundled CLIP of the pocket world's images and captions, a transformers directory."""
