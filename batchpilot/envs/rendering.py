"""What `render` shows of an episode: a compact text panel, or a chart of its windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from batchpilot.core.metrics import WindowMetrics
from batchpilot.core.names import lookup
from batchpilot.envs.rendering_chart import chart

RENDER_MODES = ["ansi", "rgb_array"]

_SPARKS = "▁▂▃▄▅▆▇█"
_SPARK_WIDTH = 40
_TWICE_THE_TARGET = 2.0


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


_DRAW: dict[str, Callable[[str, Sequence[WindowMetrics]], Any]] = {"ansi": panel, "rgb_array": chart}


def _batch_sizes(windows: Sequence[WindowMetrics]) -> list[float]:
    return [window.batch_size_mean for window in windows]


def _queued(windows: Sequence[WindowMetrics]) -> list[float]:
    return [float(window.queued_tokens) for window in windows]


def _ttft(windows: Sequence[WindowMetrics]) -> list[float]:
    return [window.ttft_ms_p95 / window.ttft_target_ms for window in windows]


def _tpot(windows: Sequence[WindowMetrics]) -> list[float]:
    return [window.tpot_ms_p95 / window.tpot_target_ms for window in windows]


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
