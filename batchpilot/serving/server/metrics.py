"""Prometheus metrics: vLLM's names where they mean the same, the tuner's beside them. Times in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from batchpilot.core import WindowMetrics
from batchpilot.fleet.scalers import DESIRED_METRIC
from batchpilot.serving.server.desired import DesiredServers

if TYPE_CHECKING:
    from batchpilot.engines.torch.telemetry import Reading
    from batchpilot.serving.rollout.control import TunerControl
    from batchpilot.serving.server.gauges import Gauges
    from batchpilot.serving.server.generation import Generation
    from batchpilot.serving.session.session import TunerSession

UNSERVED = (
    "refused_on_arrival",
    "refused_by_guard",
    "cancelled",
    "failed",
    "invalid",
    "engine_error",
    "shutting_down",
)
"""Why a request is not served, as `Piece.finished` says it."""

_NEITHER = ("cancelled", "invalid")
"""What neither met nor missed a promise."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# fmt: off
# vLLM's edges, so that quantiles compare; finer ones below, for small models; the TTFT promise of 2 s, which it lacks.
_TTFT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
           80.0, 160.0, 640.0, 2560.0)
_TPOT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
           10.0, 20.0, 40.0, 80.0)
_REQUEST_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0,
              240.0, 480.0, 960.0, 1920.0, 7680.0)
_TOKENS = tuple(digit * 10**power for power in range(6) for digit in (1, 2, 5))
# fmt: on
_SCORES = tuple(k / 10 for k in range(11))
_STEP_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


_LATENCY = {
    "latency_mean_error": "Mean relative error of what is learned of step latency.",
    "latency_p95_error": "Its 95th percentile.",
    "latency_drift_rate": "Share of the last drift tests that found a change.",
    "latency_failure_rate": "Share of the last updates without a usable candidate.",
    "latency_healthy": "1 while error, drift rate and failure rate are below 0.15, 0.1 and 0.05.",
    "latency_observations_per_update": "Steps heard for each update.",
    "latency_prediction_spread": "Std over mean of predictions by the latest updates, while the engine stands still.",
}
"""Fields of a tuner's status that are told where it learns step latency."""


