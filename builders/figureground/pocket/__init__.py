"""A complete miniature: a drawn world whose labels are known, and a Stable Diffusion trained on it."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
"""The bundled checkpoint directory, in diffusers' layout."""

ROBUST = Path(__file__).parent / "robust"
"""The bundled adversarially robust classifier of the world's classes, a transformers directory."""

SEGMENTER = Path(__file__).parent / "segmenter_weights"
"""The bundled segmenter of the world's nouns, a transformers directory."""
