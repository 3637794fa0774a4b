"""A method's recipe files: their schema, a recipe to start from, and the config that one describes."""

from __future__ import annotations

import dataclasses
from typing import Any

from figureground.methods.base import Method, find_config
from figureground.recipe import document as recipes
from figureground.recipe.config import Config
from figureground.recipe.settings import json_schema
from figureground.recipe.starter import write_starter


def make_schema(kind: type[Method]) -> dict[str, Any]:
    """Return the JSON Schema of a method's recipe files."""
    schema = json_schema(type(kind.CONFIGS[kind.DEFAULT]))
    fields = {name: value for name, value in schema["properties"].items() if name != "name"}
    head = {
        "builder": {"const": kind.METHOD, "description": "The method."},
        "config": {"enum": list(kind.CONFIGS), "description": "The config that the defaults come from."},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema", **schema,
        "title": f"figureground recipe: {kind.METHOD}", "properties": {**head, **fields},
    }  # fmt: skip


def make_starter(kind: type[Method], name: str, file: str) -> str:
    """Return a commented recipe to start from, with the settings `STARTER` of a config.

    Args:
        name: Name of the config.
        file: Name of the recipe's file, for the commands at its top.

    Raises:
        RecipeError: There is no such config.
    """
    config = find_config(kind, name)
    head = [
        f"Recipe of figureground {kind.METHOD}. {kind.TITLE}.",
        "",
        f"    figureground plan  --recipe {file}              # counts, size and work",
        f"    figureground build --recipe {file} --out DIR    # the same command resumes a stopped build",
        "",
        f"All settings: figureground settings {kind.METHOD} --config {name}",
    ]
    return write_starter(head, kind.METHOD, config, kind.CONFIGS, kind.STARTER, kind.EXAMPLES)


def make_config(kind: type[Method], name: str, fields: recipes.Fields) -> Config:
    """Return a config with a recipe file's fields, without reading the files that it names.

    Raises:
        RecipeError: The config or a field is unknown, or a value is invalid.
    """
    config = find_config(kind, name)
    values = recipes.read_values(config, fields, [])
    recipes.check_names(values, type(config).field_names(), kind.METHOD)
    return dataclasses.replace(config, **values)
