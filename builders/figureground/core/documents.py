"""Reads user-written YAML and JSON of bounded size; scalars stay text as typed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from figureground.core.errors import UsageError
from figureground.core.files import read_at_most
from figureground.core.names import is_text

MAX_YAML_BYTES = 2**20
MAX_JSON_BYTES = 2**26
MAX_NODES = 200_000
"""Maximum values in a YAML document after expanding aliases; ImageNet with definitions has 2,000."""
MAX_DEPTH = 50
NOT_TEXT = "an escape such as \\ud800 is not a character"
_MERGE = "tag:yaml.org,2002:merge"
_TEXT = "tag:yaml.org,2002:str"
_PLAIN = "plain"
_TYPED_TAGS = [f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "null", "timestamp")]


class Plain(str):
    """A scalar without quotes: text, until it is converted to the type of its field."""

    __slots__ = ()


class _Loader(yaml.SafeLoader):
    """YAML loader in which every plain scalar is text. YAML 1.1 reads `no`, `007` and `12:30` as other types."""

    def resolve(self, kind: type[yaml.Node], value: str | None, implicit: Any) -> str:
        if kind is not yaml.ScalarNode:
            return super().resolve(kind, value, implicit)
        is_plain = implicit[0]
        return _MERGE if is_plain and value == "<<" else _PLAIN if is_plain else _TEXT


def read_document(path: Path, kind: str) -> Any:
    """Read a YAML file, or a JSON file if its name ends with `.json`.

    Args:
        kind: Name of the kind of file in errors, such as `Recipe`.

    Returns:
        Nested dicts with text keys, lists, `Plain` for scalars without quotes and `str` for those in quotes.

    Raises:
        UsageError: The file is missing, too large, not text, or doesn't parse; names file, line and column.
    """
    where, is_json = f"{kind} {path}", path.suffix == ".json"
    max_bytes = MAX_JSON_BYTES if is_json else MAX_YAML_BYTES
    try:
        with path.open("rb") as file:
            data = read_at_most(file, max_bytes + 1)
    except OSError as error:
        raise UsageError(f"{where}: {error.strerror or error}.") from None
    if len(data) > max_bytes:
        raise UsageError(
            f"{where}: it has more than {max_bytes:,} bytes. Move long lists into CSV files, and name those."
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{where}: it is not text. Give a YAML file, or the recipe.json of a dataset.") from None
    try:
        return parse_json(text) if is_json else parse_yaml(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        position = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UsageError(f"{where}{position}: {error.problem or 'not YAML'}.") from None
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}, line {error.lineno}, column {error.colno}: {error.msg}.") from None
    except RecursionError:
        raise UsageError(f"{where}: it is nested more than {MAX_DEPTH} deep.") from None
    except (yaml.YAMLError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{where}: it doesn't parse: {reason}.") from None


def parse_yaml(text: str) -> Any:
    """Parse a YAML document; see `read_document` for the result. An empty document is `Plain('')`.

    Raises:
        yaml.MarkedYAMLError: It doesn't parse, a key is given twice or isn't a scalar, or aliases expand to more than
            `MAX_NODES` values or are nested deeper than `MAX_DEPTH`.
        yaml.YAMLError, RecursionError: It can't be read at all.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
    finally:
        loader.dispose()
    return Plain("") if node is None else _Builder().build(node, 0)


class _Builder:
    """Converts a document's nodes to values, expanding aliases within limits."""

    def __init__(self) -> None:
        self.nodes_left = MAX_NODES

    def build(self, node: yaml.Node, depth: int) -> Any:
        self.nodes_left -= 1
        if self.nodes_left < 0:
            raise _make_error(node, f"its aliases expand to more than {MAX_NODES:,} values")
        if depth > MAX_DEPTH:
            raise _make_error(node, f"values are nested more than {MAX_DEPTH} deep, or an alias contains itself")
        if isinstance(node, yaml.ScalarNode):
            if node.tag not in (_TEXT, _PLAIN, _MERGE, *_TYPED_TAGS):
                raise _make_error(node, f"the tag {node.tag!r} is not supported")
            if not is_text(node.value):
                raise _make_error(node, NOT_TEXT)
            return str(node.value) if node.tag == _TEXT else Plain(node.value)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, depth + 1) for item in node.value]
        assert isinstance(node, yaml.MappingNode)
        return self._build_mapping(node, depth)

    def _build_mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _make_error(key, "a key must be a word or text")
            if key.tag == _MERGE:
                sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
                for source in sources:
                    if not isinstance(source, yaml.MappingNode):
                        raise _make_error(source, "'<<' merges mappings, but this is not a mapping")
                    merged = {**self.build(source, depth + 1), **merged}
                continue
            name = str(key.value)
            if not is_text(name):
                raise _make_error(key, NOT_TEXT)
            if name in own:
                raise _make_error(key, f"{name!r} is given twice")
            own[name] = self.build(value, depth + 1)
        return {**merged, **own}


def _make_error(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def parse_json(text: str) -> Any:
    """Parse JSON like `parse_yaml`: numbers, `true`, `false` and `null` are `Plain`.

    Raises:
        ValueError: It doesn't parse, or a key is given twice.
        RecursionError: It is nested deeper than `MAX_DEPTH`.
    """
    return _to_plain(
        json.loads(text, parse_int=Plain, parse_float=Plain, parse_constant=Plain, object_pairs_hook=_build_fields), 0
    )


def _build_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise ValueError(f"{name!r} is given twice")
        if not is_text(name):
            raise ValueError(NOT_TEXT)
        fields[name] = value
    return fields


def _to_plain(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise RecursionError
    if isinstance(value, Mapping):
        return {name: _to_plain(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list):
        return [_to_plain(item, depth + 1) for item in value]
    if isinstance(value, str) and not is_text(value):
        raise ValueError(NOT_TEXT)
    return value if isinstance(value, str) else Plain(json.dumps(value))
