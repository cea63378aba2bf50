"""pydantic's errors in the project's words."""

from __future__ import annotations

import types
import typing
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from specs.document import Parts
from specs.study import CHOICES, RANGE, keyed_fields
from specs.suggest import suggestion

_TYPES = {
    "int": ("a whole number", "write digits, such as 64"),
    "float": ("a number", "write a number, such as 0.1 or 3e-3"),
    "string": ("text", "write a word"),
    "bool": ("a yes or no", "write true or false"),
    "list": ("a list", "write [a, b]"),
    "tuple": ("a list", "write [a, b]"),
    "dict": ("a mapping", "write {key: value}"),
    "model": ("a mapping", "write {key: value}"),
}
_RANGES = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


def explain(error: ValidationError, model: type[BaseModel]) -> list[tuple[Parts, str, str]]:
    """Each error of validating `model` as (path in it, what is wrong, what to do)."""
    found = error.errors(include_url=False)
    for one in found:
        one["loc"] = tuple(part for part in one["loc"] if part not in (RANGE, CHOICES))
    return [(one["loc"], *_words(one, model)) for one in found]


def _words(error: ErrorDetails, model: type[BaseModel]) -> tuple[str, str]:
    kind, value, context = error["type"], _short(error["input"]), error.get("ctx", {})
    *around, last = error["loc"] or ("",)
    if kind == "extra_forbidden":
        return f"unknown key '{last}'", suggestion(str(last), known_keys(model, tuple(around)))
    if kind == "missing" and isinstance(last, int):
        return "has too few entries", f"give at least {last + 1}"
    if kind == "missing":
        section = section_at(model, tuple(around))
        fields = keyed_fields(section) if section else {}
        described = fields[str(last)].description if last in fields else None
        return "missing", f"write {described or last}"
    if kind == "literal_error":
        choices = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return f"{value} is not known here", suggestion(str(error["input"]), choices)
    if kind in _RANGES:
        words, bound = _RANGES[kind]
        return f"{value} is out of range", f"give a number {words} {context[bound]:g}"
    if kind == "value_error":
        what, _, todo = str(context["error"]).partition("; ")
        return what, todo or "correct it"
    if kind == "string_pattern_mismatch":
        return f"{value} is not a name", "use letters, digits, '-', '_', beginning with a letter"
    if kind in ("too_short", "too_long", "string_too_short"):
        if kind == "too_long":
            return "has too many entries", f"give at most {context['max_length']}"
        return "has too few entries", f"give at least {context['min_length']}"
    if kind == "finite_number":
        return f"{value} is not finite", "give a finite number"
    what, todo = _TYPES.get(kind.split("_")[0], ("valid here", error["msg"].lower()))
    return f"{value} is not {what}", todo


def _short(value: object) -> str:
    """`value` as in YAML, cut to a line's length."""
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "null"}[value]
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def type_at(model: type[BaseModel], parts: Parts) -> Any:
    """The type of the value that `parts` lead to from `model`, without None; None where they lead nowhere."""
    here: Any = model
    for part in parts:
        if isinstance(here, type) and issubclass(here, BaseModel):
            fields = keyed_fields(here)
            here = _inner(fields[part].annotation) if part in fields else None
        elif typing.get_origin(here) in (dict, list, tuple):
            here = _inner(typing.get_args(here)[-1])
        else:
            return None
    return here


def section_at(model: type[BaseModel], parts: Parts) -> type[BaseModel] | None:
    """The section that `parts` lead to from `model`; None where they lead elsewhere."""
    here = type_at(model, parts)
    return here if isinstance(here, type) and issubclass(here, BaseModel) else None


def known_keys(model: type[BaseModel], parts: Parts) -> list[str]:
    """The keys that the section at `parts` may hold; empty where any may, or none."""
    section = section_at(model, parts)
    return list(keyed_fields(section)) if section else []


def _inner(annotation: Any) -> Any:
    """`annotation` without Annotated and without None."""
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return _inner(next(arg for arg in typing.get_args(annotation) if arg is not type(None)))
    return annotation