class ServerMetrics:
    """What the engine loop counts.

    Attributes:
        registry: to which more may be added.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def histogram(name: str, help_: str, buckets: Iterable[float]) -> Histogram:
            return Histogram(f"batchpilot:{name}", help_, buckets=tuple(buckets), registry=self.registry)

        def counter(name: str, help_: str, label: str = "", values: Iterable[str] = ()) -> Counter:
            made = Counter(f"batchpilot:{name}", help_, (label,) if label else (), registry=self.registry)
            for value in values:
                made.labels(value)  # told as 0 from the start, or the first increase would be lost to rate()
            return made

        ProcessCollector(registry=self.registry)
        self._ttft = histogram("time_to_first_token_seconds", "Time to first token, from arrival.", _TTFT_S)
        self._tpot = histogram(
            "request_time_per_output_token_seconds", "A served request's mean time per token after the first.", _TPOT_S
        )
        self._e2e = histogram(
            "e2e_request_latency_seconds", "From arrival to the last token of served requests.", _REQUEST_S
        )
        self._prompts = histogram("request_prompt_tokens", "Prompt tokens of served requests.", _TOKENS)
        self._outputs = histogram("request_generation_tokens", "Generated tokens of served requests.", _TOKENS)
        self._quality = histogram("quality_score", "Scores of answers, as clients gave them.", _SCORES)
        self._step = histogram("step_seconds", "Time of an engine step.", _STEP_SECONDS)
        self._prompt = counter("prompt_tokens", "Prompt tokens of requests that got a token.")
        self._generated = counter("generation_tokens", "Generated tokens.")
        self._success = counter(
            "request_success", "Served requests by why they ended.", "finished_reason", ("stop", "length")
        )
        self._unserved = counter("request_unserved", "Requests that were not served, by why.", "reason", UNSERVED)
        self._slo = counter(
            "request_slo",
            "Requests that were served, refused or failed, by whether they met their SLO.",
            "met",
            ("yes", "no"),
        )
        self._queries = counter("prefix_cache_queries", "Prompt tokens of requests that were let in.")
        self._hits = counter("prefix_cache_hits", "Of these, tokens found in the prefix cache.")
        self._images = counter("images", "Images of requests that were let in.")
        self._image_hits = counter("image_hits", "Of these, images whose features were kept.")
        self._drafts = counter("spec_decode_num_drafts", "Drafts verified, one a request and step.")
        self._drafted = counter("spec_decode_num_draft_tokens", "Tokens of drafts.")
        self._accepted = counter("spec_decode_num_accepted_tokens", "Of these, tokens that were accepted.")
        self._preemptions = counter("num_preemptions", "Requests put back into the queue for want of KV blocks.")
        self._failed_steps = counter("failed_steps", "Engine steps that failed.")
        self._desired = DesiredServers()
        told = "Servers like this one that what it has to do asks for; the sum over all is how many there should be."
        wanted = Gauge(DESIRED_METRIC, told, registry=self.registry)
        wanted.set_function(lambda: self._desired.replicas)

    def step(self, duration_ms: float, *, failed: bool) -> None:
        """Count a step.

        Args:
            duration_ms: its time.
            failed: whether it failed.
        """
        self._step.observe(duration_ms / 1000.0)
        if failed:
            self._failed_steps.inc()

    def first_token(self, generation: Generation) -> None:
        """Count a request's first token.

        Args:
            generation: it; it knows when that came.
        """
        if generation.first_s is not None:
            self._ttft.observe(generation.first_s - generation.order.arrived_s)
        self._prompt.inc(len(generation.order.prompt))

    def score(self, score: float) -> None:
        """Count what somebody thinks of an answer.

        Args:
            score: 0 to 1.
        """
        self._quality.observe(score)

    def tokens(self, count: int) -> None:
        """Count the tokens of a step.

        Args:
            count: how many.
        """
        self._generated.inc(count)

    def window(self, window: WindowMetrics) -> None:
        """Count what only windows tell.

        Args:
            window: that was closed.
        """
        self._desired.hear(window)
        self._preemptions.inc(window.preemptions)
        self._queries.inc(window.admitted_prompt_tokens)
        self._hits.inc(window.cached_prompt_tokens)
        self._images.inc(window.images)
        self._image_hits.inc(window.image_hits)
        self._drafts.inc(window.drafts)
        self._drafted.inc(window.drafted_tokens)
        self._accepted.inc(window.accepted_tokens)

    def end(self, generation: Generation, finished: str, now_s: float) -> None:
        """Count a request that has ended.

        Args:
            generation: it.
            finished: why.
            now_s: when.
        """
        order, first_s, tokens = generation.order, generation.first_s, generation.tokens
        served = finished in ("length", "stop") or generation.satisfied
        met = False
        if first_s is not None and served:
            met = first_s - order.arrived_s <= order.ttft_target_ms / 1000.0
            if tokens > 1:
                tpot_s = (now_s - first_s) / (tokens - 1)
                self._tpot.observe(tpot_s)
                met = met and tpot_s <= order.tpot_target_ms / 1000.0
        if served:
            self._e2e.observe(now_s - order.arrived_s)
            self._prompts.observe(len(order.prompt))
            self._outputs.observe(tokens)
            self._success.labels("stop" if generation.satisfied else finished).inc()
        else:
            self._unserved.labels(finished).inc()
        if finished not in _NEITHER or generation.satisfied:
            self._slo.labels("yes" if met else "no").inc()

    def watch(
        self,
        session: TunerSession,
        control: TunerControl,
        held: Callable[[], Gauges],
        device: Callable[[], Reading | None] = lambda: None,
    ) -> None:
        """Show what is so now, too.

        Args:
            session: its limits and windows.
            control: of its tuner.
            held: what the engine holds now.
            device: what the device said last; None where nobody asks it.
        """
        self.registry.register(_Present(session, control, held, device))

    def text(self) -> bytes:
        """Everything, in Prometheus's text format."""
        return generate_latest(self.registry)


