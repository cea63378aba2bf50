"""Find the utterances whose codes another machine could get otherwise: `python -m runtime.data.embedded.fragile`.

Codec 2 computes in floating point with the C library's functions, whose last bits differ between its versions; where a
frame lies at the border between two codes, that decides. So each utterance is coded several times with all results of
these functions moved by up to 32 units in the last place, many times what libraries differ by, and those whose codes
move are left out. For maintainers: it needs a C compiler, and changes the data.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from runtime.data.embedded import audio

_TRIALS = 10


def main() -> None:
    """Write the numbers of the fragile utterances to `audio.FRAGILE`."""
    plain = audio.spoken()
    fragile: set[int] = set()
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "nudge.so"
        source = Path(__file__).with_name("nudge.c")
        subprocess.run(
            ["cc", "-O1", "-fno-builtin", "-shared", "-fPIC", "-o", library, source, "-lm", "-ldl"], check=True
        )
        for trial in range(_TRIALS):
            nudged = audio.spoken({"LD_PRELOAD": str(library), "NUDGE": str(trial)})
            pairs = zip(plain, nudged, strict=True)
            found = {number for number, (one, other) in enumerate(pairs) if not np.array_equal(one, other)}
            print(f"trial {trial}: {len(found)} of {len(plain)} move, {len(found - fragile)} of them not seen before")
            fragile |= found
    audio.FRAGILE.write_text(json.dumps(sorted(fragile)) + "\n")


if __name__ == "__main__":
    main()
