"""The conditions of `exclude` and `only`: `model.width == 512 and tokens >= 20M`.

Comparisons (also chained), `in`, `and`, `or`, `not`, arithmetic, functions, quantities, text in quotes, `null`, `true`,
`false`, and the dotted paths of a plan's quantities. A parser of its own, closures for what it reads: nothing that a
stranger writes is run as Python. Length and depth are bounded, and arithmetic is (`specs.arithmetic`).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import UnionType
from typing import Annotated, Any, Literal, NoReturn, TypeAlias, Union, get_args, get_origin, get_type_hints

import msgspec

from specs.arithmetic import FUNCTIONS, OPERATORS, number
from specs.quantities import parse_quantity
from specs.suggest import suggestion

MAX_LENGTH = 1000
"""Most characters of a condition."""

MAX_DEPTH = 40
"""Most levels of parentheses, signs, powers and `not` in one another."""

Value: TypeAlias = Callable[[Any], Any]
"""A part of a condition, as a function of the object that it is about."""


class ExpressionError(Exception):
    """A condition that cannot be read, or that has no answer for the object it is asked about."""

    def __init__(self, what: str, todo: str) -> None:
        super().__init__(f"{what}; {todo}")
        self.what, self.todo = what, todo


class Condition:
    """A compiled condition, called with the object (a plan's run) that its paths start at.

    `paths` are the quantities that it reads. A call raises ExpressionError where the condition has no answer.
    """

    def __init__(self, text: str, value: Value, paths: tuple[str, ...]) -> None:
        self.text, self.paths = text, paths
        self._value = value

    def __call__(self, run: object) -> bool:
        """Whether the condition holds for `run`."""
        answer = self._value(run)
        if answer is True or answer is False:
            return answer
        raise _no_truth(answer)


def compile_condition(text: str, known: Callable[[str], str | None]) -> Condition:
    """Compile `text`. `known` says of a dotted path None where it may be used, or else what to do about it.

    Raises ExpressionError.
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"the condition is longer than {MAX_LENGTH:,} characters", "split it into several")
    parser = _Parser(_tokens(text), known)
    value = parser.condition()
    return Condition(text, value, tuple(parser.paths))


# Reading

_SPACE = re.compile(r"\s*")
_NUMBER = re.compile(r"((?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)(?:\s?([KMBTkmbt]))?(?![\w.])", re.ASCII)
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_STEP = re.compile(r"\.([A-Za-z_]\w*)|\[\s*(?:'([^']*)'|\"([^\"]*)\")\s*\]", re.ASCII)
_TEXT = re.compile(r"'([^'\\]*)'|\"([^\"\\]*)\"")
_SIGN = re.compile(r"\*\*|==|!=|<=|>=|[-+*/%()<>,\[\]]")
_WORDS = {"and", "or", "not", "in"}
_CONSTANTS: Mapping[str, bool | None] = {"null": None, "None": None, "true": True, "True": True, "false": False}
_CONSTANTS = {**_CONSTANTS, "False": False}
_INSTEAD = {"=": "==", "&": "and", "|": "or", "!": "not", "^": "**"}


class _Token(msgspec.Struct, frozen=True):
    """`kind` is `number`, `text`, `path`, `sign` (words as `and` too) or `end`."""

    kind: Literal["number", "text", "path", "sign", "end"]
    value: Any
    written: str


