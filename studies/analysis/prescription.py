"""The compute-optimal run for a budget, by a study's own law, shapes and costs.

The law L(N, D) of the loss is fitted to the study's finished runs. For each shape of the study's family (`family`) the
budget gives the tokens, by the exact training FLOPs of the compiler (head and attention too, not 6 N D); the shape with
the least loss is the optimum. Each resample of the law has an optimum of its own, from which the intervals are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import polars as pl

from compiler.cost import count_parameters
from compiler.plan import RunPlan
from compiler.records import MIX
from specs.quantities import format_quantity
from studies.analysis.design import Candidates, Design, NoDesignError, Target, design
from studies.analysis.family import SingleSizeError, family_of
from studies.analysis.fits import COLUMN, Count, fit_results, fitted_rows
from studies.analysis.laws.base import Array, Interval, Rows
from studies.analysis.laws.chinchilla import Fit
from studies.analysis.laws.chinchilla_law import NAMES, predict
from studies.analysis.laws.held_out import extrapolate
from studies.analysis.laws.repeats import MOST_EPOCHS
from studies.analysis.laws.statistics import interval
from studies.analysis.noise import seed_noise
from studies.analysis.questions.gamma import batch_exponent
from studies.analysis.results import Study

LARGEST_BUDGET = 1e30
FAR = 100.0
"""So many times the compute of the largest run is far."""
OPEN = 0.05
"""Share of resamples with their optimum at an end of the family beyond which the interval is open there."""
DOUBTFUL = 0.5
"""Share of held-out runs inside their 90 % intervals at which the law's form is in doubt."""
DESIGN_SHARE = 0.1
"""What a design may cost: this share of the budget, or what the study has cost, whichever is less."""

_SIZES, _TOKENS = 24, 24
"""Sizes, and token counts of each, among the candidates of a design."""
_SIX_N = 6.0
_TESTS = 200
_TOLD = 4
"""Held-out runs from which on their share says something."""


class PrescriptionError(Exception):
    """Nothing can be prescribed: `what` is wrong or lacking, and what `todo`."""

    def __init__(self, what: str, todo: str) -> None:
        super().__init__(f"{what}; {todo}")
        self.what, self.todo = what, todo


class UnreadyError(PrescriptionError):
    """The study's results do not determine a law."""


class BudgetError(PrescriptionError):
    """The budget makes no sense for the study."""


class ValuesError(PrescriptionError):
    """What modalities count for makes no sense for the study."""


class Mixed(msgspec.Struct, frozen=True, kw_only=True):
    """The mix: `weights` by modality, shares of tokens, with their 90 % `intervals`; `chosen` says whether they are
    those of the least weighted loss (else there are no intervals), `source` where they come from."""

    weights: dict[str, float]
    intervals: dict[str, Interval]
    chosen: bool
    source: str


class LogicalBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Where the logical batch comes from: `logical` in sequences, None where the study's own transfer or base gives it;
    `gamma` with its interval where it was fitted; `source` in words."""

    logical: float | None
    gamma: float | None
    interval: Interval | None
    source: str


class Spending(msgspec.Struct, frozen=True, kw_only=True):
    """One way to spend the budget: `model` as a study writes it, width, depth and heads, `N` parameters as the law
    counts them, both counts, `tokens`, the law's `loss` there, and FLOPs by the exact count."""

    model: dict[str, int]
    width: int
    depth: int
    heads: int
    N: float
    params: int
    params_non_embedding: int
    tokens: float
    loss: float
    flops: float


class Beyond(msgspec.Struct, frozen=True, kw_only=True):
    """How many times the most of any run: compute, parameters and tokens."""

    flops: float
    N: float
    tokens: float


class Tested(msgspec.Struct, frozen=True, kw_only=True):
    """The law fitted without the `runs` of largest compute, `reach` times what it then saw: the mean of log predicted
    minus log actual loss, and the share of these runs inside their 90 % intervals (NaN without a bootstrap)."""

    runs: int
    reach: float
    bias: float
    coverage: float


