"""What happened to every request, window and step of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.metrics import MeasuredWindows, WindowMetrics
from batchpilot.engines.scheduler.executor import Executor
from batchpilot.engines.scheduler.state import (
    CANCELLED,
    FAILED,
    FINISH_REASONS,
    LENGTH,
    REFUSED_ARRIVAL,
    REFUSED_GUARD,
    UNFINISHED,
)
from batchpilot.workloads.table import RequestTable

_REFUSED = (REFUSED_ARRIVAL, REFUSED_GUARD)


@dataclass(frozen=True, eq=False)
class SimulationResult:
    """What happened to every request, window and step.

    Attributes:
        requests: the requests, arrival times of a closed loop filled in; columns below share its order, shape (n,).
        ttft_ms: time to first token, NaN without one.
        e2e_ms: time from arrival to the end, NaN for unfinished requests and those cancelled before they arrived.
        tpot_ms: mean time per output token after the first, NaN for fewer than two.
        generated_tokens: tokens generated.
        finish_code: index into `FINISH_REASONS`.
        slo_met: finished by length within both targets.
        windows: one `WindowMetrics` a window, its limits included.
        elapsed_ms: engine time at the end.
        computed_tokens: tokens computed, padding, recomputation and failed steps included.
        useful_tokens: tokens computed that were needed once; their ratio is the efficiency of the batching document.
        cached_tokens: prompt tokens that were found in the prefix cache when the request was let in; None where that is
            not told.
        step_log: rows of (start_ms, B, S, C, T_ms), shape (steps, 5); None unless recorded.
        tuner_seconds: wall time spent in `ask` and `tell`; the one figure that differs between equal runs.
    """

    requests: RequestTable
    ttft_ms: NDArray[np.float64]
    e2e_ms: NDArray[np.float64]
    tpot_ms: NDArray[np.float64]
    generated_tokens: NDArray[np.int64]
    finish_code: NDArray[np.int8]
    slo_met: NDArray[np.bool_]
    windows: Sequence[WindowMetrics]
    elapsed_ms: float
    computed_tokens: int
    useful_tokens: int
    cached_tokens: NDArray[np.int64] | None = field(default=None, repr=False)
    step_log: NDArray[np.float64] | None = field(default=None, repr=False)
    tuner_seconds: float = 0.0

    def __repr__(self) -> str:
        """A summary in a line; `batchpilot simulate` tells more."""
        p50, p95 = ({name: self.percentile_ms(f"{name}_ms", q) for name in ("ttft", "tpot")} for q in (50, 95))
        times = ", ".join(f"{name.upper()} p50 {p50[name]:,.0f} p95 {p95[name]:,.0f} ms" for name in p50)
        return (
            f"<SimulationResult: {len(self.requests):,} requests in {self.elapsed_ms / 1000:,.1f} s, "
            f"{self.goodput_fraction:.1%} of the output tokens within the promise, {self.refused_fraction:.1%} of the "
            f"requests refused; {times}>"
        )

    @cached_property
    def finish_reason(self) -> list[str]:
        """How each request ended: length, refused_on_arrival, refused_by_guard, failed, cancelled or unfinished."""
        return [FINISH_REASONS[code] for code in self.finish_code]

    def count(self, reason: str) -> int:
        """Requests that ended for a reason.

        Args:
            reason: one of `FINISH_REASONS`.

        Raises:
            ValueError: no such reason.
        """
        if reason not in FINISH_REASONS:
            raise ValueError(f"unknown finish reason {reason!r} (known: {', '.join(FINISH_REASONS)})")
        return int(np.count_nonzero(self.finish_code == FINISH_REASONS.index(reason)))

    @property
    def total_generated_tokens(self) -> int:
        """Tokens generated for all requests."""
        return int(self.generated_tokens.sum())

    @property
    def prefix_hit_rate(self) -> float:
        """Share of the prompt tokens let in that were found in the prefix cache; NaN when nobody was let in."""
        prompts = self._total("admitted_prompt_tokens")
        return self._total("cached_prompt_tokens") / prompts if prompts else math.nan

    @property
    def image_hit_rate(self) -> float:
        """Share of the images let in that need not be encoded; NaN when none was let in."""
        images = self._total("images")
        return self._total("image_hits") / images if images else math.nan

    @property
    def encode_ms(self) -> float:
        """Time spent on encoding images."""
        return self._total("encode_ms")

    @property
    def accepted_length(self) -> float:
        """Mean tokens that a verified draft gave, the one after the accepted ones included; NaN without drafts."""
        drafts = self._total("drafts")
        return 1.0 + self._total("accepted_tokens") / drafts if drafts else math.nan

    @property
    def goodput_tokens_per_s(self) -> float:
        """Output tokens per second of the requests that met their SLO, over the elapsed time."""
        return self._per_s(float(self.generated_tokens[self.slo_met].sum()))

    @property
    def goodput_fraction(self) -> float:
        """Share of the offered output tokens that was served within SLO, cancelled requests aside; NaN without any."""
        offered = float(self.requests.output_tokens[self._wanted].sum())
        return float(self.generated_tokens[self.slo_met].sum()) / offered if offered else math.nan

    @property
    def throughput_tokens_per_s(self) -> float:
        """Generated tokens per second over the elapsed time."""
        return self._per_s(float(self.total_generated_tokens))

    @property
    def slo_attainment(self) -> float:
        """Share of all requests that met their SLO, cancelled ones aside; NaN without requests."""
        met = self.slo_met[self._wanted]
        return float(met.mean()) if len(met) else math.nan

    @property
    def success_rate(self) -> float:
        """Finished requests over those that finished, were refused or failed; NaN when none ended."""
        ended = self._judged
        return self.count("length") / ended if ended else math.nan

    @property
    def refused_fraction(self) -> float:
        """Refused requests over all, cancelled ones aside; NaN without requests."""
        wanted = self.finish_code[self._wanted]
        return float(np.isin(wanted, _REFUSED).mean()) if len(wanted) else math.nan

    @property
    def failure_rate(self) -> float:
        """Failed requests over those that finished, were refused or failed; NaN when none ended."""
        ended = self._judged
        return float(np.count_nonzero(self.finish_code == FAILED)) / ended if ended else math.nan

    @property
    def utilisation(self) -> float:
        """Share of the elapsed time within steps."""
        return self._total("busy_ms") / self.elapsed_ms if self.elapsed_ms > 0 else 0.0

    @property
    def efficiency(self) -> float:
        """Useful over computed tokens: 1 without padding or recomputation; NaN when nothing ran."""
        return self.useful_tokens / self.computed_tokens if self.computed_tokens else math.nan

    @property
    def preemptions(self) -> int:
        """Running requests that were put back into the queue."""
        return int(self._total("preemptions"))

    @property
    def disciplines(self) -> tuple[str, ...]:
        """The disciplines that limits asked for, in order of first use; none where the scheduler's own was in force."""
        windows = self.windows[:1] if isinstance(self.windows, MeasuredWindows) else self.windows
        return tuple(dict.fromkeys(window.limits.discipline for window in windows if window.limits.discipline))

    def percentile_ms(self, column: str, q: float) -> float:
        """A percentile of a latency column over those served; of TTFT over all with a first token that did not fail.

        A refusal is quick: counted with the served, it would make overload look fast.

        Args:
            column: "ttft_ms", "tpot_ms" or "e2e_ms".
            q: percentile, 0-100.

        Returns:
            It in ms; NaN when no request counts.
        """
        values: NDArray[np.float64] = getattr(self, column)
        served = self.finish_code != FAILED if column == "ttft_ms" else self.finish_code == LENGTH
        return _percentile(values[served], q)

    def refusal_ms(self, q: float) -> float:
        """A percentile of the time from arrival until a client was told that it is refused, in ms; NaN without any.

        Args:
            q: percentile, 0-100.
        """
        return _percentile(self.e2e_ms[np.isin(self.finish_code, _REFUSED)], q)

    def failure_ms(self, q: float) -> float:
        """A percentile of the time from arrival until a request failed, in ms; NaN without any.

        Args:
            q: percentile, 0-100.
        """
        return _percentile(self.e2e_ms[self.finish_code == FAILED], q)

    def refused_by_prompt_quartile(self) -> NDArray[np.float64]:
        """Share of requests refused in each quartile of prompt length, shortest first, shape (4,); NaN where empty."""
        refused = np.isin(self.finish_code, _REFUSED)
        if len(refused) == 0:
            return np.full(4, math.nan)
        edges = np.quantile(self.requests.prompt_tokens, (0.25, 0.5, 0.75))
        quartile = np.searchsorted(edges, self.requests.prompt_tokens)
        return np.array([refused[quartile == k].mean() if np.any(quartile == k) else math.nan for k in range(4)])

    @property
    def refused_worst_quarter(self) -> float:
        """The largest share of `refused_by_prompt_quartile`, NaN without requests."""
        shares = self.refused_by_prompt_quartile()
        return float(np.nanmax(shares)) if np.isfinite(shares).any() else math.nan

    def _total(self, name: str) -> float:
        windows = self.windows
        if isinstance(windows, MeasuredWindows):
            return windows.total(name)
        return float(sum(getattr(window, name) for window in windows))

    @property
    def _wanted(self) -> NDArray[np.bool_]:
        """Requests whose client stayed: a cancelled one was neither served nor missed."""
        wanted: NDArray[np.bool_] = self.finish_code != CANCELLED
        return wanted

    @property
    def _judged(self) -> int:
        return int(np.count_nonzero(self._wanted & (self.finish_code != UNFINISHED)))

    def _per_s(self, tokens: float) -> float:
        return 1000.0 * tokens / self.elapsed_ms if self.elapsed_ms > 0 else 0.0