def _tokens(text: str) -> list[_Token]:
    tokens = []
    at = _skip(text, 0)
    while at < len(text):
        token, at = _token(text, at)
        tokens.append(token)
        at = _skip(text, at)
    return [*tokens, _Token("end", None, "the end")]


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _token(text: str, at: int) -> tuple[_Token, int]:
    if match := _NUMBER.match(text, at):
        return _Token("number", _literal(match[1], match[2]), match[0]), match.end()
    if match := _TEXT.match(text, at):
        return _Token("text", match[1] if match[1] is not None else match[2], match[0]), match.end()
    if match := _NAME.match(text, at):
        if match[0] in _WORDS:
            return _Token("sign", match[0], match[0]), match.end()
        parts, end = [match[0]], match.end()
        while step := _STEP.match(text, end):
            parts.append(next(group for group in step.groups() if group is not None))
            end = step.end()
        return _Token("path", tuple(parts), text[at:end]), end
    if match := _SIGN.match(text, at):
        return _Token("sign", match[0], match[0]), match.end()
    unread = text[at : at + 20]
    if text[at] in "'\"":
        raise ExpressionError(f"the text {unread!r} does not end", "close the quote, and use no backslash in it")
    if text[at].isdigit() or text[at] == ".":
        raise ExpressionError(f"'{unread}' is not a number", "write a number such as 512, 1e19 or 20M")
    instead = _INSTEAD.get(text[at])
    todo = f"write '{instead}'" if instead else "use comparisons, arithmetic, and, or, not, in"
    raise ExpressionError(f"'{unread}' cannot be read", todo)


def _literal(digits: str, suffix: str | None) -> int | float:
    try:
        if suffix is None and digits.replace("_", "").isdigit():
            return number(int(digits.replace("_", "")))
        return number(parse_quantity(digits + (suffix or "")))
    except (ValueError, OverflowError):
        raise ExpressionError(f"'{digits[:20]}{suffix or ''}' is not a number here", "write a smaller one") from None


class _Parser:
    """Precedence climbing, as in Python: or, and, not, comparisons, sums, products, signs, powers."""

    def __init__(self, tokens: Sequence[_Token], known: Callable[[str], str | None]) -> None:
        self.tokens, self.known = tokens, known
        self.at = self.depth = 0
        self.paths: dict[str, None] = {}

    def condition(self) -> Value:
        value = self._either()
        if self.tokens[self.at].kind != "end":
            self._unexpected("use and, or, or a comparison there")
        return value

    def _take(self, *signs: str) -> str | None:
        token = self.tokens[self.at]
        if token.kind == "sign" and token.value in signs:
            self.at += 1
            return token.written
        return None

    def _need(self, sign: str) -> None:
        if not self._take(sign):
            self._unexpected(f"write '{sign}' there")

    def _unexpected(self, todo: str) -> NoReturn:
        before = self.tokens[self.at - 1].written if self.at else "the start"
        raise ExpressionError(f"'{self.tokens[self.at].written}' cannot follow '{before}'", todo)

    def _deeper(self, parse: Callable[[], Value]) -> Value:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ExpressionError(f"the condition nests deeper than {MAX_DEPTH} levels", "write it flatter")
        value = parse()
        self.depth -= 1
        return value

    def _either(self) -> Value:
        terms = [self._both()]
        while self._take("or"):
            terms.append(self._both())
        return terms[0] if len(terms) == 1 else _logic(terms, stop=True)

    def _both(self) -> Value:
        terms = [self._not()]
        while self._take("and"):
            terms.append(self._not())
        return terms[0] if len(terms) == 1 else _logic(terms, stop=False)

    def _not(self) -> Value:
        return _negation(self._deeper(self._not)) if self._take("not") else self._comparison()

    def _comparison(self) -> Value:
        first = self._sum()
        links: list[tuple[Callable[[Any, Any], bool], Value]] = []
        while True:
            if sign := self._take(*_ORDERS):
                links.append((_ORDERS[sign], self._sum()))
            elif self._take("in"):
                links.append((_contains, self._members()))
            elif self._take("not"):
                self._need("in")
                links.append((_lacks, self._members()))
            else:
                break
        if not links:
            return first
        return _compared(first, *links[0]) if len(links) == 1 else _chained(first, links)

    def _members(self) -> Value:
        self._need("[")
        members = self._list("]")
        return lambda run: [member(run) for member in members]

    def _list(self, end: str) -> list[Value]:
        members: list[Value] = []
        while not self._take(end):
            members.append(self._deeper(self._either))
            if not self._take(","):
                self._need(end)
                break
        return members

    def _sum(self) -> Value:
        return self._left(("+", "-"), self._product)

    def _product(self) -> Value:
        return self._left(("*", "/", "%"), self._signed)

    def _left(self, signs: tuple[str, ...], operand: Callable[[], Value]) -> Value:
        first = operand()
        rest = []
        while sign := self._take(*signs):
            rest.append((OPERATORS[sign], operand()))
        return _computed(first, rest) if rest else first

    def _signed(self) -> Value:
        if self._take("-"):
            return _computed(lambda run: 0, [(OPERATORS["-"], self._deeper(self._signed))])
        if self._take("+"):
            return _computed(lambda run: 0, [(OPERATORS["+"], self._deeper(self._signed))])
        base = self._atom()
        return _computed(base, [(OPERATORS["**"], self._deeper(self._signed))]) if self._take("**") else base

    def _atom(self) -> Value:
        if self._take("("):
            value = self._deeper(self._either)
            self._need(")")
            return value
        token = self.tokens[self.at]
        if token.kind in ("sign", "end"):
            self._unexpected("write a number, a path, text in quotes or a function there")
        self.at += 1
        constant = token.value
        if token.kind != "path":
            return lambda run: constant
        if self._take("("):
            return self._call(token.written)
        if token.written in _CONSTANTS:
            constant = _CONSTANTS[token.written]
            return lambda run: constant
        return self._path(token)

    def _call(self, name: str) -> Value:
        function = FUNCTIONS.get(name)
        if function is None:
            raise ExpressionError(f"there is no function '{name}'", suggestion(name, FUNCTIONS))
        arguments = self._list(")")

        def call(run: Any) -> Any:
            try:
                return function(*[argument(run) for argument in arguments])
            except ValueError as error:
                raise _arithmetic(error) from None

        return call

    def _path(self, token: _Token) -> Value:
        parts: tuple[str, ...] = token.value
        path = ".".join(parts)
        todo = self.known(path)
        if todo is not None:
            neither = "neither a single quantity nor text in quotes" if len(parts) == 1 else "not a single quantity"
            raise ExpressionError(f"'{path}' is {neither}", todo)
        self.paths[path] = None
        return lambda run: _read(run, parts)


