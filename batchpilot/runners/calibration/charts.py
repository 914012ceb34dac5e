"""The charts of a calibration: where the model is off, and what it says of steps that nobody measured."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator, PercentFormatter
from numpy.typing import NDArray

from batchpilot.latency.fitting.observations import Observations
from batchpilot.latency.fitting.residuals import Floats
from batchpilot.runners.calibration.calibrating import Calibration
from batchpilot.runners.report.svg import INK, MUTED, drawing, to_svg

_PREFILL: dict[str, Any] = {"color": "#0072b2", "marker": "o", "label": "without context (prefill)"}
_DECODE: dict[str, Any] = {"color": "#d55e00", "marker": "^", "label": "with context (decode)"}
_MOST_POINTS = 2000
_LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d31", "#6b7077")


def residuals_chart(calibration: Calibration) -> str:
    """Relative residuals against the predicted step time.

    Args:
        calibration: what was found.

    Returns:
        One `<svg>` element.
    """
    observed, predicted = _thinned(calibration)
    with drawing():
        figure = Figure(figsize=(8.4, 3.6))
        axes = figure.add_subplot()
        _scatter(axes, observed, predicted, predicted / observed.latency_ms - 1)
        axes.axhline(0, color=INK, linewidth=1)
        axes.set_xscale("log")
        _plain_numbers(axes, "x")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("Predicted step time, ms")
        axes.set_ylabel("Predicted too long (above 0)\nor too short")
        axes.set_title(title := "Where is the model off, and by how much?")
        axes.legend()
        return to_svg(figure, "residuals", title)


def predicted_chart(calibration: Calibration) -> str:
    """Predicted against measured step times, with a band of 10 % around equality.

    Args:
        calibration: what was found.

    Returns:
        One `<svg>` element.
    """
    observed, predicted = _thinned(calibration)
    both = np.concatenate([observed.latency_ms, predicted])
    ends = np.array([both.min() / 1.2, both.max() * 1.2])
    with drawing():
        figure = Figure(figsize=(8.4, 4.6))
        axes = figure.add_subplot()
        axes.fill_between(ends, ends * 0.9, ends * 1.1, color=MUTED, alpha=0.18, linewidth=0, label="within 10 %")
        axes.plot(ends, ends, color=INK, linewidth=1)
        _scatter(axes, observed, observed.latency_ms, predicted)
        for name, set_scale in (("x", axes.set_xscale), ("y", axes.set_yscale)):
            set_scale("log")
            _plain_numbers(axes, name)
        axes.set_xlim(*ends)
        axes.set_ylim(*ends)
        axes.set_xlabel("Measured step time, ms")
        axes.set_ylabel("Predicted step time, ms")
        axes.set_title(title := "Does the model tell short steps as well as long ones?")
        axes.legend()
        return to_svg(figure, "predicted", title)


def steps_chart(calibration: Calibration) -> str:
    """Step time over tokens, a line for each of a few batch sizes without context, and the steps that were measured.

    Each measured step is drawn in the colour of the line whose batch size is nearest.

    Args:
        calibration: what was found.

    Returns:
        One `<svg>` element.
    """
    observed, _ = _thinned(calibration)
    sizes = _line_sizes(observed.batch_size)
    nearest = np.abs(np.log(observed.batch_size)[:, None] - np.log(sizes)).argmin(axis=1)
    context = observed.context_tokens > 0
    longest = max(float(observed.tokens.max()), 64.0)
    with drawing():
        figure = Figure(figsize=(8.4, 4.8))
        axes = figure.add_subplot()
        for place, (size, colour) in enumerate(zip(sizes, _LINES, strict=False)):
            tokens = np.geomspace(size, max(longest, 2 * size), 120)
            label = f"{size:,.0f} request{'s' if size > 1 else ''}"
            axes.plot(tokens, calibration.fit.parameters.predict(size, tokens), color=colour, lw=1.6, label=label)
            for rows, marker in ((~context, "o"), (context, "^")):
                own = rows & (nearest == place)
                axes.plot(
                    observed.tokens[own], observed.latency_ms[own], marker, color=colour, ms=4, alpha=0.6, mew=0, ls=""
                )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        for axis, values in ((axes.xaxis, observed.tokens), (axes.yaxis, observed.latency_ms)):
            axis.set_major_locator(FixedLocator(_round_ticks(float(values.min()), float(values.max()))))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.set_xlabel("Tokens in the step, S (measured: circles without context, triangles with)")
        axes.set_ylabel("Step time, ms")
        axes.set_title(title := "How long does a step take, and where was that measured?")
        axes.legend(title="Line without context, batch of")
        return to_svg(figure, "steps", title)


def _line_sizes(batch_sizes: Floats) -> Floats:
    """At most six batch sizes that were measured, evenly over their logarithm."""
    known = np.unique(batch_sizes)
    if len(known) <= len(_LINES):
        return known
    wanted = np.geomspace(known[0], known[-1], len(_LINES))
    return np.unique(known[np.abs(np.log(known)[:, None] - np.log(wanted)).argmin(axis=0)])


def _round_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten that cover a range; powers alone where that is more than nine."""
    digits: tuple[int, ...] = (1, 2, 5) if high / low < 1000 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [digit * 10.0**power for power in powers for digit in digits]


def _thinned(calibration: Calibration) -> tuple[Observations, Floats]:
    """At most so many observations as a page should hold, evenly taken, and their predictions."""
    observed = calibration.observations
    rows = np.unique(np.linspace(0, len(observed) - 1, min(len(observed), _MOST_POINTS)).astype(int))
    few = observed[rows]
    return few, calibration.fit.parameters.predict(few.batch_size, few.tokens, few.context_tokens)


def _kinds(observed: Observations) -> list[tuple[NDArray[np.bool_], dict[str, Any]]]:
    context = observed.context_tokens > 0
    return [(rows, style) for rows, style in ((~context, _PREFILL), (context, _DECODE)) if rows.any()]


def _scatter(axes: Axes, observed: Observations, across: Floats, up: Floats) -> None:
    for rows, style in _kinds(observed):
        axes.plot(across[rows], up[rows], linestyle="none", markersize=4, alpha=0.7, **style)


def _plain_numbers(axes: Axes, name: str) -> None:
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
