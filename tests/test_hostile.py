"""Broken and hostile studies: one clear error each, within 2 s and 1 GB, and never a traceback."""

from __future__ import annotations

import copy
import json
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from specs.errors import SpecError
from tests.compiling import compile_data, study

TRIPTYCH = Path(sys.executable).with_name("triptych")
WHOLE = study(
    transfer={"base": {"width": 64, "depth": 2, "batch": 16, "tokens": "100K"}, "critical": {"steps": 3}},
    mix=[{"from": 0.5, "weights": {"text": 2}}],
    optimizer={"lr": 1e-3, "betas": [0.9, 0.95], "modules": {"out": {"pattern": "layers.*", "lr": 2}}},
    schedule={"kind": "wsd", "warmup": {"tokens": "1K"}},
    modalities__text__noise={"kind": "table", "alpha": [1, 0.5, 0]},
    parallel={"shard": 2, "activation_checkpoint": "full"},
    evaluation__sequences="${mul:2,${base.model.width}}",
) | {
    "axes": [
        {"grid": {"model.width": [32, 64]}},
        {"zip": {"optimizer.lr": [1e-3], "seed": [1]}},
        {"list": [{"model.depth": 1}, {"model.depth": 2, "optimizer.eps": 1e-9}]},
        {"log": {"optimizer.weight_decay": {"from": 0.01, "to": 0.1, "points": 2}}},
        {"sample": {"points": 2, "ranges": {"schedule.final": {"from": 0.1, "to": 0.2}, "dtype": ["float32"]}}},
        {"simplex": {"parts": 2, "modalities": ["text", "image"], "min": {"text": 0.5}}},
        {"isoflop": {"flops": [1e12], "sizes": [{"model.heads": 1}]}},
        {"exclude": "model.width > 64"},
        {"only": ["tokens > 10"]},
    ]
}
VALUES: list[Any] = [
    None,
    True,
    0,
    1,
    -1,
    10**9,
    10**40,
    1e-300,
    1e300,
    "",
    "auto",
    "x",
    "20M",
    0.5,
    [],
    {},
    [[1]],
    {"": 1},
]
VALUES += [
    "${base.seed}",
    "${base}",
    "${axes}",
    "${pow:9,${pow:9,99}}",
    "${oc.env:HOME}",
    "\u2028",
    "9" * 5000,
    "((((",
    "a.b",
]
VALUES += [
    {"from": 1, "to": 2, "points": 10**6},
    {"kind": "linear"},
    list(range(100)),
    "flops > 1e19 or 1/0",
    "${div:1,0}",
]


def paths(data: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [at] * bool(at) + [path for key, value in items for path in paths(value, (*at, key))]


def test_the_study_is_whole_before_it_is_broken() -> None:
    assert len(compile_data(WHOLE).runs) == 32


@settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_broken_study_is_refused_with_a_place_and_never_a_traceback(draws: st.DataObject) -> None:
    data = msgspec.json.decode(msgspec.json.encode(WHOLE))
    for _ in range(draws.draw(st.integers(1, 2))):
        *around, last = draws.draw(st.sampled_from(paths(data)))
        here = data
        for part in around:
            here = here[part]
        if isinstance(here, dict) and draws.draw(st.booleans()):
            here[f"{last}{draws.draw(st.sampled_from(['x', '.a']))}"] = here.pop(last)
        else:
            here[last] = copy.deepcopy(draws.draw(st.sampled_from(VALUES)))
    started = time.perf_counter()
    try:
        compile_data(data)
    except SpecError as error:
        for problem in error.problems:
            assert re.fullmatch(r"(?s)\S+study\.yaml:[1-9]\d*: \S.*: .+; .+", str(problem))
    assert time.perf_counter() - started < 2


ALIASES = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
BASE = json.dumps(study()["base"] | {"modalities": {"text": {"data": "embedded/text"}}})
HOSTILE = {
    "aliases": ALIASES,
    "tag": "study: !!python/object/apply:os.system [id]\n",
    "deep": "study: " + "[" * 100_000,
    "deep expression": f"study: t\nbase: {BASE}\naxes: [exclude: '{'(' * 900}']\n",
    "power": f"study: t\nbase: {BASE}\naxes: [exclude: '9**9**9**9 > flops']\n",
    "product": f"study: t\nbase: {BASE}\naxes: [{{seeds: 1000000}}, {{seeds: 1000000}}]\n",
    "simplex": f"study: t\nbase: {BASE}\naxes: [{{simplex: {{parts: 10000, modalities: [text]}}}}]\n",
    "wrong at every point": f"study: t\nbase: {BASE}\naxes: [{{grid: {{model.heads: [7]}}}}, {{seeds: 900000}}]\n",
    "wrong at the end": f"study: t\nbase: {BASE}\naxes: [{{grid: {{model.heads: [1, 7]}}}}, {{seeds: 400000}}]\n",
    "itself": "include: study.yaml\nstudy: t\n",
    "outside": "include: ../../../../../etc/passwd\nstudy: t\n",
    "environment": f"study: t\nbase: {BASE}\naxes: [{{grid: {{modalities.text.data: ['${{oc.env:HOME}}']}}}}]\n",
    "circle": "study: t\nbase: {model: {depth: '${base.model.width}', width: '${base.model.depth}'}}\n",
    "growth": "study: t\nbase:\n  a0: xxxxxxxxxx\n"
    + "".join(f"  a{i}: '${{base.a{i - 1}}}${{base.a{i - 1}}}'\n" for i in range(1, 60)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_from_the_command_line(tmp_path: Path, name: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(HOSTILE[name])

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9))

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([TRIPTYCH, "plan", file], capture_output=True, text=True, preexec_fn=bounded, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for line in done.stderr.splitlines():
        assert re.fullmatch(rf"{re.escape(str(file))}:\d+: \S+: .+; .+", line), line
    # Of processor time; the aim is 2 s, which shared cores stretch.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 4
