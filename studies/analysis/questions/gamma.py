"""The exponent γ of the logical batch, B̃* ∝ D^γ, and what following it costs at a longer horizon.

Asked where the logical batch has at least four values at each of at least three token horizons. Runs of several
physical batches, or transferred in other ways, are taken apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec
import numpy as np

from compiler.plan import RunPlan
from compiler.records import MIX
from specs.quantities import format_quantity
from studies.analysis.laws.base import Array, Interval
from studies.analysis.laws.statistics import central
from studies.analysis.outcomes import Outcomes, outcomes
from studies.analysis.questions.base import base_transfer
from studies.analysis.results import Study
from studies.analysis.settings import batch_groups, in_words

if TYPE_CHECKING:
    from specs.study import TransferSpec

FEWEST_BATCHES = 4
"""One more than a parabola has parameters."""
FEWEST_HORIZONS = 3
HELD_OUT_FROM = 4
"""Horizons from which on the longest is held out of the fit."""
NEAR = 2
"""Grid steps on either side of the lowest mean that its parabola goes through: five batches, of which it leaves two to
judge it by. Farther away losses rise as no parabola does."""
SURE = 0.9
"""Share of resamples that must bend up for an optimum to be trusted."""

Role = Literal["fitted", "held out", "left out"]


class Horizon(msgspec.Struct, frozen=True, kw_only=True):
    """The sweep of the logical batch at one token count.

    `losses` are means over seeds of the mix's final nelbo (inf where a run failed); `curve` are c₀, c₁, c₂ of the
    parabola c₀ + c₁ x + c₂ x² in x = log(B̃ / `center`) through all runs of the batches of `window`, those within `NEAR`
    grid steps of the lowest mean at which none failed; both None where too few are left. `best` is where it is lowest,
    None where it does not bend up; `interval` the central 90 % of the bootstrap of it, in which resamples that do not
    bend up count as without bound on both sides (0 and inf). `edge` says that `best` lies outside the window, and so
    is extrapolated; `bends` is the share of resamples that bend up. `residual` is the standard deviation of a run about
    the curve, `flops` the sweep's cost.
    """

    tokens: float
    batches: tuple[float, ...]
    losses: tuple[float, ...]
    runs: int
    failed: int
    flops: float
    center: float
    curve: tuple[float, float, float] | None
    window: tuple[float, float] | None
    residual: float
    best: float | None
    interval: Interval | None
    edge: bool
    bends: float

    def loss(self, batch: float) -> float:
        """The parabola at `batch`. Raises ValueError where there is none."""
        if self.curve is None:
            raise ValueError("no curve was fitted")
        x = math.log(batch / self.center)
        return self.curve[0] + self.curve[1] * x + self.curve[2] * x * x

    @property
    def tuned(self) -> float | None:
        """The best batch within the window, by the parabola."""
        if self.best is None or self.window is None:
            return None
        return min(max(self.best, self.window[0]), self.window[1])


class HeldOut(msgspec.Struct, frozen=True, kw_only=True):
    """The horizon that took no part in the fit: the transferred batch against the re-tuned one.

    `transferred` is B̃* by the law of the others and `retuned` the best batch within this horizon's window, both on its
    parabola; `regret` is the loss at the first minus that at the second, in nats, with the central 90 % of the
    bootstrap. `nearest` is the grid's batch nearest to `transferred` and `nearest_regret` its mean loss minus the least
    mean. `outside`: `transferred` lies outside the window, and its `regret` is extrapolated. FLOPs, of one seed each:
    of this horizon's sweep, and of transferring instead, the other horizons' sweeps and one run here; `saved` is their
    difference, `saved_share` over the first.
    `study_batch` is that of the γ that the study's own transfer names, `study_regret` that of the grid's batch nearest
    to it; None where it names none.
    """

    tokens: float
    transferred: float
    transferred_interval: Interval | None
    outside: bool
    retuned: float
    regret: float
    regret_interval: Interval | None
    nearest: float
    nearest_regret: float
    sweep_flops: float
    transfer_flops: float
    saved: float
    saved_share: float
    study_batch: float | None
    study_regret: float | None


class Gamma(msgspec.Struct, frozen=True, kw_only=True):
    """The law log B̃* = log `batch` + γ log(D / `tokens`) through the optima of the fitted horizons.

    `gamma` is None where fewer than two horizons have an optimum; `interval` is the central 90 % of a bootstrap. Its
    resamples of which a fitted horizon does not bend up have no γ, and count as without bound on both sides (-inf and
    inf): `bends` is the share of the others, 1 without a bootstrap. `study_gamma` is the γ of the study's own transfer,
    None where it names none. `setting` is what the axes hold fixed. `warnings` says where the data are too weak.
    """

    width: int
    depth: int
    setting: str
    horizons: tuple[Horizon, ...]
    gamma: float | None
    interval: Interval | None
    bends: float
    tokens: float
    batch: float | None
    study_gamma: float | None
    held_out: HeldOut | None
    warnings: tuple[str, ...]

    def role(self, horizon: Horizon) -> Role:
        """What one of `horizons` is for: the longest of enough is held out; of the others those without an optimum
        among their batches are left out."""
        if len(self.horizons) >= HELD_OUT_FROM and horizon is self.horizons[-1]:
            return "held out"
        return "left out" if horizon.best is None or horizon.edge else "fitted"

    def law(self, tokens: float) -> float:
        """B̃* at a horizon of `tokens`. Raises ValueError where γ could not be fitted."""
        if self.gamma is None or self.batch is None:
            raise ValueError("γ was not fitted")
        return self.batch * math.pow(tokens / self.tokens, self.gamma)


def batch_exponent(study: Study, bootstrap: int = 1000, seed: int = 0) -> tuple[Gamma, ...]:
    """The fits of γ of a study, one for each shape, setting of the other axes, way of transfer, and physical batch
    where it has several; none where it has no such sweep, or nothing of it has ended.

    At each horizon a parabola in log B̃ is fitted to the runs near the lowest mean; γ is the slope, by least squares, of
    the log of its lowest point against log D, over the horizons whose optimum is not extrapolated. With four horizons
    or more the longest is held out of the fit. The bootstrap adds to each curve residuals drawn with replacement from
    its own, widened by √(n / (n - 3)) for the fitted parameters.
    """
    ended: Outcomes | None = None
    found = []
    for (width, depth), setting, members in batch_groups(study.plan.runs):
        for arm, runs in _arms(members).items():
            swept = _swept(runs)
            if len(swept) < FEWEST_HORIZONS:
                continue
            ended = outcomes(study) if ended is None else ended
            fitted = [_Sweep(*sweep, ended, bootstrap, seed + k) for k, sweep in enumerate(swept.items())]
            found.append(_fit(fitted, width, depth, in_words(setting, arm), base_transfer(study)))
    return tuple(one for one in found if any(horizon.runs for horizon in one.horizons))


def _swept(runs: Sequence[RunPlan]) -> dict[float, list[RunPlan]]:
    """The horizons at which `runs` have enough logical batches."""
    horizons: dict[float, list[RunPlan]] = {}
    for run in runs:
        horizons.setdefault(run.tokens, []).append(run)
    return {
        tokens: some
        for tokens, some in sorted(horizons.items())
        if len({run.batch.logical for run in some}) >= FEWEST_BATCHES
    }


def _arms(runs: Sequence[RunPlan]) -> dict[str, Sequence[RunPlan]]:
    """Runs of one group by physical batch, where one logical batch of a horizon has several; those whose logical batch
    is the physical one are an arm of their own. In words, empty where all are one arm."""
    physical: dict[tuple[float, float], set[int]] = {}
    for run in runs:
        physical.setdefault((run.tokens, run.batch.logical), set()).add(run.batch.physical)
    if all(len(found) == 1 for found in physical.values()):
        return {"": runs}
    arms: dict[str, Sequence[RunPlan]] = {
        f"physical batch {batch}": [run for run in runs if run.batch.physical == batch]
        for batch in sorted(set.union(*physical.values()))
    }
    arms["logical batch = physical batch"] = [run for run in runs if math.isclose(run.batch.kappa, 1.0)]
    return arms


class _Sweep:
    """One horizon as arrays: x = log(B̃ / center) and loss of the finite runs, the curve and resampled curves (K, 3)."""

    def __init__(self, tokens: float, runs: list[RunPlan], ended: Outcomes, bootstrap: int, seed: int) -> None:
        known = [(run.batch.logical, ended[run.id][MIX]) for run in runs if MIX in ended.get(run.id, {})]
        self.tokens = tokens
        self.planned = sorted({run.batch.logical for run in runs})
        self.run_flops = float(np.mean([run.flops for run in runs]))
        self.seed_flops = self.run_flops * len(self.planned)
        self.all_flops = sum(run.flops for run in runs)
        self.batches = sorted({batch for batch, _ in known})
        self.means = [float(np.mean([loss for b, loss in known if b == batch])) for batch in self.batches]
        self.failed = sum(math.isinf(loss) for _, loss in known)
        self.center = float(np.exp(np.mean(np.log(self.planned))))
        self.runs = len(known)
        self.window: list[float] = []
        self.curve: Array | None = None
        self.curves = np.empty((0, 3))
        self.residual = 0.0
        self.grid = [batch for batch, mean in zip(self.batches, self.means, strict=True) if math.isfinite(mean)]
        if len(self.grid) < FEWEST_BATCHES:
            return
        means = dict(zip(self.batches, self.means, strict=True))
        place = min(range(len(self.grid)), key=lambda k: means[self.grid[k]])
        start = min(max(place - NEAR, 0), len(self.grid) - FEWEST_BATCHES)
        self.window = self.grid[start : max(place + NEAR + 1, start + FEWEST_BATCHES)]
        finite = [(batch, loss) for batch, loss in known if batch in self.window]
        x = np.log([batch / self.center for batch, _ in finite])
        y = np.array([loss for _, loss in finite])
        powers = np.stack([np.ones_like(x), x, x * x], axis=1)
        solve = np.linalg.pinv(powers)
        self.curve = solve @ y
        smooth = powers @ self.curve
        residuals = (y - smooth) * math.sqrt(len(x) / (len(x) - 3))
        self.residual = float(np.sqrt(np.mean(residuals**2)))
        drawn = np.random.default_rng(seed).integers(len(x), size=(bootstrap, len(x)))
        self.curves = (smooth + residuals[drawn]) @ solve.T

    def optima(self) -> Array:
        """log B̃* of each resampled curve (K,), NaN where it does not bend up."""
        c1, c2 = self.curves[:, 1], self.curves[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(c2 > 0, math.log(self.center) - c1 / (2 * c2), np.nan)

    @property
    def best(self) -> float | None:
        """log B̃*, None where the curve does not bend up."""
        if self.curve is None or self.curve[2] <= 0:
            return None
        return math.log(self.center) - float(self.curve[1] / (2 * self.curve[2]))

    @property
    def edge(self) -> bool:
        """Whether the optimum lies outside the batches that the curve goes through."""
        return self.best is not None and not math.log(self.window[0]) <= self.best <= math.log(self.window[-1])

    def regret(self, curves: Array, transferred: Array) -> Array:
        """Loss at log batches `transferred` (K,) minus the least within the window, on `curves` (K, 3)."""
        ends = np.log([self.window[0], self.window[-1]]) - math.log(self.center)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside = np.clip(-curves[:, 1] / (2 * curves[:, 2]), *ends)

        def loss(x: Array) -> Array:
            value: Array = curves[:, 0] + curves[:, 1] * x + curves[:, 2] * x * x
            return value

        least = np.minimum(
            np.minimum(loss(np.full(len(curves), ends[0])), loss(np.full(len(curves), ends[1]))), loss(inside)
        )
        return loss(transferred - math.log(self.center)) - least

    def summary(self) -> Horizon:
        best, optima = self.best, self.optima()
        value = None if best is None or abs(best) > 300 else math.exp(best)
        return Horizon(
            tokens=self.tokens,
            batches=tuple(self.batches),
            losses=tuple(self.means),
            runs=self.runs,
            failed=self.failed,
            flops=self.all_flops,
            center=self.center,
            curve=None if self.curve is None else (float(self.curve[0]), float(self.curve[1]), float(self.curve[2])),
            window=(self.window[0], self.window[-1]) if self.window else None,
            residual=self.residual,
            best=value,
            interval=None if value is None else _batches(central(optima)),
            edge=self.edge,
            bends=float(np.isfinite(optima).mean()) if len(optima) else float(value is not None),
        )


def _fit(sweeps: Sequence[_Sweep], width: int, depth: int, setting: str, own: TransferSpec | None) -> Gamma:
    horizons = [sweep.summary() for sweep in sweeps]
    held = len(sweeps) - 1 if len(sweeps) >= HELD_OUT_FROM else None
    fitting = [sweep for k, sweep in enumerate(sweeps) if k != held and sweep.best is not None and not sweep.edge]
    middle, line, lines = _power_law(fitting)
    bends = float(np.isfinite(lines[:, 1]).mean()) if len(lines) else 1.0
    gamma = Gamma(
        width=width,
        depth=depth,
        setting=setting,
        horizons=tuple(horizons),
        gamma=None if line is None else float(line[1]),
        interval=central(lines[:, 1]),
        bends=bends,
        tokens=middle,
        batch=None if line is None else math.exp(line[0]),
        study_gamma=None if own is None else own.gamma,
        held_out=None,
        warnings=_warnings(horizons, held, len(fitting), bends),
    )
    if held is None or line is None or horizons[held].best is None:
        return gamma
    return msgspec.structs.replace(gamma, held_out=_held_out(gamma, sweeps, held, lines, own))


class _PowerLaw(NamedTuple):
    """log B̃* = line[0] + line[1] · log(D / middle), `lines` (K, 2) those of the resamples; no line for one horizon."""

    middle: float
    line: Array | None
    lines: Array


def _power_law(sweeps: Sequence[_Sweep]) -> _PowerLaw:
    """Through the optima of `sweeps`, each of which has one."""
    logs = np.log([sweep.tokens for sweep in sweeps])
    if len(sweeps) < 2:
        return _PowerLaw(float(np.exp(logs.mean())) if len(logs) else 1.0, None, np.empty((0, 2)))
    x = logs - logs.mean()
    line = _line(x, np.array([[sweep.best for sweep in sweeps]], float))[0]
    lines = _line(x, np.stack([sweep.optima() for sweep in sweeps], axis=1))
    return _PowerLaw(float(np.exp(logs.mean())), line, lines)


def _line(x: Array, y: Array) -> Array:
    """Intercept and slope of each row of `y` (K, horizons) over centred `x`: (K, 2)."""
    slope = y @ x / (x @ x)
    return np.stack([y.mean(axis=1), slope], axis=1)


def _held_out(
    gamma: Gamma, sweeps: Sequence[_Sweep], held: int, lines: Array, own: TransferSpec | None
) -> HeldOut | None:
    sweep, horizon = sweeps[held], gamma.horizons[held]
    if sweep.curve is None or horizon.tuned is None:
        return None
    transferred = math.log(gamma.law(sweep.tokens))
    drawn = lines[:, 0] + lines[:, 1] * math.log(sweep.tokens / gamma.tokens)
    paired = min(len(drawn), len(sweep.curves))
    regrets = sweep.regret(sweep.curves[:paired], drawn[:paired])
    means = dict(zip(sweep.batches, sweep.means, strict=True))
    instead = sum(one.seed_flops for k, one in enumerate(sweeps) if k != held) + sweep.run_flops
    batch = None if own is None else own.base.batch * (sweep.tokens / own.base.tokens) ** own.gamma

    def at_nearest(log_batch: float) -> tuple[float, float]:
        """The grid's batch nearest to one, and its mean loss above the least."""
        batch = min(sweep.grid, key=lambda batch: abs(math.log(batch) - log_batch))
        return batch, means[batch] - min(means.values())

    nearest, nearest_regret = at_nearest(transferred)
    return HeldOut(
        tokens=sweep.tokens,
        transferred=math.exp(transferred),
        transferred_interval=_batches(central(drawn)),
        outside=not sweep.window[0] <= math.exp(transferred) <= sweep.window[-1],
        retuned=horizon.tuned,
        regret=float(sweep.regret(sweep.curve[None], np.array([transferred]))[0]),
        regret_interval=central(regrets),
        nearest=nearest,
        nearest_regret=nearest_regret,
        sweep_flops=sweep.seed_flops,
        transfer_flops=instead,
        saved=sweep.seed_flops - instead,
        saved_share=1 - instead / sweep.seed_flops,
        study_batch=batch,
        study_regret=None if batch is None else at_nearest(math.log(batch))[1],
    )


