"""What `render` shows of an episode: a compact text panel, or a chart of its windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.metrics import WindowMetrics
from batchpilot.core.names import lookup

RENDER_MODES = ["ansi", "rgb_array"]

_SPARKS = "▁▂▃▄▅▆▇█"
_SPARK_WIDTH = 40
_TWICE_THE_TARGET = 2.0
_SIZE_INCHES, _DPI = (9.0, 8.0), 100


class History:
    """The windows of an episode, and how they are shown.

    Args:
        render_mode: one of `RENDER_MODES`.

    Raises:
        ValueError: an unknown mode.
    """

    def __init__(self, render_mode: str) -> None:
        self._draw: Callable[[str, Sequence[WindowMetrics]], Any] = lookup(_DRAW, render_mode, "render mode")
        self.begin("")

    def begin(self, scenario: str) -> None:
        """Forget the last episode.

        Args:
            scenario: name of the new one's.
        """
        self._scenario = scenario
        self._windows: list[WindowMetrics] = []

    def add(self, window: WindowMetrics) -> None:
        """Remember a window.

        Args:
            window: the last one.
        """
        self._windows.append(window)

    def render(self) -> Any:
        """The panel as a string, or the chart as an image."""
        return self._draw(self._scenario, self._windows)


def panel(scenario: str, windows: Sequence[WindowMetrics]) -> str:
    """A text panel of the last window and sparklines of the last ones.

    Args:
        scenario: its name, for the heading.
        windows: the episode so far, in order.
    """
    if not windows:
        return f"{scenario}: nothing has run yet\n"
    last = windows[-1]
    attainment = "-" if math.isnan(last.slo_attainment) else f"{last.slo_attainment:.0%}"
    goodput = [window.goodput_tokens_per_s for window in windows]
    curves = (
        (f"batch    {last.batch_size_mean:9.1f} mean, {last.running} running", _spark(_batch_sizes(windows))),
        (f"queue    {last.queue:9d} waiting, {last.queued_tokens} tokens", _spark(_queued(windows))),
        (f"TTFT p95 {_ms(last.ttft_ms_p95)} of {_ms(last.ttft_target_ms)}", _spark(_ttft(windows), _TWICE_THE_TARGET)),
        (f"TPOT p95 {_ms(last.tpot_ms_p95)} of {_ms(last.tpot_target_ms)}", _spark(_tpot(windows), _TWICE_THE_TARGET)),
        (f"goodput  {last.goodput_tokens_per_s:9.0f} tokens/s, SLO met {attainment}", _spark(goodput)),
    )
    lines = [
        f"{scenario}  t = {last.end_ms / 1000:.1f} s  window {last.duration_ms:.0f} ms",
        f"limits   {_limits(last)}",
        *(f"{text:<48} {spark}" for text, spark in curves),
        f"engine   {last.utilisation:9.0%} busy, {last.kv_used_fraction:.0%} KV, "
        f"{last.refusals} refused, {last.preemptions} preempted, {last.failures} failed steps",
    ]
    return "\n".join(lines) + "\n"


def chart(scenario: str, windows: Sequence[WindowMetrics]) -> NDArray[np.uint8]:
    """A chart of limits, queue, goodput and latency over time; lines differ in dash and grey, not in hue alone.

    Args:
        scenario: its name, for the heading.
        windows: the episode so far, in order.

    Returns:
        Image, shape (800, 900, 3).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    limits, queue, goodput, latency = figure.subplots(4, 1, sharex=True)
    figure.suptitle(scenario)
    _draw_limits(limits, windows)
    _draw_queue(queue, windows)
    _draw_goodput(goodput, windows)
    _draw_latency(latency, windows)
    latency.set_xlabel("engine time (s)")
    for axes in (limits, queue, goodput, latency):
        axes.grid(color="0.9")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
        axes.margins(x=0.01)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


_DRAW: dict[str, Callable[[str, Sequence[WindowMetrics]], Any]] = {"ansi": panel, "rgb_array": chart}


