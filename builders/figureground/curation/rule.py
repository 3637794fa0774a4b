"""The rule by which samples are kept: a small expression, interpreted here and never run as Python.

Python's parser reads the text; only the node types named here are accepted.
"""

from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from figureground.core.errors import RecipeError, listed, nearest, nearest_or_all

LONGEST = 20_000
"""Maximum number of characters in a rule; a list of a thousand class names fits."""
DEEPEST = 100
"""Maximum nesting depth of expressions."""
SHOWN = 80
"""Number of characters of a rule that an error shows around its position."""

VOTES = "votes"
"""Function that counts the true ones among several tests."""

Name = tuple[str | int, ...]
"""A name in a rule, part by part: `guide.box[0]` is `("provenance", "guide", "box", 0)`."""

Values = Callable[[Name], Any]
"""Looks up a sample's value for a name: None, a boolean, a number, text, a list or a group of fields (a dict)."""

_Part = Callable[[Values], Any]
_Test = Callable[[Any, Any], bool]

USABLE = (
    "A rule may contain names, numbers, 'text', [lists], True, False, None, == != < <= > >=, in, not in, is None, "
    "and, or, not, + - * / %, len(), lower(), startswith(), endswith(), abs(), votes()."
)


class RuleError(RecipeError):
    """A rule is invalid."""

    def __init__(self, message: str):
        super().__init__("keep", message)


class MissingValue(RuleError):
    """A sample lacks a value that the rule compares."""

    def __init__(self, name: str, message: str):
        super().__init__(message)
        self.name = name
        """The name as written in the rule."""


