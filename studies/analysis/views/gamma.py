"""The exponent of the logical batch in words and figures."""

from __future__ import annotations

from functools import partial

from specs.quantities import format_quantity
from studies.analysis.questions.gamma import HELD_OUT_FROM, Gamma, batch_exponent
from studies.analysis.settings import in_words
from studies.analysis.views.question import Block, Figure, Question
from studies.analysis.views.words import NONE, Found, estimate, nats, stacked

TEXT = (
    "The best logical batch of each token horizon, by a parabola in log batch near the lowest loss, and its "
    "growth with the horizon, batch ∝ tokens<sup>γ</sup>. Brackets and bars hold the central 90 % of a bootstrap "
    "over residuals, in which a sweep that does not bend up has its best batch anywhere. "
    f"With {HELD_OUT_FROM} horizons or more the longest takes no part in the fit: there the batch "
    "that γ gives is compared with the re-tuned one."
)


def gamma_table(found: Gamma) -> Found:
    """The best logical batch of each horizon beside the law's, γ, and what following it costs."""
    rows = []
    for horizon in found.horizons:
        role = found.role(horizon)
        rows.append(
            (
                format_quantity(horizon.tokens) + ("" if role == "fitted" else f"\n{role}"),
                NONE if horizon.best is None else stacked(horizon.best, horizon.interval, "{:.3g}"),
                NONE if found.gamma is None else f"{found.law(horizon.tokens):.3g}",
                f"{horizon.runs}" + (f" ({horizon.failed} failed)" if horizon.failed else ""),
                nats(horizon.residual) if horizon.curve else NONE,
                f"{horizon.flops:.2e}",
            )
        )
    header = ("tokens", "best batch", "by γ", "runs", "residual, nats", "FLOPs")
    return Found(gamma_title(found), header, tuple(rows), tuple(_gamma_said(found)), found.warnings)


def gamma_title(found: Gamma) -> str:
    """Such as: γ = 0.41 (0.32 to 0.50), 64 × 2."""
    return in_words(
        f"γ = {estimate(found.gamma, found.interval, '{:.2f}')}" if found.gamma is not None else "γ not fitted",
        f"{found.width} × {found.depth}",
        found.setting,
    )


def _gamma_said(found: Gamma) -> list[str]:
    said = []
    if found.study_gamma is not None and found.gamma is not None:
        low, high = found.interval or (found.gamma, found.gamma)
        inside = "inside" if low <= found.study_gamma <= high else "outside"
        said.append(f"The study's own transfer has γ = {found.study_gamma:g}, {inside} the interval.")
    held = found.held_out
    if held is None:
        return said
    tokens = format_quantity(held.tokens)
    longest = max(horizon.tokens for horizon in found.horizons if found.role(horizon) == "fitted")
    batch = estimate(held.transferred, held.transferred_interval, "{:.3g}")
    regret = estimate(held.regret, held.regret_interval, "{:.4f}")
    said.append(
        f"At {tokens} tokens, {held.tokens / longest:.3g} times the longest that was fitted, γ gives a batch of "
        f"{batch}; re-tuned it is {held.retuned:.3g}. Regret: {regret} "
        f"nats on the curve, {nats(held.nearest_regret)} at the nearest batch of the grid, {held.nearest:.3g}."
    )
    if held.outside:
        said.append("The transferred batch lies outside the batches around that optimum: its regret is extrapolated.")
    verb = "saved" if held.saved >= 0 else "more"
    said.append(
        f"Re-tuning there costs {held.sweep_flops:.2e} FLOPs a seed; the shorter sweeps and one run there cost "
        f"{held.transfer_flops:.2e}: {abs(held.saved):.2e} {verb}, {100 * abs(held.saved_share):.0f} %."
    )
    if held.study_regret is not None and held.study_batch is not None:
        said.append(
            f"The study's own γ gives a batch of {held.study_batch:.3g} there, with a regret of "
            f"{nats(held.study_regret)} nats at the nearest batch of the grid."
        )
    return said


def _show(found: Gamma) -> Block:
    from studies.analysis.charts.gamma import batch_law, batch_sweeps

    figures = [Figure("sweeps", "", partial(batch_sweeps, found)), Figure("law", "", partial(batch_law, found))]
    return Block(figures, [gamma_table(found)])


GAMMA = Question(
    key="gamma",
    title="The logical batch and the horizon",
    text=TEXT,
    ask=lambda study, how: batch_exponent(study, how.bootstrap, how.seed),
    show=_show,
)
