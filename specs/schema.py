"""A JSON Schema of study files, for completion and checks in editors.

It follows from the sections of `specs.study`, or of `specs.sampling`. It takes what a file may hold before includes,
interpolations and axes are worked out, so it is wider than the compiler: what passes here may still be refused there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeAlias, get_args

from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from pydantic_core import core_schema

from specs.interpolation import STUDY
from specs.quantities import parse_quantity
from specs.sampling import OF_TRAINING, SAMPLING
from specs.study import Conditions, _auto, _names, _steps

Schema: TypeAlias = dict[str, Any]

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_REF = "#/$defs/"
_QUANTITY: Schema = {
    "type": "string",
    "pattern": r"^\s*([0-9][0-9_]*(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\s*[KMBTkmbt]?\s*$",
    "description": "A number, or one with a suffix K, M, B (10^9) or T (10^12): 20M.",
}
_ABOUT: Schema = {"title": "Triptych study", "description": "A scaling study: a base run, and axes over it."}
_ABOUT_SAMPLING: Schema = {
    "title": "Triptych sampling study",
    "description": "A study of sampling from finished runs: a base point, and axes over it.",
}
_FILES: Schema = {
    "description": "Files to take values from, by their paths from this one: a path or a list of paths.",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
}
_INTERPOLATION: Schema = {
    "type": "string",
    "pattern": r"\$\{",
    "description": "The value written elsewhere, by its path from the root: ${base.model.width}.",
}
_SEEDS: Schema = {
    "description": "A number of seeds, from the base's on, or a list of them.",
    "anyOf": [
        {"type": "integer", "minimum": 1},
        {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
    ],
}
_LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_OUTSIDE = ("description", "default")
"""What is said of a value itself, not of one of the forms that it may take."""

_INCLUDE: Schema = {"include": {"$ref": f"{_REF}include"}}
_ALONE: Schema = {"not": {"required": ["include"]}}
_SHORT: dict[object, Schema] = {
    parse_quantity: {"$ref": f"{_REF}quantity"},
    _auto: {"const": "auto"},
    _names: {"$ref": f"{_REF}NoiseSpec/properties/kind"},
    _steps: {"type": "number", "minimum": 0, "description": "Logical steps."},
    get_args(Conditions)[1].func: {"type": "string"},
}
"""What is written instead of the full value, by the function of `specs.study` that reads it."""


def json_schema(*, sampling: bool = False) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a study file, or of a `sampling` study's.

    Every value may also be an interpolation `${…}`; every mapping may `include` files, and then nothing is required of
    it. Nothing is required of the base's sections either: axes may supply it. The keys of axes are paths into the base,
    and their values are checked as the base's are.
    """
    kind = SAMPLING if sampling else STUDY
    base = f"{_REF}{kind.base.__name__}"
    models = [(kind.study, "validation"), (kind.base, "validation")]
    _, generated = models_json_schema(models, schema_generator=_Generator)  # type: ignore[arg-type]
    sections: Schema = {name: _node(section) for name, section in generated["$defs"].items()}
    paths = dict(_paths(sections, {"$ref": base}, base, ""))
    for name in {pointer.removeprefix(_REF).partition("/")[0] for pointer in paths.values()}:
        for key in ("if", "then"):
            sections[name].pop(key, None)
    study = sections.pop(kind.study.__name__)
    study["properties"]["base"] = _value({"$ref": base})
    study["properties"]["defaults"] = _FILES | {"description": "Files whose values this one builds on."}
    study["if"] = {"not": {"anyOf": [{"required": ["include"]}, {"required": ["defaults"]}]}}
    sections |= _keyed_by_path(paths)
    _put_to_use(sections, "SamplingAxis" if sampling else "Axis")
    sections |= {"include": _FILES, "interpolation": _INTERPOLATION, "quantity": _QUANTITY}
    return {"$schema": DRAFT, **study, **_ABOUT, "$defs": dict(sorted(sections.items()))}