class _Present:
    """Read when asked: what is so now."""

    def __init__(
        self,
        session: TunerSession,
        control: TunerControl,
        held: Callable[[], Gauges],
        device: Callable[[], Reading | None],
    ) -> None:
        self._session, self._control, self._held, self._device = session, control, held, device

    def collect(self) -> Iterable[Metric]:
        session = self._session
        status = self._control.status()
        held = self._held()
        yield _gauge("num_requests_running", "Requests in the batch.", held.running)
        yield _gauge("num_requests_waiting", "Requests in the queue.", held.waiting)
        yield _gauge("num_queued_tokens", "Prompt tokens of the requests in the queue.", held.queued_tokens)
        yield _gauge("kv_cache_usage_perc", "Share of KV blocks in use, 0-1.", held.kv_used_fraction)
        limits = GaugeMetricFamily("batchpilot:tuner_limit", "Limits in force; off ones are absent.", labels=["limit"])
        for name, value in session.limits().in_force().items():
            if isinstance(value, int | float):
                limits.add_metric([name], value)
        yield limits
        phase = GaugeMetricFamily(
            "batchpilot:tuner_phase", "1 for the phase that the tuner is in.", labels=["tuner", "phase"]
        )
        phase.add_metric([str(status["tuner"]), str(status.get("phase", ""))], 1)
        yield phase
        yield _gauge("tuner_best_score", "Best score so far, 0 without one.", status.get("best_score") or 0.0)
        yield _gauge("tuner_tell_seconds", "Time the last decision took.", status["tell_ms"] / 1000.0)
        yield _counter("tuner_windows", "Windows measured.", status["windows"])
        yield _counter("tuner_windows_untold", "Windows that ended while the tuner thought.", status["windows_untold"])
        yield _counter("tuner_limit_changes", "Times that limits changed.", status["limit_changes"])
        yield _counter("tuner_errors", "Times that the tuner raised.", status["tuner_errors"])
        for name, help_ in _LATENCY.items():
            if status.get(name) is not None:
                yield _gauge(name, help_, status[name])
        latest = session.latest
        if latest is not None and latest.duration_ms > 0:
            per_s = 1000.0 * latest.completions / latest.duration_ms
            yield _gauge("requests_per_second", "Requests that finished a second in the last window.", per_s)
            yield _gauge("device_utilisation", "Of the device in the last window, 0-1.", latest.utilisation)
            if latest.memory_total_mb > 0:
                for name, value in (("used", latest.memory_used_mb), ("peak", latest.memory_peak_mb)):
                    yield _gauge(f"device_memory_{name}_bytes", "Of the device in the last window.", value * 2**20)
                yield _gauge("device_memory_bytes", "Of the device.", latest.memory_total_mb * 2**20)
        yield from _of_device(self._device())
        if latest is not None and latest.slo_attainment == latest.slo_attainment:
            yield _gauge("slo_attainment", "Share within SLO in the last window.", latest.slo_attainment)


def _of_device(reading: Reading | None) -> Iterable[Metric]:
    if reading is not None:
        for name, value, unit in (
            ("device_memory_allocated_bytes", reading.allocated_mb, 2**20),
            ("device_memory_reserved_bytes", reading.reserved_mb, 2**20),
            ("device_power_watts", reading.power_w, 1),
        ):
            if value is not None:
                yield _gauge(name, "As the device said last.", value * unit)


def _gauge(name: str, help_: str, value: Any) -> Metric:
    return GaugeMetricFamily(f"batchpilot:{name}", help_, value=float(value))


def _counter(name: str, help_: str, value: Any) -> Metric:
    return CounterMetricFamily(f"batchpilot:{name}", help_, value=float(value))
