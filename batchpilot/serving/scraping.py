"""What a server's Prometheus pages show, as evidence for a diagnosis: vLLM, SGLang, llama.cpp, and our own."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from batchpilot.core.exposition import Labels, number, of_engines, samples
from batchpilot.core.slo import SLO
from batchpilot.diagnosis.evidence import Evidence, Hardware, Interval
from batchpilot.serving.gateway.upstream_metrics import NAMES

_MB = 2.0**20


@dataclass(frozen=True, slots=True)
class Names:
    """How one server calls what it tells; of several names the first that is there counts.

    Attributes:
        ttft: histogram or summary of the time to first token, in seconds.
        tpot: of the time per output token.
        e2e: of whole requests.
        prompts: histogram of prompt lengths.
        ended: counter of ended requests, and the label that says how.
        refused: values of that label, or other counters, that mean refused.
        failed: the same for failed.
        aborted: the same for requests that somebody gave up.
        preempted: counter.
        step_tokens: histogram of tokens in a step.
        step_seconds: histogram of step times.
        steps: counter of steps.
        step_busy: counters of seconds within steps.
        tokens: counters of tokens computed.
        limits: gauge with a label `limit`.
    """

    ttft: tuple[str, ...] = ()
    tpot: tuple[str, ...] = ()
    e2e: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    ended: tuple[tuple[str, str], ...] = ()
    refused: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    aborted: tuple[str, ...] = ()
    preempted: tuple[str, ...] = ()
    step_tokens: str = ""
    step_seconds: str = ""
    steps: str = ""
    step_busy: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    limits: str = ""


KNOWN = {
    "vLLM": Names(
        ttft=("vllm:time_to_first_token_seconds",),
        tpot=("vllm:request_time_per_output_token_seconds", "vllm:time_per_output_token_seconds"),
        e2e=("vllm:e2e_request_latency_seconds",),
        prompts=("vllm:request_prompt_tokens",),
        ended=(("vllm:request_success_total", "finished_reason"),),
        failed=("error",),
        aborted=("abort",),
        preempted=("vllm:num_preemptions_total",),
        step_tokens="vllm:iteration_tokens_total",
    ),
    "SGLang": Names(
        ttft=("sglang:time_to_first_token_seconds",),
        tpot=("sglang:time_per_output_token_seconds", "sglang:inter_token_latency_seconds"),
        e2e=("sglang:e2e_request_latency_seconds",),
        prompts=("sglang:prompt_tokens_histogram",),
        ended=(("sglang:num_requests_total", ""),),
        aborted=("sglang:num_aborted_requests_total",),
        preempted=("sglang:num_retracted_requests_total", "sglang:num_retracted_reqs_total"),
    ),
    "llama.cpp": Names(
        steps="llamacpp:n_decode_total",
        step_busy=("llamacpp:prompt_seconds_total", "llamacpp:tokens_predicted_seconds_total"),
        tokens=("llamacpp:prompt_tokens_total", "llamacpp:tokens_predicted_total"),
    ),
    "batchpilot": Names(
        ttft=("batchpilot:time_to_first_token_seconds",),
        tpot=("batchpilot:request_time_per_output_token_seconds",),
        e2e=("batchpilot:e2e_request_latency_seconds",),
        prompts=("batchpilot:request_prompt_tokens",),
        ended=(
            ("batchpilot:request_success_total", "finished_reason"),
            ("batchpilot:request_unserved_total", "reason"),
        ),
        refused=("refused_on_arrival", "refused_by_guard"),
        failed=("failed", "engine_error"),
        aborted=("cancelled",),
        preempted=("batchpilot:num_preemptions_total",),
        step_seconds="batchpilot:step_seconds",
        tokens=("batchpilot:prompt_tokens_total", "batchpilot:generation_tokens_total"),
        limits="batchpilot:tuner_limit",
    ),
    "batchpilot gateway": Names(
        ttft=("batchpilot_gateway:time_to_first_token_seconds",),
        tpot=("batchpilot_gateway:time_per_output_token_seconds",),
        e2e=("batchpilot_gateway:e2e_request_latency_seconds",),
        ended=(("batchpilot_gateway:requests_total", "outcome"),),
        refused=("refused_upstream", "refused_on_arrival", "refused_by_guard"),
        failed=("failed",),
        aborted=("cancelled",),
        limits="batchpilot_gateway:limit",
    ),
}

_GAUGES = NAMES | {
    "batchpilot gateway": {
        "running": ("batchpilot_gateway:num_requests_running",),
        "waiting": ("batchpilot_gateway:num_requests_waiting",),
        "kv_used_fraction": (),
    }
}


_WAYS = {"stop": ("stop", "finished"), "length": ("length",), "ended": ()}
"""What a label says of those who were served; "ended" is of counters without such a label."""


@dataclass(slots=True)
class Page:
    """One reading of `/metrics`.

    Attributes:
        at_s: when, on any clock.
        told: labels and values by name.
    """

    at_s: float
    told: dict[str, list[tuple[Labels, float]]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def parse(cls, text: str, at_s: float) -> Page:
        """Read a page.

        Args:
            text: in Prometheus' text format.
            at_s: when it was read.
        """
        page = cls(at_s)
        for name, labels, value in samples(text):
            page.told[name].append((labels, value))
        return page

    def values(self, names: Sequence[str]) -> list[float]:
        """A value for each engine under the first of some names that is there.

        Args:
            names: in order of preference.
        """
        return next((of_engines(self.told[name]) for name in names if name in self.told), [])

    def total(self, *names: str) -> float:
        """The sum over engines and names; NaN where none is there.

        Args:
            *names: all are added.
        """
        known = [value for name in names if name in self.told for value in of_engines(self.told[name])]
        return sum(known) if known else math.nan


def evidence_from(pages: Sequence[Page], slo: SLO, hardware: Hardware | None, limits: dict[str, float]) -> Evidence:
    """What a server showed.

    Args:
        pages: of one server, in order of time; with one, counters tell of the time since its start.
        slo: the promise.
        hardware: None where nobody says.
        limits: what the user says of them; they go before what the server tells.

    Raises:
        ValueError: no page, or of no known server.
    """
    if not pages:
        raise ValueError("no page of metrics to read")
    server = next((name for name, how in _GAUGES.items() if pages[-1].values(how["running"])), None)
    if server is None:
        raise ValueError(
            "the page tells of no server that is known; it should hold the Prometheus text of "
            f"{', '.join(KNOWN)} (vLLM: /metrics; SGLang: --enable-metrics; llama.cpp: --metrics)"
        )
    names, last = KNOWN[server], pages[-1]
    told = {labels["limit"]: value for labels, value in last.told.get(names.limits, []) if "limit" in labels}
    first = pages[0] if len(pages) > 1 else Page(math.nan)
    ended = {how: _risen(first, last, names, how) for how in ("stop", "length", "aborted", "failed", "refused")}
    quantiles = {
        f"{name}_ms": {q: 1000.0 * value for q, value in _quantiles(first, last, known).items()}
        for name, known in (("ttft", names.ttft), ("tpot", names.tpot), ("e2e", names.e2e))
    }
    quantiles["prompt_tokens"] = _quantiles(first, last, names.prompts)
    pairs = list(pairwise(pages)) or [(first, last)]
    return Evidence(
        source=server,
        intervals=[_interval(before, after, server) for before, after in pairs],
        limits=told | limits,
        quantiles=quantiles,
        ended={how: count for how, count in ended.items() if not math.isnan(count)},
        slo=slo,
        hardware=hardware,
    )


def _interval(before: Page, after: Page, server: str) -> Interval:
    names, gauges = KNOWN[server], _GAUGES[server]

    def gauge(name: str) -> list[float]:
        looks = [value for page in (before, after) if (value := page.values(gauges[name]))]
        return [sum(values) / len(looks) for values in zip(*looks, strict=False)]

    def grown(*known: str) -> float:
        now, then = after.total(*known), before.total(*known)
        return max(now - (0.0 if math.isnan(then) else then), 0.0)

    seconds = after.at_s - before.at_s
    kv, running, waiting = gauge("kv_used_fraction"), gauge("running"), gauge("waiting")
    histogram = names.step_tokens or names.step_seconds
    steps = grown(f"{histogram}_count") if histogram else grown(names.steps)
    tokens = grown(f"{names.step_tokens}_sum") if names.step_tokens else grown(*names.tokens)
    busy_s = grown(f"{names.step_seconds}_sum") if names.step_seconds else grown(*names.step_busy)
    if math.isnan(busy_s) and sum(running) >= 1 and steps > 0:
        busy_s = seconds  # an engine that has requests steps without a pause
    ended = [_risen(before, after, names, how) for how in ("stop", "length", "aborted", "failed", "refused", "ended")]
    known = [count for count in ended if not math.isnan(count)]
    return Interval(
        seconds=seconds,
        running=sum(running) if running else math.nan,
        waiting=sum(waiting) if waiting else math.nan,
        kv_used=sum(kv) / len(kv) if kv else math.nan,
        steps=steps,
        tokens_per_step=tokens / steps if steps > 0 else math.nan,
        context_tokens=sum(kv) / len(kv) * _kv_tokens(after) if kv else math.nan,
        step_ms=1000.0 * busy_s / steps if steps > 0 else math.nan,
        busy=min(busy_s / seconds, 1.0) if seconds > 0 else math.nan,
        ended=sum(known) if known else math.nan,
        refused=_risen(before, after, names, "refused"),
        failed=_risen(before, after, names, "failed"),
        preempted=max((grown(name) for name in names.preempted if name in after.told), default=math.nan),
        memory_mb=after.total("process_resident_memory_bytes") / _MB,
    )


def _kv_tokens(page: Page) -> float:
    """KV tokens that fit, as vLLM and SGLang tell them."""
    told = page.told.get("vllm:cache_config_info", [])
    blocks = [(labels.get("num_gpu_blocks", ""), labels.get("block_size", "")) for labels, _ in told]
    known = [int(count) * int(size) for count, size in blocks if count.isdigit() and size.isdigit()]
    return float(sum(known)) if known else page.total("sglang:max_total_num_tokens")


def _risen(before: Page, after: Page, names: Names, how: str) -> float:
    """Requests that ended in a way between two pages; "ended" for those of which nobody tells the way."""
    wanted: tuple[str, ...] = _WAYS[how] if how in _WAYS else getattr(names, how)

    def count(page: Page) -> float:
        found = [
            value
            for name, label in names.ended
            for labels, value in page.told.get(name, [])
            if (labels.get(label) in wanted if label else how == "ended")
        ]
        found += [value for name in wanted for value in page.values((name,))]
        return sum(found) if found else math.nan

    now, then = count(after), count(before)
    return max(now - (0.0 if math.isnan(then) else then), 0.0)


def _quantiles(before: Page, after: Page, names: Sequence[str]) -> dict[int, float]:
    """At 50, 95 and 99 %, from a histogram's growth or as a summary tells them."""
    for name in names:
        if f"{name}_bucket" in after.told:
            return _of_buckets(before.told.get(f"{name}_bucket", []), after.told[f"{name}_bucket"])
        if name in after.told:
            quantiles = [(number(labels.get("quantile", "")), value) for labels, value in after.told[name]]
            return {round(100 * q): value for q, value in quantiles if 0 <= q <= 1 and not math.isnan(value)}
    return {}


def _of_buckets(before: Sequence[tuple[Labels, float]], after: Sequence[tuple[Labels, float]]) -> dict[int, float]:
    counts: dict[float, float] = defaultdict(float)
    for told, sign in ((before, -1.0), (after, 1.0)):
        for labels, value in told:
            edge = number(labels.get("le", ""))
            if not math.isnan(edge):
                counts[edge] += sign * value
    edges = sorted(counts)
    total = counts[edges[-1]] if edges else 0.0
    found = {}
    for q in (50, 95, 99):
        if total <= 0:
            continue
        wanted, low, below = q / 100 * total, 0.0, 0.0
        for edge in edges:
            if counts[edge] >= wanted:
                part = (wanted - below) / (counts[edge] - below) if counts[edge] > below else 1.0
                found[q] = low if math.isinf(edge) else low + part * (edge - low)
                break
            low, below = edge, counts[edge]
    return found
