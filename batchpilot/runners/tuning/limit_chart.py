"""Score against each limit that was searched, with what servers ship (before) and what was found (after)."""

from __future__ import annotations

import math
from typing import Any

from batchpilot.core.limits import Limits
from batchpilot.runners.report.svg import INK, MUTED, drawing, to_svg
from batchpilot.runners.tuning.result import DEFAULT, TUNED, Tuned

_BLUE, _ORANGE = "#0072b2", "#d55e00"


def limit_chart(found: Tuned, objective: str) -> str:
    """One panel a limit: every complete trial's score over the limit's value, `off` at the right edge.

    A point is a trial, in which the other limits moved too: one that matters shows as a shape,
    one that does not as a cloud.

    Args:
        found: what was found.
        objective: what was maximised.

    Returns:
        One `<svg>` element.
    """
    from matplotlib.figure import Figure

    trials = [trial for trial in found.trials if trial.state == "complete" and trial.value is not None and trial.limits]
    names = [name for name in _numbers(found.limits) if len({str((t.limits or {}).get(name)) for t in trials}) > 1]
    names = names or ["batch_size"]
    ends = [
        (label, found.held[key], marker, colour)
        for label, key, marker, colour in (
            ("before: what servers ship", DEFAULT, "D", INK),
            ("after: tuned", TUNED, "*", _ORANGE),
        )
        if key in found.held
    ]
    with drawing():
        drawn = Figure(figsize=(8.4, 1.1 + 2.6 * ((len(names) + 2) // 3)))
        grid = drawn.subplots((len(names) + 2) // 3, min(3, len(names)), sharey=True, squeeze=False)
        for axes, name in zip(grid.flat, names, strict=False):
            known = [float(t.limits[name]) for t in trials if t.limits and t.limits.get(name)]
            known += [float(value) for _, held, _, _ in ends if held.limits and (value := getattr(held.limits, name))]
            off = 4.0 * max(known, default=1.0)
            across = [float((t.limits or {}).get(name) or off) for t in trials]
            axes.plot(across, [t.value or 0.0 for t in trials], "o", color=_BLUE, ms=4, alpha=0.6, label="a trial")
            for label, held, marker, colour in ends:
                if held.limits is not None:
                    at = float(getattr(held.limits, name) or off)
                    axes.plot([at], [held.seen], marker, color=colour, ms=10, mfc="none", mew=2, label=label)
            _values_axis(axes, known, off if None in _tried(found, name) else math.inf)
            axes.set_xlabel(name)
        for axes in list(grid.flat)[len(names) :]:
            axes.set_visible(False)
        grid[0][0].set_ylabel(objective.capitalize())
        grid[0][0].set_ylim(0, None)
        title = "What is each limit worth, before and after?"
        drawn.suptitle(title, x=0.01, ha="left")
        drawn.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower left", ncols=3)
        return to_svg(drawn, "limits", title)


def _numbers(limits: Limits) -> list[str]:
    return [name for name in limits.to_dict() if name != "discipline"]


def _tried(found: Tuned, name: str) -> list[Any]:
    """Every value of a limit in trials and in what stands beside them, None for off."""
    tried = [trial.limits.get(name) for trial in found.trials if trial.limits]
    return tried + [getattr(held.limits, name) for held in found.held.values() if held.limits is not None]


def _values_axis(axes: Any, known: list[float], off: float) -> None:
    """A logarithmic axis with a few powers of two over the values that occurred, and `off` (infinite: nobody was)."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = math.floor(math.log2(min(known, default=1.0))), math.ceil(math.log2(max(known, default=2.0)))
    ticks = [2.0**power for power in range(low, high + 1, max(1, math.ceil((high - low) / 3)))]
    axes.set_xscale("log", base=2)
    axes.set_xlim(2.0 ** (low - 0.5), 1.5 * off if math.isfinite(off) else 2.0 ** (high + 0.5))
    ends = [off] if math.isfinite(off) else []
    axes.xaxis.set_major_locator(FixedLocator([*(tick for tick in ticks if 3 * tick < off), *ends]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "off" if value >= off else _short(value)))
    for end in ends:
        axes.axvline(end, color=MUTED, linewidth=0.5, linestyle=(0, (1, 1.5)))


def _short(value: float) -> str:
    return f"{value / 1024:,.4g}k" if value >= 1024 else f"{value:.3g}"