# Evaluation


def _read(run: Any, parts: tuple[str, ...]) -> Any:
    value = run
    try:
        for part in parts:
            value = value[part] if type(value) is dict else getattr(value, part)
    except (KeyError, AttributeError):
        before = ".".join(parts[: parts.index(part)]) or "what is asked about"
        if value is None:
            raise ExpressionError(f"{before} is null", f"test '{before} != null and …' first") from None
        names = map(str, value) if isinstance(value, dict) else ()
        raise ExpressionError(f"there is no '{part}' in {before}", suggestion(part, names)) from None
    return value


def _told(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return f"the text '{value[:40]}'" if isinstance(value, str) else f"a {type(value).__name__}"


_KINDS = {int: "number", float: "number", bool: "truth value", str: "text", type(None): "null"}


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def ordered(left: Any, right: Any) -> bool:
        if (type(left) is int or type(left) is float) and (type(right) is int or type(right) is float):
            return compare(left, right)
        for value in (left, right):
            if value is None:
                raise ExpressionError("null has no order", "test '… != null and …' first")
        culprit = left if _KINDS.get(type(left)) != "number" else right
        raise ExpressionError(f"{_told(culprit)} has no order", "order numbers only; compare others with ==")

    return ordered


def _equal(left: Any, right: Any) -> bool:
    if type(left) is not type(right) and left is not None and right is not None:
        one, other = _KINDS.get(type(left)), _KINDS.get(type(right))
        if one != other:
            raise ExpressionError(
                f"{_told(left)} is compared with {_told(right)}", "compare numbers with numbers and text with text"
            )
    return bool(left == right)


def _unequal(left: Any, right: Any) -> bool:
    return not _equal(left, right)


def _contains(member: Any, members: list[Any]) -> bool:
    equal = [_equal(member, one) for one in members]  # all of them: a wrong kind is told wherever it stands
    return any(equal)


def _lacks(member: Any, members: list[Any]) -> bool:
    return not _contains(member, members)


_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": _equal,
    "!=": _unequal,
    "<": _ordered(operator.lt),
    "<=": _ordered(operator.le),
    ">": _ordered(operator.gt),
    ">=": _ordered(operator.ge),
}