def _draw_limits(axes: Any, windows: Sequence[WindowMetrics]) -> None:
    time = _seconds(windows)
    axes.set_title("Does the batch limit hold the server back?", fontsize=9)
    axes.step(time, [window.limits.batch_size for window in windows], where="pre", color="black", label="batch size")
    axes.plot(time, _batch_sizes(windows), color="0.5", linestyle="--", label="mean batch")
    axes.plot(time, [window.running for window in windows], color="0.7", linestyle=":", label="running")
    axes.set_yscale("symlog", base=2, linthresh=1)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("requests")


def _draw_queue(axes: Any, windows: Sequence[WindowMetrics]) -> None:
    from matplotlib.ticker import EngFormatter

    time = _seconds(windows)
    limit = [_or_nan(window.limits.max_queued_tokens) for window in windows]
    axes.set_title("How much waits, and how much may?", fontsize=9)
    axes.fill_between(time, _queued(windows), color="0.8", label="queued tokens")
    axes.step(time, limit, where="pre", color="black", label="limit (gap: off)")
    axes.step(
        time,
        [_or_nan(window.limits.token_budget) for window in windows],
        where="pre",
        color="0.4",
        linestyle="--",
        label="token budget",
    )
    axes.set_yscale("symlog", linthresh=100)
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_ylabel("tokens")


def _draw_goodput(axes: Any, windows: Sequence[WindowMetrics]) -> None:
    time = _seconds(windows)
    axes.set_title("How much of what is generated keeps its promise?", fontsize=9)
    throughput = [window.throughput_tokens_per_s for window in windows]
    axes.plot(time, throughput, color="0.6", linestyle="--", label="throughput")
    axes.plot(time, [window.goodput_tokens_per_s for window in windows], color="black", label="goodput")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("tokens/s")


def _draw_latency(axes: Any, windows: Sequence[WindowMetrics]) -> None:
    time = _seconds(windows)
    axes.set_title("Is latency within the promise (1)?", fontsize=9)
    axes.axhline(1.0, color="0.5", linewidth=0.8)
    axes.plot(time, _ttft(windows), color="black", label="TTFT p95 / target")
    axes.plot(time, _tpot(windows), color="0.5", linestyle="--", label="TPOT p95 / target")
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("share of target")


def _seconds(windows: Sequence[WindowMetrics]) -> list[float]:
    return [window.end_ms / 1000.0 for window in windows]


def _batch_sizes(windows: Sequence[WindowMetrics]) -> list[float]:
    return [window.batch_size_mean for window in windows]


def _queued(windows: Sequence[WindowMetrics]) -> list[float]:
    return [float(window.queued_tokens) for window in windows]


def _ttft(windows: Sequence[WindowMetrics]) -> list[float]:
    return [window.ttft_ms_p95 / window.ttft_target_ms for window in windows]


def _tpot(windows: Sequence[WindowMetrics]) -> list[float]:
    return [window.tpot_ms_p95 / window.tpot_target_ms for window in windows]


def _or_nan(limit: int | None) -> float:
    return math.nan if limit is None else float(limit)


def _ms(value: float) -> str:
    return "        - ms" if math.isnan(value) else f"{value:9.0f} ms"


def _limits(window: WindowMetrics) -> str:
    """The limits in force, those that are off left out."""
    named = window.limits.in_force()
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in named.items()
    )


def _spark(values: Sequence[float], top: float | None = None) -> str:
    """The last values as bars from 0 to `top`, or to the largest of them; a blank where there is none."""
    shown = values[-_SPARK_WIDTH:]
    highest = max((value for value in shown if math.isfinite(value)), default=0.0) if top is None else top
    return "".join(_bar(value, highest) for value in shown)


def _bar(value: float, top: float) -> str:
    if math.isnan(value):
        return " "
    if value >= top > 0:
        return _SPARKS[-1]
    return _SPARKS[int(value / top * len(_SPARKS)) if value > 0 else 0]
