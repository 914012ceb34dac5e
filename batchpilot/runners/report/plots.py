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
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from batchpilot.runners.report.grids import HINDSIGHT, reference_names
from batchpilot.runners.report.profiles import performance_profile
from batchpilot.runners.report.styles import dashes_of, strategies_of, style_of
from batchpilot.runners.report.summary import OVERALL, Row
from batchpilot.runners.report.svg import INK, MUTED, drawing, to_svg

_GOODPUT = ("goodput_fraction", "goodput_fraction_low", "goodput_fraction_high")
_HIGHEST_GAIN = 9.0
"""Gains over a reference beyond this (ten times as much) stand at the edge with their figure."""


def goodput_by_strategy(summary: Sequence[Row]) -> str:
    """Lost share of the offered tokens of every strategy over all scenarios, with intervals; references as lines.

    The axis is linear below 1 % and logarithmic above, so that strategies that lose next to nothing can be told apart.

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
            value, low, high = (100 * (1 - row[name]) for name in _GOODPUT)
            _dot(axes, value, low, high, place, style_of(summary, row["tuner"]))
        for row in references:
            lost = 100 * (1 - row["goodput_fraction"])
            label = f"reference {row['tuner']} {lost:.1f} %"
            axes.axvline(lost, color=MUTED, linestyle=dashes_of(summary, row["tuner"]), label=label)
        axes.set_yticks(range(len(strategies)), [row["tuner"] for row in strategies])
        axes.set_ylim(len(strategies) - 0.4, -0.6)
        axes.set_xscale("symlog", linthresh=1.0, linscale=1.0)
        axes.set_xlim(0, 100)
        _symlog_ticks(axes, (0, 0.25, 0.5, 0.75, 1, 2, 5, 10, 20, 50, 100), "{:g} %")
        axes.set_xlabel("Lost share: offered output tokens not served within SLO (interquartile mean, 95 % interval)")
        axes.set_title(title := "Which strategy keeps its promises? Left is better")
        if references:
            figure.legend(*_legend(axes), loc="outside lower left", ncols=3)
        return to_svg(figure, "goodput", title)


def ratio_by_scenario(summary: Sequence[Row], reference: str = HINDSIGHT) -> str:
    """What every strategy gains and loses against a reference in each scenario, with intervals, zoomed around none.

    The axis is linear within 1 % and logarithmic beyond; more than ten times as much stands at the edge.

    Args:
        summary: summary rows.
        reference: the reference, the line at 0.

    Returns:
        One `<svg>` element.
    """
    scenarios = list(dict.fromkeys(row["scenario"] for row in summary if row["scenario"] != OVERALL))
    names = strategies_of(summary)
    column = f"ratio_{reference}"
    height = max(0.34, 0.13 * (len(names) + 1))
    with drawing():
        figure = Figure(figsize=(8.4, 1.9 + height * len(scenarios)))
        axes = figure.add_subplot()
        for row in summary:
            if row["tuner"] in names and row["scenario"] != OVERALL and not math.isnan(row.get(column, math.nan)):
                offset = (names.index(row["tuner"]) + 1) / (len(names) + 1) - 0.5
                value, low, high = (100 * (row[name] - 1) for name in (column, f"{column}_low", f"{column}_high"))
                place = scenarios.index(row["scenario"]) + offset
                _dot(axes, value, low, high, place, style_of(summary, row["tuner"]))
        axes.axvline(0, color=INK, linewidth=1)
        for boundary in range(1, len(scenarios)):
            axes.axhline(boundary - 0.5, color=MUTED, linewidth=0.4, alpha=0.5)
        axes.set_yticks(range(len(scenarios)), scenarios)
        axes.set_ylim(len(scenarios) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        _gain_axis(axes)
        axes.set_xlabel(f"Goodput more or less than {reference}'s (interquartile mean, 95 % interval); right is better")
        axes.set_title(title := f"Where does each strategy win or lose against {reference}?")
        figure.legend(handles=_keys(summary, names), loc="outside lower left", ncols=4)
        return to_svg(figure, "ratio", title)


def refusals_by_length(summary: Sequence[Row]) -> str:
    """Share of the longest quarter of prompts refused, beside the share of all requests, over all scenarios.

    Args:
        summary: summary rows; who refuses nobody is named below the axis.

    Returns:
        One `<svg>` element.
    """
    rows = [row for row in summary if row["scenario"] == OVERALL]
    refusing = [row for row in rows if row["refused_q4"] > 0 or row["refused_fraction"] > 0]
    others = [str(row["tuner"]) for row in rows if row not in refusing]
    with drawing():
        figure = Figure(figsize=(8.4, 1.9 + 0.34 * max(1, len(refusing))))
        axes = figure.add_subplot()
        for place, row in enumerate(refusing):
            colour = MUTED if row["is_reference"] else style_of(summary, row["tuner"])["color"]
            axes.plot([row["refused_fraction"], row["refused_q4"]], [place, place], color=colour, linewidth=2)
            axes.plot([row["refused_q4"]], [place], "o", color=colour, markersize=7, clip_on=False)
            axes.plot([row["refused_fraction"]], [place], "o", color=colour, markersize=7, mfc="none", clip_on=False)
        axes.set_yticks(range(len(refusing)), [row["tuner"] for row in refusing])
        axes.set_ylim(max(1, len(refusing)) - 0.4, -0.6)
        axes.set_xlim(0, max([0.05, *(1.05 * row["refused_q4"] for row in refusing)]))
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        none = f"\nRefused nobody: {', '.join(others)}" if others else ""
        axes.set_xlabel(f"Refused: the longest quarter of prompts (full) and all requests (hollow){none}")
        axes.set_title(title := "Who pays: how much of the longest prompts is refused?")
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
        for name in [*strategies_of(summary), *(one for one in reference_names(summary) if one != reference)]:
            profile = performance_profile(rows, name, reference, thresholds)
            if name in reference_names(summary):
                axes.plot(thresholds, profile.share, color=MUTED, linestyle=dashes_of(summary, name), label=name)
                continue
            style = style_of(summary, name)
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


def _keys(summary: Sequence[Row], names: Sequence[str]) -> list[Line2D]:
    return [Line2D([], [], linestyle="none", label=name, **style_of(summary, name)) for name in names]


def _legend(axes: Axes) -> tuple[list[Any], list[str]]:
    handles, labels = axes.get_legend_handles_labels()
    return list(handles), list(labels)


def _dot(axes: Axes, value: float, end: float, other: float, height: float, style: Mapping[str, Any]) -> None:
    """A mark at `value` with its interval, all in percent; too large a gain at the edge, with the figure beside it."""
    shown = min(value, 100 * _HIGHEST_GAIN)
    if not math.isnan(end):
        axes.plot([end, other], [height, height], color=style["color"], linewidth=2, solid_capstyle="butt")
    axes.plot([shown], [height], linestyle="none", clip_on=False, **style)
    if shown < value:
        axes.annotate(
            f"+{value:,.0f} %",
            (shown, height),
            (-7, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=8,
        )


def _gain_axis(axes: Axes) -> None:
    low, high = axes.get_xlim()
    axes.set_xscale("symlog", linthresh=1.0, linscale=1.0)
    axes.set_xlim(max(min(low, -2.0), -100.0), min(max(high, 2.0), 100 * _HIGHEST_GAIN))
    ticks = (-100, -50, -20, -10, -5, -2, -1, -0.5, 0, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 900)
    _symlog_ticks(axes, ticks, "{:+g} %")


def _symlog_ticks(axes: Axes, ticks: Sequence[float], words: str) -> None:
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "0" if value == 0 else words.format(value)))
