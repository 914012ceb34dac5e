"""One scenario over time: which limits each strategy moved, how promises, arrivals and refusals went, and goodput."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from batchpilot.core.limits import Limits
from batchpilot.runners.report.grids import HINDSIGHT, reference_names
from batchpilot.runners.report.styles import dashes_of, strategies_of, style_of
from batchpilot.runners.report.summary import Row
from batchpilot.runners.report.svg import INK, MUTED, drawing, to_svg

Curves = Mapping[tuple[str, str], Mapping[str, Sequence[float]]]
"""What each strategy did over time, by (scenario, strategy) and then by column."""

_WIDTH = 13.0
_MOST_POINTS = 100
_BEHIND = (HINDSIGHT, "static-default")
"""References that stand behind the goodput; more would hide it."""
_SOLID, _DASHED, _DOTTED = "-", (0, (4, 2)), (0, (1, 1.5))
_HEADINGS = ("What moved, over its start", "Over the promise", "Requests/s", "Goodput, tokens/s")


def over_time(curves: Curves, scenario: str, summary: Sequence[Row]) -> str:
    """A row of panels for each strategy: limits that moved, TTFT, TPOT and waiting, arrivals and refusals, goodput.

    Args:
        curves: by (scenario, strategy); a column that is missing is not drawn.
        scenario: which scenario.
        summary: summary rows, which say what is a reference; two of the references are dashed behind the goodput.

    Returns:
        One `<svg>` element.
    """
    ran = {tuner for place, tuner in curves if place == scenario}
    references = [name for name in reference_names(summary) if name in ran]
    behind = [name for name in references if name in _BEHIND]
    names = [name for name in strategies_of(summary) if name in ran] or references
    with drawing():
        figure = Figure(figsize=(_WIDTH, height := 1.75 + 1.35 * len(names)))
        figure.set_layout_engine("none")  # searching for a layout takes seconds
        inches = {
            "top": 1 - 0.75 / height,
            "bottom": 1.0 / height,
            "left": 2.15 / _WIDTH,
            "right": 1 - 0.12 / _WIDTH,
        }
        grid = figure.add_gridspec(len(names), len(_HEADINGS), **inches, hspace=0.2, wspace=0.26)
        panels = grid.subplots(sharex=True, sharey="col", squeeze=False)
        for line, name in zip(panels, names, strict=True):
            curve = curves[scenario, name]
            colour = INK if name in references else style_of(summary, name)["color"]
            _moved(line[0], curve, colour)
            _promises(line[1], curve, colour)
            _requests(line[2], curve, colour)
            for other in behind:
                dashes = dashes_of(summary, other)
                _line(line[3], curves[scenario, other], "goodput_tokens_per_s", color=MUTED, linestyle=dashes, lw=0.9)
            if name not in references:
                _line(line[3], curve, "goodput_tokens_per_s", color=colour, lw=1.5)
            line[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=12)
        _axes(panels)
        title = f"What does each strategy do over time? {scenario}"
        figure.suptitle(title, x=0.01, y=1 - 0.1 / height, ha="left", va="top")
        figure.legend(handles=_keys(summary, behind), loc="lower left", ncols=6)
        return to_svg(figure, f"time-{scenario}", title)


def _moved(axes: Axes, curve: Mapping[str, Sequence[float]], colour: str) -> None:
    """Every limit that moved, over its first value, with its name where it ends."""
    moved = []
    for column in (one.name for one in fields(Limits)):
        values = np.asarray(curve.get(column, ()), dtype=float)
        known = values[np.isfinite(values) & (values > 0)]
        if len(known) and known.max() > known.min() * 1.001:
            moved.append((column, values / known[0]))
    for place, (column, ratio) in enumerate(moved):
        style = (_SOLID, _DASHED, _DOTTED)[place % 3]
        _line(axes, {**curve, column: ratio.tolist()}, column, color=colour, linestyle=style, lw=1.5)
    if moved:
        listed = "\n".join(f"{mark} {column}" for mark, (column, _) in zip("—╌┈—╌┈", moved, strict=False))
        axes.text(0.02, 0.97, listed, transform=axes.transAxes, va="top", fontsize=7, color=INK)
    else:
        axes.text(0.5, 0.62, "nothing moved", transform=axes.transAxes, ha="center", fontsize=8, color=MUTED)


def _promises(axes: Axes, curve: Mapping[str, Sequence[float]], colour: str) -> None:
    axes.axhline(1, color=INK, linewidth=0.8)
    _line(axes, curve, "ttft_p95_over_promise", color=colour, lw=1.5)
    _line(axes, curve, "tpot_p95_over_promise", color=colour, linestyle=_DASHED, lw=1.2)
    waits = [value or math.nan for value in curve.get("oldest_wait_over_promise", ())]
    _line(axes, {**curve, "waits": waits}, "waits", color=MUTED, linestyle=_DOTTED, lw=1.2)


def _requests(axes: Axes, curve: Mapping[str, Sequence[float]], colour: str) -> None:
    _line(axes, curve, "arrivals_per_s", color=MUTED, lw=0.9)
    _line(axes, curve, "refused_per_s", color=colour, lw=1.5)


def _axes(panels: NDArray[Any]) -> None:
    first = panels[0]
    for axes, heading in zip(first, _HEADINGS, strict=True):
        axes.set_title(heading, fontsize=10, fontweight="normal")
    for axes in panels[-1]:
        axes.set_xlabel("Engine time, s")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    first[0].set_yscale("log", base=2)
    low, high = first[0].get_ylim()
    first[0].set_ylim(min(low, 0.45), max(high, 2.2))
    ticks = FixedLocator([1 / 64, 1 / 16, 1 / 4, 1, 4, 16, 64])
    _ticks(first[0], ticks, lambda value, _: f"{value:g} x" if value >= 1 else f"1/{1 / value:g}")
    first[1].set_yscale("log")
    low, high = first[1].get_ylim()
    first[1].set_ylim(min(max(low, 0.02), 0.5), max(high, 2.0))
    _ticks(first[1], FixedLocator([0.01, 0.1, 1, 10, 100, 1000]), lambda value, _: f"{value:g} x")
    first[2].set_ylim(bottom=0)
    first[3].set_ylim(bottom=0)


def _ticks(axes: Axes, locator: FixedLocator, words: Any) -> None:
    axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(words))


def _keys(summary: Sequence[Row], references: Sequence[str]) -> list[Line2D]:
    told = (
        ("TTFT p95", INK, _SOLID, 1.5),
        ("TPOT p95", INK, _DASHED, 1.2),
        ("oldest waiting, of the TTFT promise", MUTED, _DOTTED, 1.2),
        ("refused", INK, _SOLID, 1.5),
        ("arrived", MUTED, _SOLID, 0.9),
    )
    keys = [Line2D([], [], color=colour, linestyle=style, lw=width, label=name) for name, colour, style, width in told]
    return keys + [
        Line2D([], [], color=MUTED, linestyle=dashes_of(summary, name), lw=0.9, label=f"goodput of {name}")
        for name in references
    ]


def _line(axes: Axes, curve: Mapping[str, Sequence[float]], column: str, **style: Any) -> None:
    """One line, thinned to what a screen can show: means of equal runs of windows, so that no level is invented."""
    values = np.asarray(curve.get(column, ()), dtype=float)
    if not len(values):
        return
    time_s = np.asarray(curve["time_s"], dtype=float)
    every = max(1, math.ceil(len(values) / _MOST_POINTS))
    starts = np.arange(0, len(values), every)
    counts = np.diff(np.append(starts, len(values)))
    known = np.isfinite(values)
    samples = np.add.reduceat(known.astype(float), starts)
    with np.errstate(invalid="ignore"):
        means = np.add.reduceat(np.where(known, values, 0.0), starts) / np.where(samples > 0, samples, np.nan)
    seen = np.isfinite(means)
    axes.plot((np.add.reduceat(time_s, starts) / counts)[seen], means[seen], **style)
