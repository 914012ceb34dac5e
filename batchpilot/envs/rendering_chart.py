"""The windows of an episode as an image, drawn in a few milliseconds so that a video of an episode costs little.

Pillow, which matplotlib brings, draws straight into the image. Every line is named at its end: no colour is needed to
tell them apart.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.limits import Limits
from batchpilot.core.metrics import WindowMetrics

WIDTH, HEIGHT = 900, 800
_LEFT, _RIGHT, _TOP, _PANEL, _GAP = 64, 700, 46, 150, 34
_INK, _MUTED, _RULE, _GROUND = (32, 33, 36), (110, 115, 122), (224, 227, 231), (255, 255, 255)
_COLOURS = ((0, 114, 178), (213, 94, 0), (0, 130, 95), (180, 90, 140), (150, 100, 0), (86, 120, 200))
_PEOPLE = {"batch_size": "batch size", "max_queued_tokens": "queued tokens", "step_target_ms": "step target"}
_MOST_LINES = 6

Lines = Mapping[str, Sequence[float]]


def chart(scenario: str, windows: Sequence[WindowMetrics]) -> NDArray[np.uint8]:
    """Limits that moved, promises, requests and tokens of an episode over time.

    Args:
        scenario: its name, for the heading.
        windows: the episode so far, in order.

    Returns:
        Image, shape (800, 900, 3).
    """
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (WIDTH, HEIGHT), _GROUND)
    draw = ImageDraw.Draw(image)
    time_s = [window.end_ms / 1000.0 for window in windows]
    told = f"{scenario}, {time_s[-1]:.0f} s" if windows else f"{scenario}: nothing has run yet"
    draw.text((_LEFT, 12), told, fill=_INK, font=_font(17))
    for place, (title, lines, logarithmic, level) in enumerate(_panels(windows)):
        _panel(draw, _TOP + place * (_PANEL + _GAP), title, time_s, lines, logarithmic, level)
    draw.text((_RIGHT - 110, HEIGHT - 18), "engine time, s", fill=_MUTED, font=_font(12))
    return np.asarray(image).copy()


def _panels(windows: Sequence[WindowMetrics]) -> list[tuple[str, Lines, bool, float | None]]:
    """Title, lines, whether the axis is logarithmic, and a level to draw, of each panel from the top."""

    def per_s(name: str) -> list[float]:
        return [1000.0 * getattr(one, name) / one.duration_ms if one.duration_ms > 0 else math.nan for one in windows]

    promises = {
        "TTFT p95": [one.ttft_ms_p95 / one.ttft_target_ms for one in windows],
        "TPOT p95": [one.tpot_ms_p95 / one.tpot_target_ms for one in windows],
        "longest wait": [one.oldest_wait_ms / one.ttft_target_ms for one in windows],
    }
    requests = {"arrived": per_s("arrivals"), "refused": per_s("refusals"), "completed": per_s("completions")}
    tokens = {
        "throughput": [one.throughput_tokens_per_s for one in windows],
        "goodput": [one.goodput_tokens_per_s for one in windows],
    }
    return [
        ("What moved, as a multiple of its start", _moved(windows), True, 1.0),
        ("Is the promise kept (1)?", promises, True, 1.0),
        ("Who comes, and who is refused? requests/s", requests, False, None),
        ("How much of what is generated keeps its promise? tokens/s", tokens, False, None),
    ]


def _moved(windows: Sequence[WindowMetrics]) -> Lines:
    """Every limit over its first value; those that never moved are left out, but for the batch size."""
    lines: dict[str, Sequence[float]] = {}
    for name in (one.name for one in fields(Limits) if one.name != "discipline"):
        values = np.array([_or_nan(getattr(window.limits, name)) for window in windows], dtype=float)
        known = values[np.isfinite(values) & (values > 0)]
        if len(known) and (name == "batch_size" or known.max() > known.min()):
            lines[_PEOPLE.get(name, name.replace("_", " "))] = (values / known[0]).tolist()
    return dict(list(lines.items())[:_MOST_LINES])


def _panel(
    draw: Any, top: int, title: str, time_s: Sequence[float], lines: Lines, logarithmic: bool, level: float | None
) -> None:
    bottom = top + _PANEL - 22
    draw.text((_LEFT, top - 2), title, fill=_INK, font=_font(13))
    top += 18
    scale = math.log2 if logarithmic else float
    columns = {name: _scaled(values, logarithmic) for name, values in lines.items()}
    known = np.concatenate([np.zeros(0), *(values[np.isfinite(values)] for values in columns.values())])
    low, high = _range(known, logarithmic)
    until = max(time_s[-1], 1e-3) if time_s else 1.0

    def y(value: float) -> float:
        return bottom - (min(max(value, low), high) - low) / (high - low) * (bottom - top)

    for tick in _ticks(low, high, logarithmic):
        draw.line([(_LEFT, y(scale(tick))), (_RIGHT, y(scale(tick)))], fill=_RULE)
        draw.text((_LEFT - 6, y(scale(tick))), f"{tick:,.4g}", fill=_MUTED, font=_font(11), anchor="rm")
    for tick in _ticks(0.0, until, logarithmic=False):
        across = _LEFT + tick / until * (_RIGHT - _LEFT)
        draw.line([(across, bottom), (across, bottom + 4)], fill=_MUTED)
        draw.text((across, bottom + 6), f"{tick:g}", fill=_MUTED, font=_font(11), anchor="mt")
    draw.line([(_LEFT, bottom), (_RIGHT, bottom)], fill=_MUTED)
    if level is not None:
        draw.line([(_LEFT, y(scale(level))), (_RIGHT, y(scale(level)))], fill=_INK)
    ends = []
    for (name, values), colour in zip(columns.items(), _COLOURS, strict=False):
        points = [
            (_LEFT + at / until * (_RIGHT - _LEFT), y(value)) if math.isfinite(value) else None
            for at, value in zip(time_s, values.tolist(), strict=True)
        ]
        for first, second in itertools.pairwise(points):
            if first and second:
                draw.line([first, second], fill=colour, width=2)
        last = next((point for point in reversed(points) if point), None)
        if last:
            draw.ellipse([last[0] - 2, last[1] - 2, last[0] + 2, last[1] + 2], fill=colour)
            ends.append((last[1], f"{name} {_words(_last(lines[name]))}{' x' if logarithmic else ''}", colour))
    at = float(top)
    for height, name, colour in sorted(ends):
        at = max(height, at)
        draw.text((_RIGHT + 10, at), name, fill=colour, font=_font(12), anchor="lm")
        at += 15


def _scaled(values: Sequence[float], logarithmic: bool) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=float)
    if not logarithmic:
        return array
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(array > 0, np.log2(array), np.nan)


def _range(known: NDArray[np.float64], logarithmic: bool) -> tuple[float, float]:
    """What an axis shows: at least a factor of two either side of 1, or from nothing to a little above the highest."""
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    if logarithmic:
        return max(min(low, -1.0), -7.0) - 0.1, min(max(high, 1.0), 10.0) + 0.1
    return 0.0, 1.05 * high if high > 0 else 1.0


def _ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    """Round values within a range, four to seven of them."""
    if logarithmic:
        every = max(1, math.ceil((high - low) / 4))
        return [2.0**power for power in range(math.ceil(low / every) * every, math.floor(high) + 1, every)]
    step = 10.0 ** math.floor(math.log10(high / 7))
    step *= next(factor for factor in (1, 2, 5, 10) if high / (step * factor) <= 7)
    return [step * count for count in range(math.floor(high / step) + 1)]


def _last(values: Sequence[float]) -> float:
    return next((value for value in reversed(values) if math.isfinite(value)), math.nan)


def _words(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _or_nan(limit: float | None) -> float:
    return math.nan if limit is None else float(limit)


@functools.cache
def _font(size: int) -> Any:
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)
