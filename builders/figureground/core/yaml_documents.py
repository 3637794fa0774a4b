"""Loads YAML of bounded size, because a few lines of aliases can expand to billions of values."""

from __future__ import annotations

from typing import Any

import yaml

MAX_VALUES = 1_000_000
"""Maximum values of a document after expanding aliases; a card with 20,000 classes has about 100,000."""
MAX_DEPTH = 100
"""Maximum nesting of lists and mappings after expanding aliases."""
MAX_CHARACTERS = 4 * 2**20
"""Maximum length of a document; it takes about half a minute to parse."""


def safe_load(text: str) -> Any:
    """Load one YAML document, as `yaml.safe_load` does.

    Raises:
        yaml.YAMLError: It is not YAML, contains an impossible value (a date such as 2024-02-30) or more than
            `MAX_VALUES` values, is nested deeper than `MAX_DEPTH`, or is longer than `MAX_CHARACTERS`.
    """
    if len(text) > MAX_CHARACTERS:
        raise yaml.YAMLError(f"it has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read")
    try:
        parser = yaml.SafeLoader(text)  # checks for characters that YAML doesn't allow
        try:
            node = parser.get_single_node()
            if node is None:
                return None
            _refuse_large(node)
            return parser.construct_document(node)
        finally:
            parser.dispose()
    except RecursionError:
        raise yaml.YAMLError(f"it is nested more than {MAX_DEPTH} levels deep") from None
    except yaml.YAMLError:
        raise
    except (ValueError, OverflowError) as error:
        raise yaml.YAMLError(f"it contains an impossible value: {error}") from None


def _refuse_large(root: yaml.Node) -> None:
    """Refuse a document that is too large or deep after expanding aliases, or that contains itself."""
    measured: dict[int, tuple[int, int]] = {}
    """By node: number of values, and of levels."""
    open_nodes: set[int] = set()
    stack = [root]
    while stack:
        node = stack[-1]
        if id(node) in measured:
            stack.pop()
            continue
        children = _children(node)
        if id(node) not in open_nodes:
            open_nodes.add(id(node))
            for child in children:
                if id(child) in open_nodes:
                    raise yaml.MarkedYAMLError(
                        problem="an alias is within its own anchor", problem_mark=_start_mark(child)
                    )
                if id(child) not in measured:
                    stack.append(child)
            if stack[-1] is not node:
                continue
        size = 1 + sum(measured[id(child)][0] for child in children)
        depth = 1 + max((measured[id(child)][1] for child in children), default=0)
        if size > MAX_VALUES:
            problem = f"its aliases expand to more than {MAX_VALUES:,} values"
        elif depth > MAX_DEPTH:
            problem = f"it is nested more than {MAX_DEPTH} levels deep"
        else:
            measured[id(node)] = (size, depth)
            open_nodes.discard(id(node))
            stack.pop()
            continue
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=_start_mark(node))


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _start_mark(node: yaml.Node) -> Any:
    return node.start_mark