def image_figures(result: SimulationResult) -> dict[str, float]:
    """What images cost, for tables: the share that was found encoded, and encoding's share of the elapsed time.

    Args:
        result: of a run.

    Returns:
        Nothing where the requests held none.
    """
    if result.requests.images is None:
        return {}
    share = result.encode_ms / result.elapsed_ms if result.elapsed_ms > 0 else 0.0
    return {"image_hit_rate": result.image_hit_rate, "encoding_fraction": share}


def _percentile(values: NDArray[np.float64], q: float) -> float:
    known = values[np.isfinite(values)]
    return float(np.percentile(known, q)) if len(known) else math.nan


def collect(engine: Executor, windows: Sequence[WindowMetrics], tuner_seconds: float) -> SimulationResult:
    """Read the result out of an engine's state.

    Args:
        engine: that has run.
        windows: that it ran.
        tuner_seconds: spent in `ask` and `tell`.
    """
    s = engine.state
    n = len(engine.requests)
    requests = engine.requests
    columns = np.asarray(s.requests)[:n]
    if requests.turns is not None:
        requests = requests.with_arrivals(columns["arrival_ms"].copy())
    elif requests.concurrency:
        arrived = int(s.clock[0].next_arrival)
        arrival = np.where(np.arange(n) < arrived, columns["arrival_ms"], math.nan)
        requests = requests.with_arrivals(arrival)
    ttft = columns["first_ms"] - requests.arrival_ms
    generated = columns["generated"].copy()
    reason = columns["reason"].copy()
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot = np.where(generated > 1, (columns["finish_ms"] - columns["first_ms"]) / (generated - 1), math.nan)
    in_time = (ttft <= requests.ttft_target_ms) & ((generated < 2) | (tpot <= requests.tpot_target_ms))
    return SimulationResult(
        requests=requests,
        ttft_ms=ttft,
        e2e_ms=columns["finish_ms"] - columns["arrival_ms"],
        tpot_ms=tpot,
        generated_tokens=generated,
        cached_tokens=np.where(columns["admitted"] > 0, columns["cached"], 0).astype(np.int64),
        finish_code=reason,
        slo_met=(reason == LENGTH) & in_time,
        windows=windows,
        elapsed_ms=engine.now_ms,
        computed_tokens=int(s.clock[0].computed_tokens),
        useful_tokens=int(s.clock[0].useful_tokens),
        step_log=engine.step_log() if s.step_log.size else None,
        tuner_seconds=tuner_seconds,
    )