class _Generator(GenerateJsonSchema):
    """pydantic's schema, with the shorthands that `specs.study` reads, such as `auto`, `20M` and `noise: cosine`."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> Schema:
        plain: Schema = super().function_before_schema(schema)
        short = _SHORT.get(schema["function"]["function"])
        return {"anyOf": [short, plain]} if short else plain

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _value(schema: Schema) -> Schema:
    """`schema` of a value that a file may hold: interpolated as well."""
    inside = {key: part for key, part in _node(schema).items() if key not in _OUTSIDE}
    forms = inside.pop("anyOf", None) or [inside]
    # What stands beside the forms are pydantic's limits on numbers; other types pass them.
    limits = inside if forms != [inside] else {}
    outside = {key: schema[key] for key in _OUTSIDE if key in schema}
    if "description" in outside:
        outside["description"] = f"Such as `{outside['description']}`."
    return outside | limits | {"anyOf": [*forms, {"$ref": f"{_REF}interpolation"}]}


def _node(schema: Schema) -> Schema:
    """`schema` with all that it holds made fit for files."""
    node = {_LIMITS.get(key, key): part for key, part in schema.items()}
    if "anyOf" in node:
        node["anyOf"] = [_node(form) for form in node["anyOf"]]
    if "items" in node:
        node["items"] = _value(node["items"])
    if "prefixItems" in node:
        node["prefixItems"] = [_value(item) for item in node["prefixItems"]]
    return _mapping(node) if node.get("type") == "object" else node


def _mapping(node: Schema) -> Schema:
    if "description" in node:
        node["description"] = re.sub(r"(?<!\n)\n(?!\n)", " ", node["description"])
    [(pattern, of_names)] = node.pop("patternProperties", {None: None}).items()
    if pattern is not None:  # as names and values apart, so that `include` is none of them
        node |= {"propertyNames": {"pattern": pattern}, "additionalProperties": of_names}
    if isinstance(node.get("additionalProperties"), dict):
        node["additionalProperties"] = _value(node["additionalProperties"])
    node["properties"] = {key: _value(part) for key, part in node.get("properties", {}).items()} | _INCLUDE
    if "required" in node:
        node |= {"if": _ALONE, "then": {"required": node.pop("required")}}
    return node


def _paths(sections: Schema, schema: Schema, pointer: str, path: str) -> Iterator[tuple[str, str]]:
    """Each path (a regular expression, dotted) into what `schema` describes, with the JSON pointer of its own schema.

    `pointer` and `path` are those of `schema` itself.
    """
    if schema.get("$ref", "").removeprefix(_REF) in sections:
        pointer = schema["$ref"]
        schema = sections[pointer.removeprefix(_REF)]
    dot = f"{path}\\." if path else ""
    children = [
        (key, part, f"properties/{key}") for key, part in schema.get("properties", {}).items() if key != "include"
    ]
    children += [("[0-9]+", part, f"prefixItems/{i}") for i, part in enumerate(schema.get("prefixItems", [])[:1])]
    for key, word in (("additionalProperties", "[^.]+"), ("items", "[0-9]+")):
        if isinstance(schema.get(key), dict):
            children.append((word, schema[key], key))
    for word, part, step in children:
        yield dot + word, f"{pointer}/{step}"
        yield from _paths(sections, part, f"{pointer}/{step}", dot + word)
    for index, form in enumerate(schema.get("anyOf", [])):
        yield from _paths(sections, form, f"{pointer}/anyOf/{index}", path)


def _keyed_by_path(paths: dict[str, str]) -> Schema:
    """Definitions of the mappings on axes whose keys are `paths`: `columns` hold lists of values, `settings` values,
    `logs` and `ranges` ranges of numbers."""
    values: Schema = {path: {"$ref": pointer} for path, pointer in paths.items()}
    listed: Schema = {
        path: {"anyOf": [{"type": "array", "minItems": 1, "items": one}, {"$ref": f"{_REF}interpolation"}]}
        for path, one in values.items()
    }
    sampled: Schema = {path: {"anyOf": [{"$ref": f"{_REF}SampleRange"}, one]} for path, one in listed.items()}
    return {
        "columns": _by_path("Lists of values, by path from the base.", listed),
        "settings": _by_path("Values, by path from the base.", values),
        "logs": _by_path("Ranges, by path from the base.", {path: {"$ref": f"{_REF}LogSpec"} for path in paths}),
        "ranges": _by_path("Ranges, or lists to choose from, by path from the base.", sampled),
    }


def _by_path(description: str, values: Schema) -> Schema:
    """A mapping with `values` at paths. Paths without a name of the user's own are properties, which editors offer."""
    fixed = {path: one for path, one in values.items() if "[" not in path}
    return {
        "type": "object",
        "description": description,
        "minProperties": 1,
        "additionalProperties": False,
        "properties": {path.replace("\\.", "."): one for path, one in fixed.items()} | _INCLUDE,
        "patternProperties": {f"^{path}$": one for path, one in values.items() if path not in fixed},
    }


def _put_to_use(sections: Schema, name: str) -> None:
    """Let the sections of axes hold the mappings by path. `name` is the axes' own."""
    sections[name] |= {"if": _ALONE, "then": {"minProperties": 1, "maxProperties": 1}}
    axis = sections[name]["properties"]
    points: Schema = {"type": "array", "minItems": 1, "items": {"$ref": f"{_REF}settings"}}
    axis["grid"] = {"description": "Every combination of the values.", "$ref": f"{_REF}columns"}
    axis["zip"] = {"description": "The first of each list, the second of each, and so on.", "$ref": f"{_REF}columns"}
    axis["list"] = points | {"description": "Points, each of several values."}
    axis["log"] = {"$ref": f"{_REF}logs"}
    axis["seeds"] = _SEEDS
    sections["SampleSpec"]["properties"]["ranges"] = {"$ref": f"{_REF}ranges"}
    sections["IsoflopSpec"]["properties"]["sizes"] = points | {"description": "Sizes, each of one or more values."}
    for kind in OF_TRAINING if name == "SamplingAxis" else ():
        del axis[kind], sections[f"{kind.title()}Spec"]
