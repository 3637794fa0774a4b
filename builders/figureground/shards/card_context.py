"""Contents of a dataset's card besides the recipe and the counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class CardContext:
    """Contents of a card besides the recipe and the counts."""

    title: str
    builder: str
    """Name of the method, `d3s`."""
    summary: str
    """Content of the images and how they were made, in a few sentences of Markdown."""
    citation: str
    """BibTeX."""
    numerics: Mapping[str, Any] = field(default_factory=dict)
    """Device kind, dtype, batch size, library versions."""
    limits: Sequence[str] = ()
    """Known limitations of the images, one sentence each."""
    uses: Sequence[str] = ()
    """Intended uses."""
    misuses: Sequence[str] = ()
    """Uses to avoid."""
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    """Checkpoint that drew the images: a `sources.provenance.Weights` as a mapping, and its `terms`."""
    sources: Sequence[Mapping[str, Any]] = ()
    """Directories of the images that generation starts from, each a `sources.provenance.Source` as a mapping."""
    credits: Sequence[Mapping[str, str]] = ()
    """Credits for those images, each a `sources.provenance.Credit` as a mapping."""
    lineage: Sequence[Mapping[str, Any]] = ()
    """Steps that made a dataset from others, one mapping each: `did` (`curate`, `extend` or `merge`), `from` (one or
    several datasets: `name`, `sha256`, `samples`), and further facts such as `rule`, `kept`, `dropped`."""
    concepts: Sequence[Mapping[str, Any]] = ()
    """Concepts that the diffusion model was fine-tuned on, each with `class`, `noun`, `feature`, `references`,
    `identifier`, `kind`, `sha256` and `losses`."""
    labels: Mapping[str, Any] = field(default_factory=dict)
    """Facts about the labels, in the shape of `index_shape.LABELS`; empty if nothing is known."""
