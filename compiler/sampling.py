"""What a sampling study compiles to, and what is found of its points: read by the runtime, the analysis and by people.

A point is one task and one setting of the sampler on one finished run. Nothing is trained.
"""

from __future__ import annotations

import msgspec

from compiler.plan import FolderName, Id

SAMPLING_NUMERICS = 1
"""Version of what decides a point's samples and scores and is not in its plan; raised when results change."""


class Sampler(msgspec.Struct, frozen=True, kw_only=True):
    """How masked positions are filled.

    `kind`: `ancestral` settles positions in random order (MDLM, arXiv 2406.07524), `confidence` the likeliest first
    (MaskGIT, arXiv 2202.04200), `entropy-bounded` as many of the surest at once as `bound` nats of joint entropy allow
    (arXiv 2505.24857). `steps` is the most times that a sequence is denoised, None for once a token; `schedule` says
    how many positions are settled by when: `linear`, `cosine` (few at first), or `training`, as the modality's noise
    schedule.

    Tokens are drawn at `temperature` (0: the likeliest), among the `top_k` likeliest (0: all) and the fewest whose
    probabilities sum to `top_p`. `gumbel` scales Gumbel noise on the confidence, by `annealing` constant or falling to
    0 linearly. `remask` is the share of settled tokens that each step masks again (ReMDM, arXiv 2503.00307).

    `guidance` w moves log-probabilities to uncond + w · (cond - uncond) (arXiv 2207.12598), all the time (`ramp`
    constant) or from 1 rising to w (`linear`). The `lengths` likeliest lengths of the target are tried (with 1, a
    length is drawn), `draws` times each, and the candidate is kept that is the likeliest, length and tokens together
    (after arXiv 1904.09324); with `rescore`, by what the model says of the condition given it, and of it alone, over
    so many masks of each (a noisy channel, arXiv 1611.02554).
    """

    kind: str = "ancestral"
    steps: int | None = None
    schedule: str = "linear"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    gumbel: float = 0.0
    annealing: str = "linear"
    bound: float = 0.1
    remask: float = 0.0
    guidance: float = 1.0
    ramp: str = "constant"
    lengths: int = 1
    draws: int = 1
    rescore: int = 0


class SamplingPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One setting on one run. `run` is the run's id, `point` what the axes set (path to value, as written). `n` samples
    are drawn for each set of prompts; `controls` are further sets that are drawn and judged beside them."""

    id: Id
    name: str
    run: Id
    task: str
    n: int
    seed: int
    sampler: Sampler
    controls: tuple[str, ...]
    point: dict[str, int | float | str | bool | None]


class SamplingPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A compiled sampling study. `runs` maps ids of finished runs to their folders, `names` to their names."""

    study: FolderName
    digest: str
    warnings: tuple[str, ...]
    runs: dict[str, str]
    names: dict[str, str]
    points: tuple[SamplingPoint, ...]


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """What a judge says of `n` samples: `value`, with a 90 % interval where it has one. `real` is what the same judge
    says of real held-out data, None where that means nothing. `better`: `higher`, `lower`, or `real` where nothing is
    better than to be like the real data."""

    name: str
    value: float
    n: int
    better: str
    low: float | None = None
    high: float | None = None
    real: float | None = None


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """A point's results. `calls` is how often the network evaluated a sequence, per sample: a guided step counts twice,
    and so does each candidate of length. `tokens` were generated in `seconds`. `quality` names the score that decides;
    `controls` has the scores of each control by its name. `examples` are files in the point's folder."""

    id: Id
    run: Id
    name: str
    task: str
    sampler: Sampler
    n: int
    seed: int
    calls: float
    tokens: int
    seconds: float
    quality: str
    scores: tuple[Score, ...]
    controls: dict[str, tuple[Score, ...]] = {}
    examples: tuple[str, ...] = ()


PLAN, POINTS, JUDGED = "sampling.json", "points", "judged.json"
"""On disk, in a sampling study's folder: its plan, and a folder for each point, by its id, with what was found."""
