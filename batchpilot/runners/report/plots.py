"""The report's charts as inline SVG: each answers the question in its title, and all can be read in grey.

Strategies differ by marker and line style as well as by colour; references are drawn as lines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator, PercentFormatter

from batchpilot.runners.report.grids import HINDSIGHT, reference_names
from batchpilot.runners.report.profiles import performance_profile
from batchpilot.runners.report.summary import OVERALL, Row
from batchpilot.runners.report.svg import INK, MUTED, drawing, to_svg

Curves = Mapping[tuple[str, str], Mapping[str, Sequence[float]]]
"""What each strategy did over time, by (scenario, strategy) and then by column."""

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ((0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)), (0, (9, 3)), (0, (3, 1, 1, 1, 1, 1)))
_LOWEST_RATIO, _HIGHEST_RATIO = 0.1, 10.0
_MOST_POINTS = 240
_PANELS = (
    ("batch_size", "Batch size, requests"),
    ("queue", "Queue, requests"),
    ("goodput_tokens_per_s", "Goodput, tokens/s"),
)


def goodput_by_strategy(summary: Sequence[Row]) -> str:
    """Goodput share of every strategy over all scenarios, with intervals; references as lines.

    Args:
        summary: summary rows.

    Returns:
        One `<svg>` element.
    """
    overall = [row for row in summary if row["scenario"] == OVERALL and not math.isnan(row["goodput_fraction"])]
    strategies = [row for row in overall if not row["is_reference"]]
    references = [row for row in overall if row["is_reference"]]
    with drawing():
        figure = Figure(figsize=(8.4, 1.9 + 0.36 * len(strategies)))
        axes = figure.add_subplot()
        for place, row in enumerate(strategies):
            _dot(axes, row, "goodput_fraction", place, _style(summary, row["tuner"]))
        for row in references:
            dashes = _dashes(summary, row["tuner"])
            value = row["goodput_fraction"]
            axes.axvline(value, color=MUTED, linestyle=dashes, label=f"reference {row['tuner']} {value:.3f}")
        axes.set_yticks(range(len(strategies)), [row["tuner"] for row in strategies])
        axes.set_ylim(len(strategies) - 0.4, -0.6)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("Goodput share: offered output tokens served within SLO (interquartile mean, 95 % interval)")
        axes.set_title(title := "Which strategy keeps its promises?")
        if references:
            figure.legend(*_legend(axes), loc="outside lower left", ncols=3)
        return to_svg(figure, "goodput", title)


def ratio_by_scenario(summary: Sequence[Row], reference: str = HINDSIGHT) -> str:
    """Ratio of every strategy's goodput to a reference's in each scenario, with intervals, on a logarithmic axis.

    Ratios below 0.1 or above 10, zero among them, stand at the edge with their value beside them.

    Args:
        summary: summary rows.
        reference: the reference, the line at 1.

    Returns:
        One `<svg>` element.
    """
    scenarios = list(dict.fromkeys(row["scenario"] for row in summary if row["scenario"] != OVERALL))
    names = _strategies(summary)
    column = f"ratio_{reference}"
    height = max(0.34, 0.13 * (len(names) + 1))
    with drawing():
        figure = Figure(figsize=(8.4, 1.9 + height * len(scenarios)))
        axes = figure.add_subplot()
        for row in summary:
            if row["tuner"] in names and row["scenario"] != OVERALL and not math.isnan(row.get(column, math.nan)):
                offset = (names.index(row["tuner"]) + 1) / (len(names) + 1) - 0.5
                _dot(axes, row, column, scenarios.index(row["scenario"]) + offset, _style(summary, row["tuner"]))
        axes.axvline(1, color=INK, linewidth=1)
        for boundary in range(1, len(scenarios)):
            axes.axhline(boundary - 0.5, color=MUTED, linewidth=0.4, alpha=0.5)
        axes.set_yticks(range(len(scenarios)), scenarios)
        axes.set_ylim(len(scenarios) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        _ratio_axis(axes)
        axes.set_xlabel(f"Goodput ÷ {reference} (interquartile mean, 95 % interval); right of 1 is better")
        axes.set_title(title := f"Where does each strategy beat {reference}?")
        figure.legend(handles=_keys(summary, names), loc="outside lower left", ncols=4)
        return to_svg(figure, "ratio", title)


def over_time(curves: Curves, scenario: str, summary: Sequence[Row]) -> str:
    """Batch size, queue and goodput over time in one scenario: a row of panels for each strategy, references dashed.

    Args:
        curves: by (scenario, strategy).
        scenario: which scenario.
        summary: summary rows, which say what is a reference.

    Returns:
        One `<svg>` element.
    """
    ran = {tuner for place, tuner in curves if place == scenario}
    references = [name for name in reference_names(summary) if name in ran]
    names = [name for name in _strategies(summary) if name in ran] or references
    with drawing():
        figure = Figure(figsize=(10.5, 1.3 + 1.35 * len(names)))
        panels = figure.subplots(len(names), len(_PANELS), sharex=True, sharey="col", squeeze=False)
        for line, name in zip(panels, names, strict=True):
            for axes, (column, _) in zip(line, _PANELS, strict=True):
                for other in references:
                    dashes = _dashes(summary, other)
                    _curve(axes, curves[scenario, other], column, color=MUTED, linestyle=dashes, lw=0.9)
                if name not in references:
                    _curve(axes, curves[scenario, name], column, color=_style(summary, name)["color"], lw=1.5)
            line[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=12)
        for axes, (_, heading) in zip(panels[0], _PANELS, strict=True):
            axes.set_title(heading, fontsize=10, fontweight="normal")
        for axes in panels[-1]:
            axes.set_xlabel("Engine time, s")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        _size_axis(panels[0][0])
        panels[0][1].set_yscale("symlog", linthresh=1)
        panels[0][1].set_ylim(bottom=0)
        panels[0][1].yaxis.set_major_locator(FixedLocator([0, 1, 10, 100, 1000, 10_000, 100_000]))
        panels[0][1].yaxis.set_minor_locator(NullLocator())
        panels[0][1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        panels[0][2].set_ylim(bottom=0)
        figure.suptitle(title := f"What does each strategy do over time? {scenario}", x=0.01, ha="left")
        handles = [Line2D([], [], color=INK, lw=1.5, label="the strategy named at the left")]
        handles += [
            Line2D([], [], color=MUTED, linestyle=_dashes(summary, name), lw=0.9, label=name) for name in references
        ]
        figure.legend(handles=handles, loc="outside lower left", ncols=len(handles))
        return to_svg(figure, f"time-{scenario}", title)


def refusals_by_quartile(summary: Sequence[Row]) -> str:
    """Share of requests refused in each quarter of prompt length, over all scenarios, one line a strategy.

    Args:
        summary: summary rows.

    Returns:
        One `<svg>` element.
    """
    quarters = ("shortest quarter", "second", "third", "longest quarter")
    rows = [row for row in summary if row["scenario"] == OVERALL]
    with drawing():
        figure = Figure(figsize=(8.4, 3.4))
        axes = figure.add_subplot()
        for row in rows:
            shares = [row[f"refused_q{quarter}"] for quarter in (1, 2, 3, 4)]
            if row["is_reference"]:
                axes.plot(quarters, shares, color=MUTED, linestyle=_dashes(summary, row["tuner"]), label=row["tuner"])
            else:
                axes.plot(quarters, shares, **_style(summary, row["tuner"]), label=row["tuner"])
        axes.set_ylim(0, max(0.05, axes.get_ylim()[1]))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_ylabel("Requests refused")
        axes.set_xlabel("Requests by prompt length")
        axes.set_title(title := "Who is refused: short prompts or long ones?")
        figure.legend(*_legend(axes), loc="outside lower left", ncols=4)
        return to_svg(figure, "refusals", title)


def profiles(rows: Sequence[Row], summary: Sequence[Row], reference: str = HINDSIGHT) -> str:
    """In how many runs each strategy reaches a given ratio to a reference, with bands; other references dashed.

    Args:
        rows: result rows.
        summary: summary rows, which say what is a reference.
        reference: what a ratio of 1 means.

    Returns:
        One `<svg>` element.
    """
    thresholds = np.linspace(0.0, 1.1, 111)
    with drawing():
        figure = Figure(figsize=(8.4, 4.4))
        axes = figure.add_subplot()
        for name in [*_strategies(summary), *(one for one in reference_names(summary) if one != reference)]:
            profile = performance_profile(rows, name, reference, thresholds)
            if name in reference_names(summary):
                axes.plot(thresholds, profile.share, color=MUTED, linestyle=_dashes(summary, name), label=name)
                continue
            style = _style(summary, name)
            axes.fill_between(thresholds, profile.low, profile.high, color=style["color"], alpha=0.15, linewidth=0)
            axes.plot(thresholds, profile.share, **style, markevery=10, label=name)
        axes.axvline(1, color=INK, linewidth=1)
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlabel(f"Goodput ÷ {reference} at least (bands: pointwise 95 % intervals)")
        axes.set_ylabel("Runs")
        axes.set_title(title := f"In how many runs does each strategy come how near {reference}?")
        figure.legend(*_legend(axes), loc="outside lower left", ncols=4)
        return to_svg(figure, "profiles", title)


def _strategies(summary: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["tuner"] for row in summary if not row["is_reference"]))


def _style(summary: Sequence[Row], name: str) -> dict[str, Any]:
    """Colour, marker and line of a strategy: the same in every chart of a report."""
    place = sorted(_strategies(summary)).index(name)
    return {"color": _COLOURS[place % len(_COLOURS)], "marker": _MARKERS[place % len(_MARKERS)], "markersize": 6}


def _dashes(summary: Sequence[Row], reference: str) -> tuple[int, tuple[float, ...]]:
    return _DASHES[reference_names(summary).index(reference) % len(_DASHES)]


def _keys(summary: Sequence[Row], names: Sequence[str]) -> list[Line2D]:
    return [Line2D([], [], linestyle="none", label=name, **_style(summary, name)) for name in names]


def _legend(axes: Axes) -> tuple[list[Any], list[str]]:
    handles, labels = axes.get_legend_handles_labels()
    return list(handles), list(labels)


def _dot(axes: Axes, row: Row, column: str, height: float, style: Mapping[str, Any]) -> None:
    value, low, high = (row[name] for name in (column, f"{column}_low", f"{column}_high"))
    shown = value if column == "goodput_fraction" else float(np.clip(value, _LOWEST_RATIO, _HIGHEST_RATIO))
    if not math.isnan(low):
        axes.plot([low, high], [height, height], color=style["color"], linewidth=2, solid_capstyle="butt")
    axes.plot([shown], [height], linestyle="none", clip_on=False, **style)
    if shown != value:
        side, align = (7, "left") if shown > value else (-7, "right")
        axes.annotate(
            f"{value:.2f}", (shown, height), (side, 0), textcoords="offset points", ha=align, va="center", fontsize=8
        )


def _ratio_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(max(min(low, 0.8), _LOWEST_RATIO), min(max(high, 1.25), _HIGHEST_RATIO))
    axes.xaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 0.8, 1, 1.25, 2, 5, 10]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _size_axis(axes: Axes) -> None:
    axes.set_yscale("log", base=2)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0.5), high)
    axes.yaxis.set_major_locator(FixedLocator([1, 4, 16, 64, 256, 1024]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _curve(axes: Axes, curve: Mapping[str, Sequence[float]], column: str, **style: Any) -> None:
    """One line, thinned to what a screen can show: means of equal runs of windows, so that no level is invented."""
    time_s, values = np.asarray(curve["time_s"], dtype=float), np.asarray(curve[column], dtype=float)
    every = max(1, math.ceil(len(values) / _MOST_POINTS))
    starts = np.arange(0, len(values), every)
    if len(starts):
        counts = np.diff(np.append(starts, len(values)))
        time_s, values = (np.add.reduceat(array, starts) / counts for array in (time_s, values))
    axes.plot(time_s, values, **style)