def _batches(logs: Interval | None) -> Interval | None:
    """An interval of log batch as one of the batch, also where it has no bounds."""
    if logs is None:
        return None
    low, high = (0.0 if log < -300 else math.inf if log > 300 else math.exp(log) for log in logs)
    return low, high


def _warnings(horizons: Sequence[Horizon], held: int | None, usable: int, bends: float) -> tuple[str, ...]:
    said = []
    for k, horizon in enumerate(horizons):
        name = f"at {format_quantity(horizon.tokens)} tokens"
        left_out = "" if k == held else "; it takes no part in the fit of γ"
        if horizon.curve is None:
            said.append(f"{name} fewer than {FEWEST_BATCHES} batches have a finite loss{left_out}")
        elif horizon.best is None:
            said.append(f"{name} the loss does not bend up in log batch: no optimum{left_out}")
        elif horizon.edge:
            said.append(f"{name} the optimum, {horizon.best:.3g}, lies outside the batches around it{left_out}")
        elif horizon.bends < SURE:
            said.append(
                f"{name} only {100 * horizon.bends:.0f} % of resamples bend up: its optimum is hardly determined"
            )
    if bends < 1:
        said.append(
            f"in {100 * (1 - bends):.2g} % of resamples a fitted horizon does not bend up: they have no γ, and count "
            "as without bound on both sides of its interval"
        )
    if usable < 2:
        said.append(f"γ needs an optimum at two horizons at least, and there are {usable}")
    elif usable < FEWEST_HORIZONS:
        said.append(f"γ rests on {usable} horizons alone")
    return tuple(said)
