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

from figureground.core.errors import RecipeError, join_names, suggest, suggest_or_list

MAX_LENGTH = 20_000
"""Maximum number of characters in a rule; a list of a thousand class names fits."""
MAX_DEPTH = 100
"""Maximum nesting depth of expressions."""
EXCERPT_LENGTH = 80
"""Number of characters of a rule that an error shows around its position."""

VOTES = "votes"
"""Function that counts the true ones among several tests."""

Name = tuple[str | int, ...]
"""A name in a rule, part by part: `guide.box[0]` is `("provenance", "guide", "box", 0)`."""

Values = Callable[[Name], Any]
"""Looks up a sample's value for a name: None, a boolean, a number, text, a list or a group of fields (a dict)."""

_Evaluator = Callable[[Values], Any]
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
class KnownNames:
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
        known_names: Names that it may use.

    Raises:
        RuleError: The text doesn't parse, uses an unsupported construct, or an unknown name; the message shows the
            position.
    """

    def __init__(self, text: str, known_names: KnownNames):
        tree = _parse(text)
        compiler = _Compiler(text, known_names)
        self._test = compiler.compile_test(tree)
        self.text: str = " ".join(ast.unparse(tree).split("\n"))
        """The rule in normalised form: equal for rules that differ only in whitespace and quotes."""
        self.names: frozenset[Name] = frozenset(compiler.names)
        """Names that the rule looks up."""

    def __call__(self, values: Values) -> bool:
        """Whether a sample is kept.

        Raises:
            MissingValue: The sample lacks a compared value.
            RuleError: Values aren't comparable, such as text and a number, or a division by zero occurs.
        """
        return bool(self._test(values))


def spell_name(path: Name) -> str:
    """Return a name as it is written in a rule."""
    text = ""
    for part in path[1:] if path[0] == "provenance" and len(path) > 1 else path:
        if isinstance(part, str) and part.isidentifier():
            text += f".{part}" if text else part
        else:
            text += f"[{part!r}]"
    return text


def describe_kind(value: Any) -> str:
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


def _split_lines(text: str) -> list[str]:
    return re.split(r"\r\n|\r|\n", text)


def _point_at(text: str, message: str, line: int = 1, column: int = 0, width: int = 1) -> str:
    """Append the position in the rule to a message; lines count from 1, columns from 0."""
    lines = _split_lines(text)
    line_text = re.sub(r"\s", " ", lines[min(max(line, 1), len(lines)) - 1])
    column = min(max(column, 0), len(line_text))
    where = f"character {column + 1}" if len(lines) == 1 else f"line {line}, character {column + 1}"
    start = max(0, column - EXCERPT_LENGTH // 2) if len(line_text) > EXCERPT_LENGTH else 0
    part = line_text[start : start + EXCERPT_LENGTH]
    before, after = "…" if start else "", "…" if start + EXCERPT_LENGTH < len(line_text) else ""
    marks = "^" * max(1, min(width, len(part) - (column - start)))
    return f"{message} ({where})\n  {before}{part}{after}\n  {' ' * (len(before) + column - start)}{marks}"


def _parse(text: str) -> ast.expr:
    if not text.strip():
        raise RuleError("the rule is empty. Give one such as: background != 'night'")
    if len(text) > MAX_LENGTH:
        raise RuleError(f"the rule has {len(text):,} characters; {MAX_LENGTH:,} are allowed.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's syntax warnings don't apply to rules
            tree = ast.parse(text.lstrip(), mode="eval").body
    except SyntaxError as error:
        stripped = len(text) - len(text.lstrip())
        column = (error.offset or 1) - 1 + (stripped if error.lineno in (None, 1) else 0)
        lines = _split_lines(text)[(error.lineno or 1) - 1 :][:1]
        is_assignment = (
            bool(lines) and lines[0][column : column + 1] == "=" and lines[0][column + 1 : column + 2] != "="
        )
        problem = "write == to compare" if is_assignment else error.msg
        raise RuleError(_point_at(text, f"this doesn't parse: {problem}.", error.lineno or 1, column)) from None
    except (ValueError, MemoryError, RecursionError, OverflowError) as error:
        raise RuleError(f"this doesn't parse: {str(error) or 'it is nested too deeply'}.") from None
    level: list[ast.AST] = [tree]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return tree
    raise RuleError(f"the rule is nested more than {MAX_DEPTH} levels deep.")


_NODE_NAMES: dict[type[ast.AST], str] = {
    ast.Lambda: "a function of your own", ast.IfExp: "if … else", ast.JoinedStr: "an f-string", ast.Dict: "a dict",
    ast.Set: "a set", ast.ListComp: "a comprehension", ast.GeneratorExp: "a comprehension", ast.Starred: "*",
    ast.SetComp: "a comprehension", ast.DictComp: "a comprehension", ast.NamedExpr: ":=", ast.Slice: "a slice",
    ast.Await: "await", ast.Yield: "yield", ast.YieldFrom: "yield", ast.Pow: "**", ast.FloorDiv: "//",
    ast.MatMult: "@", ast.BitAnd: "& (write and)", ast.BitOr: "| (write or)", ast.BitXor: "^", ast.LShift: "<<",
    ast.RShift: ">>", ast.Invert: "~ (write not)",
}  # fmt: skip


class _Compiler:
    """Compile the parts of a rule into functions of a sample's values."""

    def __init__(self, text: str, known_names: KnownNames):
        self._text, self._known_names = text, known_names
        self._indent = len(text) - len(text.lstrip())
        self.names: set[Name] = set()

    def make_error(self, node: ast.AST, message: str) -> RuleError:
        """Return an error that shows its position in the rule."""
        return RuleError(self._locate(node, message))

    def _locate(self, node: ast.AST, message: str) -> str:
        line, start, end = (
            getattr(node, "lineno", 1),
            getattr(node, "col_offset", 0),
            getattr(node, "end_col_offset", 0),
        )
        is_one_line = getattr(node, "end_lineno", line) == line
        lines = _split_lines(self._text.lstrip())
        # The parser's offsets are in bytes.
        row = lines[min(line, len(lines)) - 1].encode()
        column = len(row[:start].decode(errors="ignore"))
        width = len(row[start : end if is_one_line else None].decode(errors="ignore"))
        skipped = self._text[: self._indent]
        column += self._indent - (max(skipped.rfind("\n"), skipped.rfind("\r")) + 1) if line == 1 else 0
        return _point_at(self._text, message, line + len(_split_lines(skipped)) - 1, column, width)

    # --- parts ----------------------------------------------------------------------------------

    def compile_test(self, node: ast.expr) -> _Evaluator:
        """Compile a part that must be true or false."""
        part = self.compile_value(node)

        def checked(values: Values) -> bool:
            value = part(values)
            if value is None:
                raise self.make_missing(node)
            if not isinstance(value, bool):
                kind = describe_kind(value)
                raise self.make_error(node, f"{kind} where true or false is needed; compare it with something.")
            return value

        return checked

    def compile_value(self, node: ast.expr) -> _Evaluator:
        """Compile any part."""
        match node:
            case ast.Constant():
                return self._compile_constant(node)
            case ast.Name() | ast.Attribute() | ast.Subscript():
                path = self.resolve(node)
                return lambda values: values(path)
            case ast.List() | ast.Tuple():
                items = [self.compile_value(item) for item in node.elts]
                return lambda values: [item(values) for item in items]
            case ast.BoolOp():
                return self._compile_bool(node)
            case ast.UnaryOp():
                return self._compile_unary(node)
            case ast.BinOp():
                return self._compile_arithmetic(node)
            case ast.Compare():
                return self._compile_comparison(node)
            case ast.Call():
                return self._compile_call(node)
        raise self.make_unusable(node, type(node))

    def make_missing(self, node: ast.expr) -> MissingValue:
        name = ast.unparse(node)
        return MissingValue(name, self._locate(node, f"{name} is missing"))

    def make_unusable(self, node: ast.AST, node_type: type[ast.AST]) -> RuleError:
        return self.make_error(node, f"{_NODE_NAMES.get(node_type, 'this')} can't be used in a rule. {USABLE}")

    def _compile_constant(self, node: ast.Constant) -> _Evaluator:
        value = node.value
        if not (value is None or isinstance(value, bool | int | float | str)):
            raise self.make_unusable(node, type(node))
        return lambda values: value

    def _compile_bool(self, node: ast.BoolOp) -> _Evaluator:
        parts = [self.compile_test(part) for part in node.values]
        if isinstance(node.op, ast.And):
            return lambda values: all(part(values) for part in parts)
        return lambda values: any(part(values) for part in parts)

    def _compile_unary(self, node: ast.UnaryOp) -> _Evaluator:
        if isinstance(node.op, ast.Not):
            truth = self.compile_test(node.operand)
            return lambda values: not truth(values)
        if not isinstance(node.op, ast.USub | ast.UAdd):
            raise self.make_unusable(node, type(node.op))
        number, sign = self._compile_kind(node.operand, "a number"), -1 if isinstance(node.op, ast.USub) else 1
        return lambda values: sign * number(values)

    def _compile_kind(self, node: ast.expr, expected: str) -> _Evaluator:
        """Compile a part that must be of the expected kind."""
        part = self.compile_value(node)

        def checked(values: Values) -> Any:
            value = part(values)
            if value is None:
                raise self.make_missing(node)
            if describe_kind(value) != expected:
                raise self.make_error(node, f"{describe_kind(value)} where {expected} is needed.")
            return value

        return checked

    def _compile_arithmetic(self, node: ast.BinOp) -> _Evaluator:
        operators: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
            ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
            ast.Mod: operator.mod,
        }  # fmt: skip
        if type(node.op) not in operators:
            raise self.make_unusable(node, type(node.op))
        compute = operators[type(node.op)]
        left, right = self._compile_kind(node.left, "a number"), self._compile_kind(node.right, "a number")

        def computed(values: Values) -> Any:
            try:
                return compute(left(values), right(values))
            except ZeroDivisionError:
                raise self.make_error(node, "this divides by zero.") from None
            except OverflowError:
                raise self.make_error(node, "this number is too large to compute with.") from None

        return computed

    def _compile_call(self, node: ast.Call) -> _Evaluator:
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
            raise self.make_error(node.func, f"only built-in functions of rules can be called. {hint}")
        if name == VOTES:
            return self._compile_votes(node)
        if name not in functions:
            raise self.make_error(node.func, f"unknown function {name!r}{suggest_or_list(name, [*functions, VOTES])}")
        function, kinds = functions[name]
        if node.keywords or len(node.args) != len(kinds):
            raise self.make_error(
                node, f"{name}() takes {len(kinds)} value{'s' * (len(kinds) > 1)}: {', '.join(kinds)}."
            )
        if name == "len":
            return self._compile_length(node.args[0])
        arguments = [
            self._compile_kind(argument, expected) for argument, expected in zip(node.args, kinds, strict=True)
        ]
        return lambda values: function(*(argument(values) for argument in arguments))

    def _compile_votes(self, node: ast.Call) -> _Evaluator:
        """Compile `votes(a, b, …)`, the number of its tests that are true."""
        if node.keywords or len(node.args) < 2:
            raise self.make_error(
                node, f"{VOTES}() takes two or more tests, such as {VOTES}(scores.a.p > 0.5, scores.b.p > 0.7) >= 2."
            )
        tests = [self.compile_test(test) for test in node.args]
        return lambda values: sum(test(values) for test in tests)

    def _compile_length(self, node: ast.expr) -> _Evaluator:
        part = self.compile_value(node)

        def length(values: Values) -> int:
            value = part(values)
            if value is None:
                raise self.make_missing(node)
            if not isinstance(value, str | list):
                raise self.make_error(node, f"{describe_kind(value)} where text or a list is needed.")
            return len(value)

        return length

    # --- names ----------------------------------------------------------------------------------

    def resolve(self, node: ast.expr) -> Name:
        """Return the name that a node spells, resolved against the known names."""
        parts: list[str | int] = []
        part = node
        while not isinstance(part, ast.Name):
            if isinstance(part, ast.Attribute):
                parts.append(part.attr)
                part = part.value
                continue
            if not isinstance(part, ast.Subscript):
                raise self.make_error(part, "only names have fields.")
            index = part.slice.value if isinstance(part.slice, ast.Constant) else None
            if isinstance(index, bool) or not isinstance(index, str | int):
                raise self.make_error(
                    part.slice, "brackets must contain a field's name in quotes, or a position from 0."
                )
            parts.append(index)
            part = part.value
        path = self._resolve_column(node, (part.id, *reversed(parts)))
        self.names.add(path)
        return path

    def _resolve_column(self, node: ast.expr, path: Name) -> Name:
        known_names, (head, *rest) = self._known_names, path
        if head == "scores":
            return self._resolve_score(node, rest)
        if head in known_names.classes or head in known_names.texts:
            if rest:
                raise self.make_error(node, f"{head} is text and has no fields.")
            return path
        if head == "provenance":
            if not rest:
                raise self.make_error(node, "name a field of the provenance, such as provenance.strength.")
            return path
        return ("provenance", *path)

    def _resolve_score(self, node: ast.expr, rest: Sequence[str | int]) -> Name:
        files = self._known_names.scores
        if not files:
            raise self.make_error(node, "the dataset has no scores: _figureground/scores/ has no file.")
        if not rest or rest[0] not in files:
            problem = f"unknown scores {rest[0]!r}" if rest else "name the scores, as scores.NAME.COLUMN"
            raise self.make_error(node, f"{problem}{suggest_or_list(str(rest[0]) if rest else '', files)}")
        name, columns = str(rest[0]), files[str(rest[0])]
        if len(rest) != 2 or rest[1] not in columns:
            problem = (
                f"scores {name!r} have no column {'.'.join(map(str, rest[1:]))!r}" if rest[1:] else "name the column"
            )
            raise self.make_error(node, f"{problem}{suggest_or_list('.'.join(map(str, rest[1:])), columns)}")
        return ("scores", name, str(rest[1]))

    # --- comparisons ----------------------------------------------------------------------------

    def _compile_comparison(self, node: ast.Compare) -> _Evaluator:
        nodes = [node.left, *node.comparators]
        parts = [self.compile_value(part) for part in nodes]
        tests = [
            self._compile_pair(left, op, right) for left, op, right in zip(nodes[:-1], node.ops, nodes[1:], strict=True)
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

    def _compile_pair(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> _Test:
        self._check_names(left, op, right)
        pair = ast.Compare(left, [op], [right])
        ast.copy_location(pair, left)
        pair.end_lineno, pair.end_col_offset = right.end_lineno, right.end_col_offset
        if isinstance(op, ast.In | ast.NotIn):
            return self._compile_membership(pair, left, right, positive=isinstance(op, ast.In))
        if isinstance(op, ast.Is | ast.IsNot | ast.Eq | ast.NotEq):
            return self._compile_equality(pair, left, op, right)
        orders: dict[type[ast.cmpop], tuple[str, Callable[[Any, Any], bool]]] = {
            ast.Lt: ("<", operator.lt), ast.LtE: ("<=", operator.le), ast.Gt: (">", operator.gt),
            ast.GtE: (">=", operator.ge),
        }  # fmt: skip
        sign, order = orders[type(op)]

        def ordered(a: Any, b: Any) -> bool:
            self._refuse_missing((a, left), (b, right))
            if describe_kind(a) != describe_kind(b) or describe_kind(a) not in ("a number", "text"):
                raise self.make_error(
                    pair, f"'{sign}' can't be used between {describe_kind(a)} and {describe_kind(b)}."
                )
            return order(a, b)

        return ordered

    def _refuse_missing(self, *pairs: tuple[Any, ast.expr]) -> None:
        for value, node in pairs:
            if value is None:
                raise self.make_missing(node)

    def _compile_equality(self, pair: ast.expr, left: ast.expr, op: ast.cmpop, right: ast.expr) -> _Test:
        is_equality = isinstance(op, ast.Is | ast.Eq)
        compares_none = any(isinstance(side, ast.Constant) and side.value is None for side in (left, right))
        if isinstance(op, ast.Is | ast.IsNot) and not compares_none:
            raise self.make_error(pair, f"'is' only compares with None; write {'==' if is_equality else '!='}.")
        if compares_none:
            return lambda a, b: (a is None and b is None) is is_equality

        def same(a: Any, b: Any) -> bool:
            self._refuse_missing((a, left), (b, right))
            if describe_kind(a) != describe_kind(b) or describe_kind(a) == "a group of fields":
                sign = "==" if is_equality else "!="
                raise self.make_error(
                    pair, f"'{sign}' can't be used between {describe_kind(a)} and {describe_kind(b)}."
                )
            return (a == b) is is_equality

        return same

    def _compile_membership(self, pair: ast.expr, left: ast.expr, right: ast.expr, positive: bool) -> _Test:
        if isinstance(right, ast.List | ast.Tuple) and all(isinstance(item, ast.Constant) for item in right.elts):
            items = [item.value for item in right.elts if isinstance(item, ast.Constant)]
            constants = {(describe_kind(item), item) for item in items}
        else:
            constants = None
        lists_none = isinstance(right, ast.List | ast.Tuple) and any(
            isinstance(item, ast.Constant) and item.value is None for item in right.elts
        )

        def member(a: Any, b: Any) -> bool:
            self._refuse_missing((b, right))
            if a is None and lists_none:
                return positive
            self._refuse_missing((a, left))
            if isinstance(b, str) and isinstance(a, str):
                return (a in b) is positive
            if not isinstance(b, list):
                raise self.make_error(
                    pair,
                    f"'in' can't be used between {describe_kind(a)} and {describe_kind(b)}; write a list: "
                    "in ['a', 'b'].",
                )
            kinds = {describe_kind(item) for item in b if item is not None}
            if kinds and describe_kind(a) not in kinds:
                raise self.make_error(
                    pair, f"'in' can't be used between {describe_kind(a)} and a list of {' and '.join(sorted(kinds))}."
                )
            if constants is not None and isinstance(a, str | int | float):
                return ((describe_kind(a), a) in constants) is positive
            return any(describe_kind(a) == describe_kind(item) and a == item for item in b) is positive

        return member

    def _check_names(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> None:
        """Refuse unknown class names, which would silently keep or drop every sample."""
        for side, other in ((left, right), (right, left)):
            column = side.id if isinstance(side, ast.Name) else None
            if column not in self._known_names.classes or column is None:
                continue
            if isinstance(op, ast.In | ast.NotIn) and side is right:
                continue
            if isinstance(op, ast.In | ast.NotIn) and isinstance(other, ast.Constant):
                raise self.make_error(other, f"'in' needs a list here, such as {column} in ['a', 'b'].")
            for item in _list_constants(other):
                names = self._known_names.classes[column]
                if isinstance(item.value, str) and isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn):
                    if item.value not in names:
                        raise self.make_error(
                            item, f"{column} is never {item.value!r}{suggest_or_list(item.value, names)}"
                        )
                elif item.value is not None and not isinstance(item.value, str):
                    raise self.make_error(item, f"{column} is text, compared with {describe_kind(item.value)}.")


def _list_constants(node: ast.expr) -> Iterator[ast.Constant]:
    """Yield the constant that a node is, or the constants that it lists."""
    for item in node.elts if isinstance(node, ast.List | ast.Tuple) else [node]:
        if isinstance(item, ast.Constant):
            yield item


def hint_nearest(path: Name, known_names: KnownNames, fields: Sequence[str]) -> str:
    """Return a hint at the closest known name, or list the known names."""
    scores = [f"scores.{name}.{column}" for name, columns in known_names.scores.items() for column in columns]
    names = [*known_names.classes, *known_names.texts, *fields, *scores]
    return suggest(spell_name(path), names) or f"; known names are {join_names(names, 30)}."
