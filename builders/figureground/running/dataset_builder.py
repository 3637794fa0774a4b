"""Adapts a method to `datasets.DatasetBuilder`, so that `datasets` can read what `build` writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets

from figureground.core.errors import RecipeError
from figureground.core.hashing import digest
from figureground.recipe.formats import FORMATS
from figureground.shards.formats.format import find_columnar

if TYPE_CHECKING:
    from figureground.methods.base import Method


class MethodBuilder(datasets.ArrowBasedBuilder):
    """Builds a method's shards in the cache directory and gives their tables to `datasets`.

    Raises:
        RecipeError: The recipe names no columnar format.
    """

    def __init__(self, method: Method, cache_dir: str | None = None):
        self.method = method
        super().__init__(
            cache_dir=cache_dir, dataset_name=f"figureground_{method.METHOD}", config_name=method.config.name,
            hash=digest(method.identity())[:16],
        )  # fmt: skip

    def _create_builder_config(self, *args: Any, **kwargs: Any) -> tuple[datasets.BuilderConfig, str]:
        name = self.method.config.name
        return datasets.BuilderConfig(name=name), name

    def _info(self) -> datasets.DatasetInfo:
        citation = "\n\n".join(self.method.citations())
        return datasets.DatasetInfo(features=self.method.columns().features(), citation=citation)

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        kind = find_columnar(self.method.config.formats)
        if kind is None:
            names = [name for name, format in FORMATS.items() if format.COLUMNAR]
            raise RecipeError("formats", f"download_and_prepare needs a columnar format: add {' or '.join(names)}.")
        directory = self.method.build(Path(self._cache_dir).with_name(f"{self.hash}-shards"))
        splits = dict.fromkeys(s.split for s in self.method.plan().shards())
        folder, suffix = directory / kind.FOLDER, kind.SUFFIX
        return [
            datasets.SplitGenerator(
                name=split,
                gen_kwargs={"files": sorted(map(str, folder.glob(f"{split}-*{suffix}"))), "format": kind.NAME},
            )
            for split in splits
        ]

    def _generate_tables(self, files: list[str], format: str) -> Iterator[tuple[str, Any]]:
        for file in map(Path, files):
            for i, table in enumerate(FORMATS[format]().tables(file)):
                yield f"{file.name}-{i}", table