class Prescription(msgspec.Struct, frozen=True, kw_only=True):
    """The optimum for a `budget` of FLOPs.

    `count` says which parameters are N, and `objective` which loss is least. `best` is the optimum; `N_interval`,
    `tokens_interval` and `loss_interval` hold the central 90 % of resamples of the law, `run_interval` that of one more
    run there (all None without a bootstrap). `six_nd` is what the tokens would be by 6 N D at the same size. `law` is
    the fitted law with its intervals, of `runs` runs whose mix is `law_mix`; `tested` how it predicts the largest of
    them, None where the others determine no law.
    """

    study: str
    budget: float
    count: Count
    objective: str
    family: str
    best: Spending
    N_interval: Interval | None
    tokens_interval: Interval | None
    loss_interval: Interval | None
    run_interval: Interval | None
    six_nd: float
    beyond: Beyond
    law: dict[str, Any]
    tested: Tested | None
    runs: int
    law_mix: dict[str, float]
    mix: Mixed
    batch: LogicalBatch
    warnings: tuple[str, ...]


class Advisor:
    """A study's law and family, from which budgets are prescribed and designs made.

    `values` are what a nat of each modality counts for; without any the loss is that of the study's mix. Raises
    UnreadyError where no run has finished, the runs have one size, or the law is not identified, and ValuesError.
    """

    def __init__(
        self,
        study: Study,
        keys: Sequence[str],
        base_mix: Mapping[str, float],
        values: Mapping[str, float] | None = None,
        count: Count = "non_embedding",
        bootstrap: int = 1000,
        seed: int = 0,
    ) -> None:
        self.study, self.count, self.bootstrap, self.seed = study, count, bootstrap, seed
        self.warnings: list[str] = []
        self.values = _worth(study.modalities, values or {})
        results = study.results()
        if results.is_empty():
            raise UnreadyError("no run of the study has finished yet", "let it run, and look with `triptych status`")
        self.mix = self._mix(dict(base_mix))
        self.runs = self._alike(results)
        self.rows = self._tuned(self._losses(results))
        self.fit = self._law()
        self.tested = self._tested()
        kept = set(self.rows["id"])
        self.largest = max((run for run in self.runs if run.id in kept), key=lambda run: run.flops)
        positions = self.largest.sequence_length * _sequences_per_token(self.largest, self.mix.weights)
        try:
            self.family = family_of(self.runs, keys, count, positions)
        except SingleSizeError as error:
            raise UnreadyError(str(error), "run the study at three sizes or more") from None

    def prescribe(self, budget: float) -> Prescription:
        """The optimum for `budget` FLOPs. Raises BudgetError where that is no budget, or one below the smallest run."""
        self._check_budget(budget)
        tokens = budget / self.family.flops_per_token
        usable = np.flatnonzero(tokens >= self.largest.sequence_length)
        if not len(usable):
            raise BudgetError(f"{budget:.3g} FLOPs do not train one sequence", "give more")
        own, drawn = (_optima(laws, self.family.N[usable], tokens[usable]) for laws in self._laws())
        place = int(usable[own[0]])
        best = self._allocation(place, float(tokens[place]))
        intervals = self._intervals(best, usable[drawn], tokens)
        most = self.rows.select(pl.col("flops", COLUMN[self.count], "tokens").max()).row(0)
        beyond = Beyond(flops=budget / most[0], N=best.N / most[1], tokens=best.tokens / most[2])
        run = self.fit.run_band([best.N], [best.tokens], self.seed) if len(self.fit.samples) else None
        return Prescription(
            study=self.study.plan.study,
            budget=budget,
            count=self.count,
            objective=self.objective,
            family=self.family.words,
            best=best,
            N_interval=intervals.get("N"),
            tokens_interval=intervals.get("tokens"),
            loss_interval=intervals.get("loss"),
            run_interval=None if run is None else (float(run[0][0]), float(run[1][0])),
            six_nd=budget / (_SIX_N * best.N),
            beyond=beyond,
            law=self.fit.summary(),
            tested=self.tested,
            runs=len(self.rows),
            law_mix=_weights(self.largest),
            mix=self.mix,
            batch=self._batch(best),
            warnings=(*self.warnings, *self._told(beyond, place, usable, drawn)),
        )

    def within(self, budget: float, most: float) -> Spending | None:
        """The best use of `budget` FLOPs with at most `most` tokens; None where no shape is that large."""
        tokens = budget / self.family.flops_per_token
        usable = np.flatnonzero((tokens <= most) & (tokens >= self.largest.sequence_length))
        if not len(usable):
            return None
        own = _optima(self._laws()[0], self.family.N[usable], tokens[usable])
        place = int(usable[own[0]])
        return self._allocation(place, float(tokens[place]))

    @property
    def objective(self) -> str:
        """Which loss is least, in words."""
        if not self.values:
            return "nelbo of the mix"
        return "nelbo weighed " + ", ".join(f"{name} {value:.3g}" for name, value in self.values.items())

    @property
    def sigma(self) -> float:
        """Noise of a run in log loss: the residuals' root mean square for the degrees of freedom that the fit leaves,
        or that between seeds, whichever is more."""
        residual = self.fit.residual * math.sqrt(self.fit.n / max(self.fit.n - len(NAMES), 1))
        noise = seed_noise(self.rows)
        seeds = float(noise["deviation"][0]) / float(self.rows["nelbo"].to_numpy().mean()) if len(noise) else 0.0
        return max(residual, seeds, 1e-6)

    @property
    def spent(self) -> float:
        """FLOPs of the finished runs that the law is of."""
        return float(self.rows["flops"].sum())

    def design(self, found: Prescription, budget: float, runs: int) -> tuple[Design, list[Spending]]:
        """At most `runs` runs within `budget` FLOPs that narrow the law most at a prescription's optimum: the design,
        and its candidates. They are sizes of the family from the smallest that was run up to the optimum or the largest
        that was, at token counts from the least up to the optimum's or the most, of at most 4 epochs. Raises
        NoDesignError."""
        places, tokens = self._candidates(found, budget)
        flops = self._law_cost[places] * tokens
        candidates = Candidates(self.family.N[places], tokens, flops)
        samples = self.fit.samples if len(self.fit.samples) else None
        optima = None
        if samples is not None:
            allowed = found.budget / self.family.flops_per_token
            optima = self.family.N[_optima(samples, self.family.N, allowed)]
        made = design(
            self.fit.law,
            self.rows[COLUMN[self.count]].to_numpy(),
            self.rows["tokens"].to_numpy(),
            self.sigma,
            Target(found.best.N, found.best.tokens, self._slope(found.best.N)),
            candidates,
            budget,
            runs,
            samples,
            optima,
        )
        found_runs = [
            msgspec.structs.replace(self._allocation(int(place), float(each)), flops=float(cost))
            for place, each, cost in zip(places, tokens, flops, strict=True)
        ]
        return made, found_runs

    def _candidates(self, found: Prescription, budget: float) -> tuple[Rows, Array]:
        """Rows of shapes and tokens of each candidate, (m,) each."""
        N, D = self.rows[COLUMN[self.count]].to_numpy(), self.rows["tokens"].to_numpy()
        fits = (N.min() * 0.999 <= self.family.N) & (max(N.max(), found.best.N) * 1.001 >= self.family.N)
        least, cap = float(D.min()), min(max(float(D.max()), found.best.tokens), self._fresh_tokens())
        fits &= self._law_cost * least <= budget
        places = np.flatnonzero(fits)
        if not len(places) or cap < least:
            raise NoDesignError(f"no run of the measured range fits a design of {budget:.3g} FLOPs")
        logs = np.log(self.family.N[places])
        wanted = np.linspace(logs[0], logs[-1], _SIZES)
        places = places[np.unique(np.abs(logs[None] - wanted[:, None]).argmin(axis=1))]
        each = np.array([float(f"{tokens:.3g}") for tokens in np.geomspace(least, cap, _TOKENS)])
        grid = [(place, tokens) for place in places for tokens in each]
        kept = [(p, t) for p, t in grid if self._law_cost[p] * t <= budget]
        return np.array([place for place, _ in kept]), np.array([tokens for _, tokens in kept])

    @property
    def _law_cost(self) -> Array:
        """FLOPs per token of each shape in the mix that the law is of, which is a design's too."""
        there, here = (_sequences_per_token(self.largest, mix) for mix in (_weights(self.largest), self.mix.weights))
        return self.family.flops_per_token * (there / here)

    def _fresh_tokens(self) -> float:
        """Tokens of the runs' mix at which the first source has been seen 4 times."""
        most = max((epochs / self.largest.tokens for epochs in self.largest.epochs.values()), default=0.0)
        return MOST_EPOCHS / most if most else math.inf

    def _slope(self, N: float) -> float:
        """d log(FLOPs per token) / d log N of the family at `N`."""
        near = np.argsort(np.abs(np.log(self.family.N / N)))[: min(9, len(self.family.N))]
        return float(np.polyfit(np.log(self.family.N[near]), np.log(self.family.flops_per_token[near]), 1)[0])

    def _laws(self) -> tuple[Array, Array]:
        """The law and its samples, (1, 5) and (K, 5)."""
        return self.fit.law.row, self.fit.samples

    def _allocation(self, place: int, tokens: float) -> Spending:
        shape = self.family.shapes[place]
        params = count_parameters(shape)
        N = float(self.family.N[place])
        return Spending(
            model=self.family.settings(place),
            width=shape.width,
            depth=shape.depth,
            heads=shape.heads,
            N=N,
            params=params.total,
            params_non_embedding=params.non_embedding,
            tokens=tokens,
            loss=float(self.fit.law([N], [tokens])[0]),
            flops=tokens * float(self.family.flops_per_token[place]),
        )

    def _intervals(self, best: Spending, places: Rows, tokens: Array) -> dict[str, Interval]:
        """Intervals of the optimum's N and tokens, from its `places` in the resamples, and of the loss at `best`."""
        if not len(places):
            return {}
        losses = predict(self.fit.samples, [best.N], [best.tokens])[:, 0]
        found = {"N": self.family.N[places], "tokens": tokens[places], "loss": losses}
        return {name: interval(values) for name, values in found.items()}

    def _check_budget(self, budget: float) -> None:
        if not (math.isfinite(budget) and budget > 0):
            raise BudgetError(f"{budget} is no budget", "give FLOPs above zero, such as 1e21")
        if budget > LARGEST_BUDGET:
            raise BudgetError(f"{budget:.3g} FLOPs are beyond all computers", f"give at most {LARGEST_BUDGET:g}")
        least = float(self.rows["flops"].to_numpy().min())
        if budget < least:
            what = f"{budget:.3g} FLOPs are less than the study's smallest run took"
            raise BudgetError(what, f"give at least {least:.3g}")

    def _mix(self, base: dict[str, float]) -> Mixed:
        """The mix that is best, where the study varies it, else the runs'."""
        runs = self.study.plan.runs
        varied = {tuple(sorted(_weights(run).items())) for run in runs}
        if len(varied) == 1:
            return Mixed(weights=_weights(runs[0]), intervals={}, chosen=False, source="the study's mix")
        # Regression over the simplex takes a while to import, and few studies vary the mix.
        from studies.analysis.questions.mixing import mixing

        worth = dict(self.values) or base
        found = [one for one in mixing(self.study, self.bootstrap, self.seed, worth) if one.best is not None]
        if not found:
            self.warnings.append("the study varies the mix, but its runs do not tell the best one: the base's is taken")
            return Mixed(weights=base or _weights(runs[0]), intervals={}, chosen=False, source="the study's base mix")
        one = max(found, key=lambda each: (each.tokens, each.width * each.depth))
        assert one.best is not None
        weights = dict(zip(one.modalities, one.best.mix, strict=True))
        intervals = dict(zip(one.modalities, one.best.weights, strict=True)) if one.best.weights else {}
        self.warnings += [f"mix: {said}" for said in one.warnings]
        where = f"{format_quantity(one.tokens)} tokens and {one.width} × {one.depth}"
        return Mixed(
            weights=weights,
            intervals=intervals,
            chosen=True,
            source=f"least weighted loss over the simplex, at {where}",
        )

    def _alike(self, results: pl.DataFrame) -> list[RunPlan]:
        """The finished runs that the law is of: where mixes differ, those of the mix nearest to the best one of which
        there are enough for a law, or else of the mix that has the most."""
        done = set(results["id"])
        groups: dict[tuple[tuple[str, float], ...], list[RunPlan]] = {}
        for run in self.study.plan.runs:
            if run.id in done:
                groups.setdefault(tuple(sorted(_weights(run).items())), []).append(run)
        if len(groups) == 1:
            return next(iter(groups.values()))

        def far(runs: list[RunPlan]) -> float:
            return sum(abs(weight - self.mix.weights.get(name, 0.0)) for name, weight in _weights(runs[0]).items())

        enough = [
            runs
            for runs in groups.values()
            if len({run.model.parameters.non_embedding for run in runs}) > 2 and len({r.tokens for r in runs}) > 2
        ]
        chosen = min(enough, key=far) if enough else max(groups.values(), key=len)
        if far(chosen) > 0.02:
            told = ", ".join(f"{name} {weight:.2g}" for name, weight in _weights(chosen[0]).items())
            self.warnings.append(f"the law is of runs with another mix ({told}): the loss is expected there")
        return chosen

    def _losses(self, results: pl.DataFrame) -> pl.DataFrame:
        """A row per run that the law is of, with the loss that is to be least."""
        own = results.filter(pl.col("id").is_in([run.id for run in self.runs]))
        mixes = fitted_rows(own.filter(modality=MIX))
        if not self.values:
            return mixes
        worth = {name: value for name, value in self.values.items() if value > 0}
        total = math.fsum(worth.values())
        weighed = (
            own.filter(pl.col("modality").is_in(list(worth)))
            .with_columns(value=pl.col("modality").replace_strict(worth, return_dtype=pl.Float64) / total)
            .group_by("id", maintain_order=True)
            .agg((pl.col("value") * pl.col("nelbo")).sum(), pl.len().alias("found"))
            .filter(pl.col("found") == len(worth))
        )
        return mixes.drop("nelbo").join(weighed.select("id", nelbo="value"), on="id", maintain_order="left")

    def _tuned(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Where the study varies anything else, such as the learning rate, the runs of one shape and token count whose
        setting has the least mean loss over seeds: the law is of runs that are well tuned."""
        place = ["width", "depth", "tokens"]
        means = rows.with_columns(mean=pl.col("nelbo").mean().over(*place, "point"))
        kept = means.filter(pl.col("mean") == pl.col("mean").min().over(place)).drop("mean")
        if len(kept) < len(rows):
            self.warnings.append(
                f"of {len(rows)} runs {len(kept)} make the law: of one size and token count, those of the best setting"
            )
        return kept

    def _law(self) -> Fit:
        if self.rows.is_empty():
            fitted, why = None, "no run of it has ended with a loss and seen its sources few times enough"
        else:
            found = fit_results(self.rows, self.count, self.bootstrap, self.seed)
            fitted, why = found.fits.get(MIX), found.missing.get(MIX, "")
        if fitted is not None:
            return fitted
        waiting = len(self.study.plan.runs) - self.study.runs.filter(state="done").height
        todo = f"let the other {waiting} runs finish" if waiting else "add sizes and token counts to the study"
        if len({run.model.parameters.non_embedding for run in self.study.plan.runs}) < 3:
            todo = "run the study at three sizes or more"
        often = len(self.runs) - len(self.rows)
        if often:
            why += f" ({often} more see a source over {MOST_EPOCHS:g} times and take no part)"
        raise UnreadyError(f"the law is not identified: {why}", todo)

    def _tested(self) -> Tested | None:
        rows = self.rows
        found = extrapolate(
            rows[COLUMN[self.count]],
            rows["tokens"],
            rows["nelbo"],
            rows["flops"],
            groups=rows["point"],
            bootstrap=min(self.bootstrap, _TESTS),
            seed=self.seed,
        )
        told = found.predicted
        if not told.n:
            return None
        return Tested(runs=told.n, reach=found.reach, bias=told.bias, coverage=told.coverage)

    def _batch(self, best: Spending) -> LogicalBatch:
        """From the study's own γ where it was fitted, else as its base has it."""
        fitted = [one for one in batch_exponent(self.study, self.bootstrap, self.seed) if one.gamma is not None]
        if not fitted:
            return LogicalBatch(logical=None, gamma=None, interval=None, source="as the study's base and transfer")
        one = min(fitted, key=lambda each: abs(math.log(each.width * each.depth / (best.width * best.depth))))
        source = f"γ fitted to this study's sweeps of the batch at {one.width} × {one.depth}"
        return LogicalBatch(logical=one.law(best.tokens), gamma=one.gamma, interval=one.interval, source=source)

    def _told(self, beyond: Beyond, place: int, usable: Rows, drawn: Rows) -> list[str]:
        said = [f"the law: {warning}" for warning in self.fit.warnings]
        test = self.tested
        if test is not None and test.runs >= _TOLD and test.coverage <= DOUBTFUL:
            said.append(
                f"fitted without its {test.runs} runs of largest compute, the law errs there by {test.bias:+.1%}, only "
                f"{test.reach:.2g} times as far, and {test.coverage:.0%} of them lie in their 90 % intervals: losses "
                "do not fall as it has them, and its intervals do not know that"
            )
        if beyond.flops > FAR:
            said.append(
                f"the budget is {beyond.flops:.3g} times the largest run: the interval holds only if the law keeps its "
                "form that far"
            )
        ends = (usable[0], usable[-1])
        if place in ends:
            which = "smallest" if place == ends[0] else "largest"
            said.append(f"the optimum is the {which} shape of the family: the true one may lie beyond")
        at_ends = float(np.isin(usable[drawn], ends).mean()) if len(drawn) else 0.0
        if at_ends > OPEN:
            said.append(
                f"in {at_ends:.0%} of resamples the optimum lies at an end of the family: intervals are open there"
            )
        if not len(drawn):
            said.append("no intervals without a bootstrap")
        return said


def design_budget(budget: float, spent: float) -> float:
    """What a design may cost where nothing is said: a tenth of the budget, or what was spent, whichever is less."""
    return min(DESIGN_SHARE * budget, spent)


def _optima(laws: Array, N: Array, tokens: Array) -> Rows:
    """Place of the least loss over shapes (S,) for each of K laws: (K,)."""
    step = max(1, 4_000_000 // max(len(N), 1))
    found = [predict(laws[k : k + step], N, tokens).argmin(axis=1) for k in range(0, len(laws), step)]
    return np.concatenate(found) if found else np.empty(0, np.intp)


def _weights(run: RunPlan) -> dict[str, float]:
    """The run's mix over all of its tokens."""
    return {name: plan.weight for name, plan in run.modalities.items()}


def _sequences_per_token(run: RunPlan, weights: Mapping[str, float]) -> float:
    total = math.fsum(weights.get(name, 0.0) for name in run.modalities)
    parts = (weights.get(name, 0.0) / total / plan.mean_tokens for name, plan in run.modalities.items())
    return math.fsum(parts)


def _worth(names: Sequence[str], values: Mapping[str, float]) -> dict[str, float]:
    """`values` checked against the study's modalities. Raises ValuesError."""
    for name, value in values.items():
        if name not in names:
            raise ValuesError(f"'{name}' is no modality of the study", f"use one of: {', '.join(names)}")
        if not (math.isfinite(value) and value >= 0):
            raise ValuesError(f"{name} = {value} is no value", "give a number of at least 0")
    if values and not any(values.values()):
        raise ValuesError("all values are zero", "give one modality a value above 0")
    return dict(values)