def _compared(left: Value, compare: Callable[[Any, Any], bool], right: Value) -> Value:
    return lambda run: compare(left(run), right(run))


def _chained(first: Value, links: list[tuple[Callable[[Any, Any], bool], Value]]) -> Value:
    """a < b < c, where each is computed at most once."""

    def chained(run: Any) -> bool:
        left = first(run)
        for compare, value in links:
            right = value(run)
            if isinstance(left, list):
                raise ExpressionError("a list is compared", "join the comparisons with and")
            if not compare(left, right):
                return False
            left = right
        return True

    return chained


def _logic(terms: list[Value], stop: bool) -> Value:
    """`or` of the terms where they stop at true, else `and`."""

    def logic(run: Any) -> bool:
        for term in terms:
            value = term(run)
            if value is not True and value is not False:
                raise _no_truth(value)
            if value is stop:
                return stop
        return not stop

    return logic


def _negation(term: Value) -> Value:
    def negation(run: Any) -> bool:
        value = term(run)
        if value is True or value is False:
            return value is False
        raise _no_truth(value)

    return negation


def _computed(first: Value, rest: list[tuple[Callable[[object, object], int | float], Value]]) -> Value:
    def computed(run: Any) -> int | float:
        value: int | float = _operand(first(run))
        try:
            for compute, term in rest:
                value = compute(value, _operand(term(run)))
        except ValueError as error:
            raise _arithmetic(error) from None
        return value

    return computed


def _operand(value: Any) -> int | float:
    """A number for an operator; text, which functions read as a quantity, is none."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise ExpressionError(f"{_told(value)} is not a number", "compute with numbers only")


def _arithmetic(error: ValueError) -> ExpressionError:
    what, _, todo = str(error).partition("; ")
    return ExpressionError(what, todo)


def _no_truth(value: object) -> ExpressionError:
    return ExpressionError(f"{_told(value)} is neither true nor false", "compare it, such as tokens > 20M")


# Paths


def check_path(struct: type[msgspec.Struct], path: str) -> str | None:
    """None where dotted `path` leads from a `struct` to a single value, or else what to do.

    It goes through fields and properties; any key of a mapping passes, as only an object knows its keys.
    """
    here: Any = struct
    words = path.split(".")
    for depth, word in enumerate(words):
        if isinstance(here, type) and issubclass(here, msgspec.Struct):
            fields = _fields(here)
            if word not in fields:
                before = "".join(f"{one}." for one in words[:depth])
                return suggestion(before + word, [before + name for name in fields])
            here = fields[word]
        elif get_origin(here) is dict:
            here = _bare(get_args(here)[1])
            if here in _KINDS:
                return None  # what is left may be a key with dots in it
        else:
            return f"use '{'.'.join(words[:depth])}'"
    if here in _KINDS or get_origin(here) is Literal:
        return None
    if isinstance(here, type) and issubclass(here, msgspec.Struct):
        return "go on to one of its values: " + ", ".join(f"{path}.{name}" for name in _fields(here))
    if get_origin(here) is dict:
        return f"name one of its values, such as {path}['NAME']"
    return "it holds several values; use another quantity"


@lru_cache(maxsize=64)
def _fields(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """The types of a struct's fields and properties, by name."""
    fields = {field.name: _bare(field.type) for field in msgspec.structs.fields(struct)}
    for name in dir(struct):
        member = getattr(struct, name, None)
        if isinstance(member, property) and member.fget is not None and not name.startswith("_"):
            fields[name] = _bare(get_type_hints(member.fget).get("return"))
    return fields


def _bare(hint: Any) -> Any:
    """A type without `Annotated` and `| None`; the first member of other unions."""
    if get_origin(hint) is Annotated:
        return _bare(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return _bare(next(one for one in get_args(hint) if one is not type(None)))
    return hint
