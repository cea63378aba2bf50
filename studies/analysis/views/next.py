"""What to run next in words: the prescription, and the runs that would narrow the law."""

from __future__ import annotations

import math

from specs.quantities import format_quantity
from studies.analysis.fits import COUNTED
from studies.analysis.laws.base import Interval
from studies.analysis.next_study import DesignStudy, Next
from studies.analysis.prescription import Tested
from studies.analysis.views.words import NONE, Found, estimate, number, signed


def next_tables(found: Next) -> list[Found]:
    """The tables of a prescription: the run, its mix where that was chosen, and the design."""
    tables = [_run_table(found)]
    if found.prescription.mix.chosen:
        tables.append(_mix_table(found))
    if found.design is not None:
        tables.append(_design_table(found, found.design))
    return tables


def _run_table(found: Next) -> Found:
    advice, run = found.prescription, found.run
    best, beyond, batch = advice.best, advice.beyond, advice.batch
    rows = (
        ("width × depth, heads", f"{best.width} × {best.depth}, {best.heads}", "", ""),
        (f"N: {COUNTED[advice.count]}", number(best.N), _span(advice.N_interval), f"{beyond.N:.3g}"),
        ("parameters in all", format_quantity(best.params), "", ""),
        ("tokens", format_quantity(run.tokens), _quantities(advice.tokens_interval), f"{beyond.tokens:.3g}"),
        ("steps", f"{run.steps:,}", "", ""),
        ("FLOPs", f"{run.flops:.4g}", "", f"{beyond.flops:.3g}"),
        ("logical batch", number(run.logical), "", ""),
        ("physical batch", f"{run.physical}", "", ""),
        (f"loss ({advice.objective})", f"{best.loss:.4f}", _nats(advice.loss_interval), ""),
        ("loss of a run, its noise included", "", _nats(advice.run_interval), ""),
    )
    gamma = "" if batch.gamma is None else f", γ = {estimate(batch.gamma, batch.interval, '{:.2f}')}"
    epochs = ", ".join(f"{source} {passes:.2g}" for source, passes in run.epochs.items())
    said = [
        f"{advice.runs} runs make the law{_tested(advice.tested)}. Family: {advice.family}.",
        f"Mix: {advice.mix.source}. Logical batch: {batch.source}{gamma}.",
        f"Passes over the sources: {epochs}. 6 N D would give {format_quantity(advice.six_nd)} tokens at this N.",
        f"Written: {found.file}",
    ]
    if found.design is None and found.no_design:
        said.append(f"No design of further runs: {found.no_design}.")
    header = ("", "optimum", "90 % of resamples", "times the most of any run")
    title = f"The best use of {advice.budget:.4g} FLOPs, by {advice.study}"
    return Found(title, header, rows, tuple(said), found.warnings)


def _mix_table(found: Next) -> Found:
    mix = found.prescription.mix
    rows = tuple(
        (name, f"{100 * weight:.1f} %", _shares(mix.intervals.get(name))) for name, weight in mix.weights.items()
    )
    return Found("Its mix", ("modality", "share of tokens", "90 %"), rows)


def _design_table(found: Next, made: DesignStudy) -> Found:
    design = made.design
    rows = tuple(
        (
            ", ".join(f"{key} {value}" for key, value in one.model.items()),
            number(one.N),
            format_quantity(one.tokens),
            f"{len(one.seeds)}",
            f"{one.flops:.3g}",
        )
        for one in made.runs
    )
    advice, narrowed, grid = found.prescription, design.narrowed, design.grid_narrowed
    said = [
        f"{narrowed.runs} runs of {narrowed.flops:.3g} FLOPs in all; allowed: {design.budget:.3g}, {made.told}.",
        "Expected widths of intervals at the optimum, of what they are now: "
        f"log loss {_share(narrowed.loss, narrowed.loss_sampled)}, "
        f"log N {_share(narrowed.optimum, narrowed.optimum_sampled)}; "
        f"with an even grid of {grid.runs} runs and {grid.flops:.3g} FLOPs "
        f"{_share(grid.loss, grid.loss_sampled)} and {_share(grid.optimum, grid.optimum_sampled)}.",
    ]
    if advice.loss_interval is not None and made.loss_after is not None:
        said.append(
            f"The loss there: {_nats(advice.loss_interval)} now, {_nats(made.loss_after)} then; "
            f"N: {_span(advice.N_interval)} now, {_span(made.N_after)} then."
        )
    said.append(f"Written: {made.file}")
    header = ("model", "N", "tokens", "seeds", "FLOPs of one")
    return Found("The runs that would narrow the law most", header, rows, tuple(said))


def _tested(test: Tested | None) -> str:
    if test is None:
        return ""
    covered = "" if math.isnan(test.coverage) else f", {test.coverage:.0%} of them inside their 90 % intervals"
    error = signed(100 * test.bias, ".1f")
    return f"; without its {test.runs} of largest compute it predicts these {error} % off{covered}"


def _share(linear: float, sampled: float | None) -> str:
    return f"{linear:.0%}" + ("" if sampled is None else f" ({sampled:.0%} by resamples)")


def _span(interval: Interval | None) -> str:
    return NONE if interval is None else f"{interval[0]:.3g} to {interval[1]:.3g}"


def _quantities(interval: Interval | None) -> str:
    return NONE if interval is None else f"{format_quantity(interval[0])} to {format_quantity(interval[1])}"


def _nats(interval: Interval | None) -> str:
    return NONE if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def _shares(interval: Interval | None) -> str:
    return NONE if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"