@dataclass(frozen=True)
class Known:
    """Names that a rule may use."""

    classes: Mapping[str, Sequence[str]]
    """Label columns with their possible values: `foreground`, `background`, `split`, other label columns."""
    texts: Sequence[str] = ("key", "prompt")
    """Columns of free text."""
    scores: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Columns of each scores file, by its name."""


class Rule:
    """A rule, checked against the names that a dataset has.

    Names that aren't columns are fields of a sample's provenance; the prefix `provenance.` is optional. A missing value
    is None, and only `is None`, `== None` and `in [..., None]` may test it. Any other use raises MissingValue, so that
    no sample is dropped or kept because a value is missing.

    Args:
        text: The rule, such as `background != 'night' and scores.clip.margin > 0.2`.
        known: Names that it may use.

    Raises:
        RuleError: The text doesn't parse, uses an unsupported construct, or an unknown name; the message shows the
            position.
    """

    def __init__(self, text: str, known: Known):
        tree = _parse(text)
        reader = _Reader(text, known)
        self._keeps = reader.truth(tree)
        self.text: str = " ".join(ast.unparse(tree).split("\n"))
        """The rule in normalised form: equal for rules that differ only in whitespace and quotes."""
        self.names: frozenset[Name] = frozenset(reader.names)
        """Names that the rule looks up."""

    def __call__(self, values: Values) -> bool:
        """Whether a sample is kept.

        Raises:
            MissingValue: The sample lacks a compared value.
            RuleError: Values aren't comparable, such as text and a number, or a division by zero occurs.
        """
        return bool(self._keeps(values))


def spelled(path: Name) -> str:
    """Return a name as it is written in a rule."""
    text = ""
    for part in path[1:] if path[0] == "provenance" and len(path) > 1 else path:
        if isinstance(part, str) and part.isidentifier():
            text += f".{part}" if text else part
        else:
            text += f"[{part!r}]"
    return text


def kind(value: Any) -> str:
    """Return the kind of a value, in words for an error."""
    for types, words in (
        (bool, "true or false"),
        (int | float, "a number"),
        (str, "text"),
        (list | tuple, "a list"),
        (Mapping, "a group of fields"),
    ):
        if isinstance(value, types):
            return words
    return "nothing"


# Parsing


def _lines(text: str) -> list[str]:
    return re.split(r"\r\n|\r|\n", text)


def _pointed(text: str, message: str, line: int = 1, column: int = 0, width: int = 1) -> str:
    """Append the position in the rule to a message; lines count from 1, columns from 0."""
    lines = _lines(text)
    shown = re.sub(r"\s", " ", lines[min(max(line, 1), len(lines)) - 1])
    column = min(max(column, 0), len(shown))
    where = f"character {column + 1}" if len(lines) == 1 else f"line {line}, character {column + 1}"
    start = max(0, column - SHOWN // 2) if len(shown) > SHOWN else 0
    part = shown[start : start + SHOWN]
    before, after = "…" if start else "", "…" if start + SHOWN < len(shown) else ""
    marks = "^" * max(1, min(width, len(part) - (column - start)))
    return f"{message} ({where})\n  {before}{part}{after}\n  {' ' * (len(before) + column - start)}{marks}"


def _parse(text: str) -> ast.expr:
    if not text.strip():
        raise RuleError("the rule is empty. Give one such as: background != 'night'")
    if len(text) > LONGEST:
        raise RuleError(f"the rule has {len(text):,} characters; {LONGEST:,} are allowed.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's syntax warnings don't apply to rules
            tree = ast.parse(text.lstrip(), mode="eval").body
    except SyntaxError as error:
        stripped = len(text) - len(text.lstrip())
        column = (error.offset or 1) - 1 + (stripped if error.lineno in (None, 1) else 0)
        shown = _lines(text)[(error.lineno or 1) - 1 :][:1]
        single = bool(shown) and shown[0][column : column + 1] == "=" and shown[0][column + 1 : column + 2] != "="
        why = "write == to compare" if single else error.msg
        raise RuleError(_pointed(text, f"this doesn't parse: {why}.", error.lineno or 1, column)) from None
    except (ValueError, MemoryError, RecursionError, OverflowError) as error:
        raise RuleError(f"this doesn't parse: {str(error) or 'it is nested too deeply'}.") from None
    level: list[ast.AST] = [tree]
    for _ in range(DEEPEST):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return tree
    raise RuleError(f"the rule is nested more than {DEEPEST} levels deep.")


_WORDS: dict[type[ast.AST], str] = {
    ast.Lambda: "a function of your own", ast.IfExp: "if … else", ast.JoinedStr: "an f-string", ast.Dict: "a dict",
    ast.Set: "a set", ast.ListComp: "a comprehension", ast.GeneratorExp: "a comprehension", ast.Starred: "*",
    ast.SetComp: "a comprehension", ast.DictComp: "a comprehension", ast.NamedExpr: ":=", ast.Slice: "a slice",
    ast.Await: "await", ast.Yield: "yield", ast.YieldFrom: "yield", ast.Pow: "**", ast.FloorDiv: "//",
    ast.MatMult: "@", ast.BitAnd: "& (write and)", ast.BitOr: "| (write or)", ast.BitXor: "^", ast.LShift: "<<",
    ast.RShift: ">>", ast.Invert: "~ (write not)",
}  # fmt: skip


class _Reader:
    """Compile the parts of a rule into functions of a sample's values."""

    def __init__(self, text: str, known: Known):
        self._text, self._known = text, known
        self._indent = len(text) - len(text.lstrip())
        self.names: set[Name] = set()

    def error(self, node: ast.AST, message: str) -> RuleError:
        """Return an error that shows its position in the rule."""
        return RuleError(self._at(node, message))

    def _at(self, node: ast.AST, message: str) -> str:
        line, start, end = (
            getattr(node, "lineno", 1),
            getattr(node, "col_offset", 0),
            getattr(node, "end_col_offset", 0),
        )
        same = getattr(node, "end_lineno", line) == line
        lines = _lines(self._text.lstrip())
        # The parser's offsets are in bytes.
        row = lines[min(line, len(lines)) - 1].encode()
        column = len(row[:start].decode(errors="ignore"))
        width = len(row[start : end if same else None].decode(errors="ignore"))
        skipped = self._text[: self._indent]
        column += self._indent - (max(skipped.rfind("\n"), skipped.rfind("\r")) + 1) if line == 1 else 0
        return _pointed(self._text, message, line + len(_lines(skipped)) - 1, column, width)

    # --- parts ----------------------------------------------------------------------------------

    def truth(self, node: ast.expr) -> _Part:
        """Compile a part that must be true or false."""
        part = self.value(node)

        def checked(values: Values) -> bool:
            value = part(values)
            if value is None:
                raise self.missing(node)
            if not isinstance(value, bool):
                raise self.error(node, f"{kind(value)} where true or false is needed; compare it with something.")
            return value

        return checked

    def value(self, node: ast.expr) -> _Part:
        """Compile any part."""
        match node:
            case ast.Constant():
                return self._constant(node)
            case ast.Name() | ast.Attribute() | ast.Subscript():
                path = self.path(node)
                return lambda values: values(path)
            case ast.List() | ast.Tuple():
                items = [self.value(item) for item in node.elts]
                return lambda values: [item(values) for item in items]
            case ast.BoolOp():
                return self._and_or(node)
            case ast.UnaryOp():
                return self._unary(node)
            case ast.BinOp():
                return self._arithmetic(node)
            case ast.Compare():
                return self._comparison(node)
            case ast.Call():
                return self._call(node)
        raise self.unusable(node, type(node))

    def missing(self, node: ast.expr) -> MissingValue:
        name = ast.unparse(node)
        return MissingValue(name, self._at(node, f"{name} is missing"))

    def unusable(self, node: ast.AST, what: type[ast.AST]) -> RuleError:
        return self.error(node, f"{_WORDS.get(what, 'this')} can't be used in a rule. {USABLE}")

    def _constant(self, node: ast.Constant) -> _Part:
        value = node.value
        if not (value is None or isinstance(value, bool | int | float | str)):
            raise self.unusable(node, type(node))
        return lambda values: value

    def _and_or(self, node: ast.BoolOp) -> _Part:
        parts = [self.truth(part) for part in node.values]
        if isinstance(node.op, ast.And):
            return lambda values: all(part(values) for part in parts)
        return lambda values: any(part(values) for part in parts)

    def _unary(self, node: ast.UnaryOp) -> _Part:
        if isinstance(node.op, ast.Not):
            truth = self.truth(node.operand)
            return lambda values: not truth(values)
        if not isinstance(node.op, ast.USub | ast.UAdd):
            raise self.unusable(node, type(node.op))
        number, sign = self._of(node.operand, "a number"), -1 if isinstance(node.op, ast.USub) else 1
        return lambda values: sign * number(values)

    def _of(self, node: ast.expr, wanted: str) -> _Part:
        """Compile a part that must be of the wanted kind."""
        part = self.value(node)

        def checked(values: Values) -> Any:
            value = part(values)
            if value is None:
                raise self.missing(node)
            if kind(value) != wanted:
                raise self.error(node, f"{kind(value)} where {wanted} is needed.")
            return value

        return checked

    def _arithmetic(self, node: ast.BinOp) -> _Part:
        operators: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
            ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
            ast.Mod: operator.mod,
        }  # fmt: skip
        if type(node.op) not in operators:
            raise self.unusable(node, type(node.op))
        compute = operators[type(node.op)]
        left, right = self._of(node.left, "a number"), self._of(node.right, "a number")

        def computed(values: Values) -> Any:
            try:
                return compute(left(values), right(values))
            except ZeroDivisionError:
                raise self.error(node, "this divides by zero.") from None
            except OverflowError:
                raise self.error(node, "this number is too large to compute with.") from None

        return computed

    def _call(self, node: ast.Call) -> _Part:
        functions: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
            "lower": (str.lower, ("text",)),
            "startswith": (str.startswith, ("text", "text")),
            "endswith": (str.endswith, ("text", "text")),
            "abs": (abs, ("a number",)),
            "len": (len, ("text or a list",)),
        }
        name = node.func.id if isinstance(node.func, ast.Name) else None
        if name is None:
            methods = {"lower", "startswith", "endswith"}
            method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            hint = f"Write {method}(…)." if method in methods else USABLE
            raise self.error(node.func, f"only built-in functions of rules can be called. {hint}")
        if name == VOTES:
            return self._votes(node)
        if name not in functions:
            raise self.error(node.func, f"unknown function {name!r}{nearest_or_all(name, [*functions, VOTES])}")
        function, kinds = functions[name]
        if node.keywords or len(node.args) != len(kinds):
            raise self.error(node, f"{name}() takes {len(kinds)} value{'s' * (len(kinds) > 1)}: {', '.join(kinds)}.")
        if name == "len":
            return self._length(node.args[0])
        arguments = [self._of(argument, wanted) for argument, wanted in zip(node.args, kinds, strict=True)]
        return lambda values: function(*(argument(values) for argument in arguments))

    def _votes(self, node: ast.Call) -> _Part:
        """Compile `votes(a, b, …)`, the number of its tests that are true."""
        if node.keywords or len(node.args) < 2:
            raise self.error(
                node, f"{VOTES}() takes two or more tests, such as {VOTES}(scores.a.p > 0.5, scores.b.p > 0.7) >= 2."
            )
        tests = [self.truth(test) for test in node.args]
        return lambda values: sum(test(values) for test in tests)

    def _length(self, node: ast.expr) -> _Part:
        part = self.value(node)

        def length(values: Values) -> int:
            value = part(values)
            if value is None:
                raise self.missing(node)
            if not isinstance(value, str | list):
                raise self.error(node, f"{kind(value)} where text or a list is needed.")
            return len(value)

        return length

    # --- names ----------------------------------------------------------------------------------

    def path(self, node: ast.expr) -> Name:
        """Return the name that a node spells, resolved against the known names."""
        parts: list[str | int] = []
        at = node
        while not isinstance(at, ast.Name):
            if isinstance(at, ast.Attribute):
                parts.append(at.attr)
                at = at.value
                continue
            if not isinstance(at, ast.Subscript):
                raise self.error(at, "only names have fields.")
            index = at.slice.value if isinstance(at.slice, ast.Constant) else None
            if isinstance(index, bool) or not isinstance(index, str | int):
                raise self.error(at.slice, "brackets must contain a field's name in quotes, or a position from 0.")
            parts.append(index)
            at = at.value
        path = self._resolved(node, (at.id, *reversed(parts)))
        self.names.add(path)
        return path

    def _resolved(self, node: ast.expr, path: Name) -> Name:
        known, (head, *rest) = self._known, path
        if head == "scores":
            return self._score(node, rest)
        if head in known.classes or head in known.texts:
            if rest:
                raise self.error(node, f"{head} is text and has no fields.")
            return path
        if head == "provenance":
            if not rest:
                raise self.error(node, "name a field of the provenance, such as provenance.strength.")
            return path
        return ("provenance", *path)

    def _score(self, node: ast.expr, rest: Sequence[str | int]) -> Name:
        files = self._known.scores
        if not files:
            raise self.error(node, "the dataset has no scores: _figureground/scores/ has no file.")
        if not rest or rest[0] not in files:
            what = f"unknown scores {rest[0]!r}" if rest else "name the scores, as scores.NAME.COLUMN"
            raise self.error(node, f"{what}{nearest_or_all(str(rest[0]) if rest else '', files)}")
        name, columns = str(rest[0]), files[str(rest[0])]
        if len(rest) != 2 or rest[1] not in columns:
            what = f"scores {name!r} have no column {'.'.join(map(str, rest[1:]))!r}" if rest[1:] else "name the column"
            raise self.error(node, f"{what}{nearest_or_all('.'.join(map(str, rest[1:])), columns)}")
        return ("scores", name, str(rest[1]))

    # --- comparisons ----------------------------------------------------------------------------

    def _comparison(self, node: ast.Compare) -> _Part:
        nodes = [node.left, *node.comparators]
        parts = [self.value(part) for part in nodes]
        tests = [
            self._test(left, op, right) for left, op, right in zip(nodes[:-1], node.ops, nodes[1:], strict=True)
        ]  # fmt: skip

        def compared(values: Values) -> bool:
            left = parts[0](values)
            for part, test in zip(parts[1:], tests, strict=True):
                right = part(values)
                if not test(left, right):
                    return False
                left = right
            return True

        return compared

    def _test(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> _Test:
        self._check_names(left, op, right)
        pair = ast.Compare(left, [op], [right])
        ast.copy_location(pair, left)
        pair.end_lineno, pair.end_col_offset = right.end_lineno, right.end_col_offset
        if isinstance(op, ast.In | ast.NotIn):
            return self._membership(pair, left, right, wanted=isinstance(op, ast.In))
        if isinstance(op, ast.Is | ast.IsNot | ast.Eq | ast.NotEq):
            return self._sameness(pair, left, op, right)
        orders: dict[type[ast.cmpop], tuple[str, Callable[[Any, Any], bool]]] = {
            ast.Lt: ("<", operator.lt), ast.LtE: ("<=", operator.le), ast.Gt: (">", operator.gt),
            ast.GtE: (">=", operator.ge),
        }  # fmt: skip
        sign, order = orders[type(op)]

        def ordered(a: Any, b: Any) -> bool:
            self._refuse_missing((a, left), (b, right))
            if kind(a) != kind(b) or kind(a) not in ("a number", "text"):
                raise self.error(pair, f"'{sign}' can't be used between {kind(a)} and {kind(b)}.")
            return order(a, b)

        return ordered

    def _refuse_missing(self, *found: tuple[Any, ast.expr]) -> None:
        for value, node in found:
            if value is None:
                raise self.missing(node)

    def _sameness(self, pair: ast.expr, left: ast.expr, op: ast.cmpop, right: ast.expr) -> _Test:
        wanted = isinstance(op, ast.Is | ast.Eq)
        none = any(isinstance(side, ast.Constant) and side.value is None for side in (left, right))
        if isinstance(op, ast.Is | ast.IsNot) and not none:
            raise self.error(pair, f"'is' only compares with None; write {'==' if wanted else '!='}.")
        if none:
            return lambda a, b: (a is None and b is None) is wanted

        def same(a: Any, b: Any) -> bool:
            self._refuse_missing((a, left), (b, right))
            if kind(a) != kind(b) or kind(a) == "a group of fields":
                raise self.error(pair, f"'{'==' if wanted else '!='}' can't be used between {kind(a)} and {kind(b)}.")
            return (a == b) is wanted

        return same

    def _membership(self, pair: ast.expr, left: ast.expr, right: ast.expr, wanted: bool) -> _Test:
        if isinstance(right, ast.List | ast.Tuple) and all(isinstance(item, ast.Constant) for item in right.elts):
            constants = [item.value for item in right.elts if isinstance(item, ast.Constant)]
            held = {(kind(item), item) for item in constants}
        else:
            held = None
        none = isinstance(right, ast.List | ast.Tuple) and any(
            isinstance(item, ast.Constant) and item.value is None for item in right.elts
        )

        def member(a: Any, b: Any) -> bool:
            self._refuse_missing((b, right))
            if a is None and none:
                return wanted
            self._refuse_missing((a, left))
            if isinstance(b, str) and isinstance(a, str):
                return (a in b) is wanted
            if not isinstance(b, list):
                raise self.error(
                    pair, f"'in' can't be used between {kind(a)} and {kind(b)}; write a list: in ['a', 'b']."
                )
            others = {kind(item) for item in b if item is not None}
            if others and kind(a) not in others:
                raise self.error(
                    pair, f"'in' can't be used between {kind(a)} and a list of {' and '.join(sorted(others))}."
                )
            if held is not None and isinstance(a, str | int | float):
                return ((kind(a), a) in held) is wanted
            return any(kind(a) == kind(item) and a == item for item in b) is wanted

        return member

    def _check_names(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> None:
        """Refuse unknown class names, which would silently keep or drop every sample."""
        for side, other in ((left, right), (right, left)):
            column = side.id if isinstance(side, ast.Name) else None
            if column not in self._known.classes or column is None:
                continue
            if isinstance(op, ast.In | ast.NotIn) and side is right:
                continue
            if isinstance(op, ast.In | ast.NotIn) and isinstance(other, ast.Constant):
                raise self.error(other, f"'in' needs a list here, such as {column} in ['a', 'b'].")
            for item in _constants(other):
                names = self._known.classes[column]
                if isinstance(item.value, str) and isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn):
                    if item.value not in names:
                        raise self.error(item, f"{column} is never {item.value!r}{nearest_or_all(item.value, names)}")
                elif item.value is not None and not isinstance(item.value, str):
                    raise self.error(item, f"{column} is text, compared with {kind(item.value)}.")


def _constants(node: ast.expr) -> Iterator[ast.Constant]:
    """Yield the constant that a node is, or the constants that it lists."""
    for item in node.elts if isinstance(node, ast.List | ast.Tuple) else [node]:
        if isinstance(item, ast.Constant):
            yield item


def nearest_name(path: Name, known: Known, fields: Sequence[str]) -> str:
    """Return a hint at the closest known name, or list the known names."""
    scores = [f"scores.{name}.{column}" for name, columns in known.scores.items() for column in columns]
    names = [*known.classes, *known.texts, *fields, *scores]
    return nearest(spelled(path), names) or f"; known names are {listed(names, 30)}."
