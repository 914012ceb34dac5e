"""Pictures of a load test: when the promise was kept, and how the times are spread."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.engines.scheduler.state import FINISH_REASONS
from batchpilot.engines.simulated.result import SimulationResult
from batchpilot.runners.report.svg import INK, MUTED, drawing, to_svg

_COLOURS = ("#0072b2", "#d55e00", "#009e73")


def timeline_chart(outcome: SimulationResult) -> str:
    """Every request where it was due: the served at their TTFT over the promise, the others along the top.

    Args:
        outcome: over HTTP.
    """
    from matplotlib.figure import Figure

    requests = outcome.requests
    due_s = requests.arrival_ms / 1000.0
    promised = np.where(np.isfinite(requests.ttft_target_ms), requests.ttft_target_ms, 1000.0)
    served = (outcome.finish_code == FINISH_REASONS.index("length")) & np.isfinite(outcome.ttft_ms)
    over = np.maximum(outcome.ttft_ms / promised, 0.01)
    finite = bool(np.isfinite(requests.ttft_target_ms).any())
    top = 2.5 * max(1.0, float(over[served].max(initial=1.0)))
    kinds = (
        ("served within the promise", served & outcome.slo_met, over, _COLOURS[0], "o"),
        ("served, promise missed", served & ~outcome.slo_met, over, _COLOURS[1], "^"),
        ("refused", _ended(outcome, "refused"), np.full(len(over), top), MUTED, "x"),
        ("failed or unfinished", ~served & ~_ended(outcome, "refused"), np.full(len(over), 1.6 * top), INK, "+"),
    )
    with drawing():
        drawn = Figure(figsize=(9.0, 3.6))
        axes = drawn.add_subplot()
        for name, rows, height, colour, marker in kinds:
            if rows.any():
                axes.plot(due_s[rows], height[rows], marker, color=colour, ms=4, ls="", label=f"{name}: {rows.sum():,}")
        axes.axhline(1, color=INK, linewidth=1)
        axes.set_yscale("log")
        _round_ticks(axes.yaxis, "{:g} x" if finite else "{:g}")
        axes.set_xlabel("Due, s after the start")
        axes.set_ylabel("TTFT over its promise" if finite else "TTFT, s")
        axes.set_title(title := "When was the promise kept, and who was turned away?")
        drawn.legend(loc="outside lower left", ncols=4)
        return to_svg(drawn, "timeline", title)


def _round_ticks(axis: Any, words: str) -> None:
    """Round values on a logarithmic axis: 1, 2 and 5 times powers of ten, powers alone over more than three decades."""
    from matplotlib.ticker import LogLocator, NullLocator

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: words.format(value))


def _ended(outcome: SimulationResult, beginning: str) -> NDArray[np.bool_]:
    codes = [code for code, reason in enumerate(FINISH_REASONS) if reason.startswith(beginning)]
    return np.isin(outcome.finish_code, codes)


def latency_chart(columns: Mapping[str, SimulationResult]) -> str:
    """Share of the served requests whose TTFT, TPOT and end-to-end time stay below a value, one line a column.

    Args:
        columns: outcomes by what they are called.
    """
    from matplotlib.figure import Figure

    with drawing():
        drawn = Figure(figsize=(9.0, 3.2))
        axes = drawn.subplots(1, 3, sharey=True)
        for axis, column in zip(axes, ("ttft_ms", "tpot_ms", "e2e_ms"), strict=True):
            for (name, outcome), colour in zip(columns.items(), _COLOURS, strict=False):
                values = getattr(outcome, column)[outcome.finish_code == FINISH_REASONS.index("length")]
                values = np.sort(np.maximum(values[np.isfinite(values)], 0.1))
                share = np.arange(1, len(values) + 1) / max(len(values), 1)
                axis.step(values, share, where="post", label=name, color=colour, linewidth=1.6)
            axis.set_xscale("log")
            axis.set_xlabel(f"{column.removesuffix('_ms').upper()} (ms)")
            axis.set_ylim(0, 1)
        for axis, target in ((axes[0], "ttft_target_ms"), (axes[1], "tpot_target_ms")):
            for value in sorted(set(getattr(next(iter(columns.values())).requests, target).tolist())):
                if math.isfinite(value):
                    axis.axvline(value, color=MUTED, linestyle=(0, (4, 2)), linewidth=1)
        for axis in axes:
            _round_ticks(axis.xaxis, "{:,g}")
            axis.tick_params(axis="x", labelrotation=30)
        axes[0].set_ylabel("share of the served")
        axes[0].legend(loc="lower right")
        drawn.suptitle("How many of the served requests were as fast as that? (dashed: promised)", x=0.01, ha="left")
        return to_svg(drawn, "latency", "Distribution of TTFT, TPOT and end-to-end time")
