"""The charts of a calibration: where the model is off, and what it says of steps that nobody measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from batchpilot.latency.fitting.observations import Observations
from batchpilot.latency.fitting.residuals import Floats
from batchpilot.runners.calibration.calibrating import Calibration
from batchpilot.runners.report.svg import INK, MUTED, drawing, to_svg

_PREFILL: dict[str, Any] = {"color": "#0072b2", "marker": "o", "label": "without context (prefill)"}
_DECODE: dict[str, Any] = {"color": "#d55e00", "marker": "^", "label": "with context (decode)"}
_MOST_POINTS = 2000
_ROUND_MS = tuple(digit * 10.0**power for power in range(-1, 5) for digit in (1, 2, 5))


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


def surface_chart(calibration: Calibration) -> str:
    """Lines of equal predicted step time over requests and tokens without context, and the steps that were measured.

    Args:
        calibration: what was found.

    Returns:
        One `<svg>` element.
    """
    observed = calibration.observations
    widest, longest = max(float(observed.batch_size.max()), 8.0), max(float(observed.tokens.max()), 64.0)
    requests, tokens = np.geomspace(1, widest, 60), np.geomspace(1, longest, 90)
    latency_ms = calibration.fit.parameters.predict(requests, tokens[:, None])
    possible = np.ma.masked_array(latency_ms, tokens[:, None] < requests)
    levels = [level for level in _ROUND_MS if possible.min() < level < possible.max()]
    with drawing():
        figure = Figure(figsize=(8.4, 4.6))
        axes = figure.add_subplot()
        if levels:
            axes.contour(requests, tokens, possible, levels=levels, colors=INK, linewidths=0.9)
        decode_ms = calibration.fit.parameters.predict(requests, requests)
        for level in levels:
            # Named where they end: labels within the lines tear them apart on logarithmic axes.
            across, up = widest, _where(level, latency_ms[:, -1], tokens)
            if not up >= widest:
                across = up = _where(level, decode_ms, requests)
            if np.isfinite(up):
                axes.annotate(f"{level:g} ms", (across, up), (4, -3), textcoords="offset points", fontsize=8)
        diagonal = [1, min(widest, longest)]
        axes.plot(diagonal, diagonal, color=MUTED, linewidth=0.8, linestyle=":")
        for rows, style in _kinds(observed):
            axes.plot(
                observed.batch_size[rows], observed.tokens[rows], linestyle="none", markersize=5, clip_on=False, **style
            )
        for name, set_scale in (("x", axes.set_xscale), ("y", axes.set_yscale)):
            set_scale("log", base=2)
            _plain_numbers(axes, name)
        axes.set_xlabel("Requests in the step, B (dotted: one token each)")
        axes.set_ylabel("Tokens in the step, S")
        axes.set_title(title := "How long does a step take, and where was that measured?")
        axes.legend(loc="lower right")
        return to_svg(figure, "surface", title)


def _where(level: float, latency_ms: Floats, along: Floats) -> float:
    """Where a latency is reached along an axis, NaN where it is not."""
    return float(np.interp(level, latency_ms, along, left=np.nan, right=np.nan))


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
