"""The JSON Schema of studies, and the starter study that `new` writes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from compiler.compile import compile_study
from specs.document import parse, read_document
from specs.errors import SpecError
from specs.load import load_study
from specs.sampling import is_sampling_study
from specs.schema import json_schema
from specs.starter import starter, write_starter
from specs.study import Base, Section

SHIPPED = sorted((Path(__file__).parent.parent / "studies").rglob("*.yaml"))
STUDIES = [path for path in SHIPPED if not is_sampling_study(path)]
SAMPLING = [path for path in SHIPPED if is_sampling_study(path)]
OPTIONS = [line for line in starter().splitlines() if line.startswith("  # - ")]


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    return validator_of(json_schema())


def validator_of(made: dict[str, Any]) -> jsonschema.Draft202012Validator:
    schema = json.loads(json.dumps(made))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def data() -> dict[str, Any]:
    read = parse(starter(), "starter.yaml", {})
    assert isinstance(read, dict)
    return read


def changed(path: str, value: Any) -> dict[str, Any]:
    """The starter with `value` at `path`, dotted from the root."""
    whole = data()
    here: Any = whole
    *around, last = path.split("/")
    for part in around:
        here = here[int(part)] if isinstance(here, list) else here.setdefault(part, {})
    here[last] = value
    return whole


# The schema


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.parent.name)
def test_shipped_studies_pass(path: Path, validator: jsonschema.Draft202012Validator) -> None:
    validator.validate(read_document(path).data)


def test_shipped_sampling_studies_pass_their_own() -> None:
    assert SAMPLING
    for path in SAMPLING:
        validator_of(json_schema(sampling=True)).validate(read_document(path).data)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("base/tokens", "6.4T"),
        ("base/tokens", 1e9),
        ("base/tokens", "${base.transfer.base.tokens}"),
        ("base/batch/micro", "auto"),
        ("base/batch/micro", 4),
        ("base/batch/micro", None),
        ("base/schedule/warmup", {"tokens": "10M"}),
        ("base/modalities/text/noise", {"kind": "table", "alpha": [1, 0.5, 0]}),
        ("base/modalities/text/weight", "${base.modalities.image.weight}"),
        ("base/modalities/include", "more.yaml"),
        ("base/model/include", ["shape.yaml", "../heads.yaml"]),
        ("base/transfer", "${base.other}"),
        ("base/optimizer/modules", {"out": {"pattern": "*.wo.weight", "lr": 0.5}}),
        ("base/mix", [{"from": "1M", "weights": {"text": 3}}]),
        ("defaults", ["common.yaml"]),
        ("axes", [{"grid": {"modalities.speech.weight": [1, 2], "optimizer.betas": [[0.9, 0.99]]}}]),
        ("axes", [{"zip": {"batch.physical": [8, "auto"], "mix.0.weights.text": [1, 2]}}]),
        ("axes", [{"list": [{"model.width": 64, "transfer": None}]}]),
        ("axes", [{"sample": {"points": 4, "ranges": {"tokens": {"from": "1M", "to": "2M"}, "seed": [0, 1]}}}]),
        ("axes", [{"simplex": {"parts": 4, "min": {"text": 0.25}}}]),
        ("axes", [{"isoflop": {"flops": ["1T", 1e13], "sizes": [{"model.width": 64}]}}]),
        ("axes", [{"seeds": 2}, {"seeds": [0, 5]}, {"only": "flops > 1"}, {"exclude": ["flops > 1", "steps < 2"]}]),
        ("axes", [{"include": "axis.yaml"}, {"sample": {"include": "sample.yaml"}}]),
    ],
)
def test_what_a_study_may_hold_passes(path: str, value: Any, validator: jsonschema.Draft202012Validator) -> None:
    validator.validate(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("stduy", "x"),
        ("base/optimiser", {}),
        ("base/model/widht", 64),
        ("base/modalities/text/wieght", 1),
        ("base/modalities/9text", {"data": "x"}),
        ("base/tokens", "20Q"),
        ("base/tokens", 0),
        ("base/batch/physical", "automatic"),
        ("base/batch/physical", 0.5),
        ("base/optimizer/lr", -1),
        ("base/optimizer/betas", [0.9]),
        ("base/dtype", "float16"),
        ("base/modalities/text/noise", "linaer"),
        ("base/schedule/warmup", {"step": 10}),
        ("base/model/include", 3),
        ("axes", [{"grid": {"model.widht": [64]}}]),
        ("axes", [{"grid": {"base.model.width": [64]}}]),
        ("axes", [{"grid": {"model.width": ["wide"]}}]),
        ("axes", [{"grid": {"model.width": 64}}]),
        ("axes", [{"log": {"tokens": {"from": 1, "to": 2}}}]),
        ("axes", [{"simplex": {"part": 4}}]),
        ("axes", [{"seeds": 2, "grid": {"tokens": ["1M"]}}]),
        ("axes", [{}]),
    ],
)
def test_mistakes_do_not_pass(path: str, value: Any, validator: jsonschema.Draft202012Validator) -> None:
    assert not validator.is_valid(changed(path, value))


def test_what_may_come_from_elsewhere_is_not_required(validator: jsonschema.Draft202012Validator) -> None:
    whole = data()
    del whole["base"]["model"]["depth"], whole["base"]["tokens"]
    validator.validate(whole)
    assert not validator.is_valid({"study": "x"})
    validator.validate({"study": "x", "include": "base.yaml"})
    validator.validate({"study": "x", "defaults": ["base.yaml"]})


def test_every_section_and_path_is_described() -> None:
    schema = json_schema()
    sections: list[type[Section]] = [Section]
    for section in sections:
        sections += section.__subclasses__()
    for section in sections:
        if section.__name__ in schema["$defs"]:
            assert schema["$defs"][section.__name__]["description"].split()[:3] == (section.__doc__ or "").split()[:3]
    offered = schema["$defs"]["columns"]["properties"]
    assert offered.keys() >= set(Base.model_fields) | {"model.width", "transfer.base.tokens", "batch.physical"}


def test_the_schema_is_the_same_each_time() -> None:
    before = copy.deepcopy(json_schema())
    assert json.dumps(json_schema()) == json.dumps(before)


# The starter


def test_the_starter_names_its_schema() -> None:
    assert starter().startswith("# yaml-language-server: $schema=./triptych.schema.json\n")


def test_the_starter_plans(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "my study.yaml"
    write_starter(path)
    plan = compile_study(path)
    assert plan.study == "my-study"
    assert len(plan.runs) == 5
    assert plan.excluded == 1
    assert plan.warnings == ()
    assert plan.totals.device_hours < 0.1


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.split()[2])
def test_what_the_starter_leaves_out_plans_as_well(
    option: str, tmp_path: Path, validator: jsonschema.Draft202012Validator
) -> None:
    text = starter().replace(option, option.replace("# - ", "- "))
    if "isoflop" in option:  # which takes the place of the tokens
        text = "\n".join(line for line in text.splitlines() if not line.startswith("  - log"))
    path = tmp_path / "study.yaml"
    path.write_text(text)
    validator.validate(read_document(path).data)
    assert len(compile_study(path).runs) > 1


def test_the_starter_with_a_mix_plans(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(starter().replace("  # mix:", "  mix:").replace("  #   - {from", "    - {from"))
    assert all(len(run.mix) == 2 for run in compile_study(path).runs)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("wide.yaml", "wide"),
        ("1e5.yaml", "1e5"),
        ("true.yml", "true"),
        ("store.yaml", "store-study"),
        ("ß.yaml", "study"),
    ],
)
def test_the_starter_is_named_after_its_file(file: str, name: str, tmp_path: Path) -> None:
    write_starter(tmp_path / file)
    assert load_study(tmp_path / file).study.study == name


def test_the_starter_overwrites_nothing(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("mine")
    with pytest.raises(SpecError, match="already; give another name"):
        write_starter(path)
    assert path.read_text() == "mine"
    with pytest.raises(SpecError, match="cannot be written"):
        write_starter(path / "below.yaml")
