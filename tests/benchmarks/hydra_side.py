"""The other side of `tests.benchmarks.compiler`: hydra-core composes runs of like size, in an environment of its own.

python hydra_side.py RUNS: prints seconds. hydra-core 1.3.8 wants an older omegaconf than Triptych has.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir


def main() -> None:
    """Compose so many runs of the base that is read from standard input, as `hydra --multirun` would."""
    runs = int(sys.argv[1])
    base = yaml.safe_load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder:
        # Groups of a file each, as Hydra's users lay them out.
        defaults: list[object] = []
        for name, section in base.items():
            if isinstance(section, dict):
                (Path(folder) / name).mkdir()
                (Path(folder) / name / "given.yaml").write_text(yaml.safe_dump(section))
                defaults.append({name: "given"})
        plain = {name: value for name, value in base.items() if not isinstance(value, dict)}
        (Path(folder) / "study.yaml").write_text(yaml.safe_dump({"defaults": [*defaults, "_self_"], **plain}))
        with initialize_config_dir(folder, version_base="1.3"):
            started = time.perf_counter()
            for width, lr, tokens, seed in itertools.islice(points(), runs):
                compose(
                    "study",
                    [f"model.width={width}", f"optimizer.lr={lr}", f"tokens={tokens}", f"seed={seed}"],
                )
            print(time.perf_counter() - started)


def points() -> Iterator[tuple[int, float, str, int]]:
    """Points without end."""
    for seed in itertools.count():
        for width, lr, tokens in itertools.product((64, 128, 256, 512), (1e-3, 2e-3, 3e-3), ("5M", "20M", "80M")):
            yield width, lr, tokens, seed


if __name__ == "__main__":
    main()
