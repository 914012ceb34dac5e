"""Which limit binds, read off from evidence by rules in the order in which a scheduler meets its limits.

A limit binds if requests would be served better were it wider. `diagnosis.relaxing` finds that out by trying; these
rules guess it from what a server shows, and a test holds the one against the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from batchpilot.configs.catalogue import devices
from batchpilot.diagnosis.evidence import Evidence

NOTHING, BATCH, TOKENS, KV, QUEUE, COMPUTE, BANDWIDTH = (
    "nothing",
    "batch",
    "tokens",
    "KV",
    "queue",
    "compute",
    "memory bandwidth",
)

FULL = 0.9
"""Share of a limit from which on it counts as reached: means lie below what their peaks touch."""

FULL_TOKENS = 0.75
"""Of the token budget: a step that computes the end of a prompt, or none, is not full."""

BEYOND_RIDGE = 2.0
"""Times the device's ridge, its operations a byte: a step there gains next to nothing from more tokens."""

KV_FULL = 0.9
PREEMPTED = 0.02
"""Preemptions a request that ended: with more the KV cache is too small for who was let in."""

REFUSED = 0.01
"""Share of the requests that may be refused before it matters."""

IN_HAND = 0.5
"""Share of the promised TTFT: who keeps so far within it while refusing could have let more wait."""

CHANGES = {
    NOTHING: "leave it as it is; a smaller device, or fewer replicas, would do (`batchpilot plan`)",
    BATCH: "raise the batch size (max_num_seqs, --max-running-requests, slots) from {batch} to {more_batch}",
    TOKENS: "raise the token budget (max_num_batched_tokens, --chunked-prefill-size) from {tokens} to {more_tokens}",
    KV: "make room for KV cache: fp8 KV cache, a larger share of the device's memory, weights of a smaller type, or "
    "one more replica; until then a batch size of about {less_batch} spares preemptions",
    QUEUE: "let more wait: raise max_queued_tokens from {queue} to {more_queue}",
    COMPUTE: "add a replica or a device with more operations a second, or weights and arithmetic in fp8; a prefix "
    "cache saves equal prompts; a smaller token budget shortens the steps of those who decode",
    BANDWIDTH: "store weights and KV cache in a smaller type, or add a replica or a device with more bandwidth; larger "
    "batches only help while the time per token is within its target",
}
"""The one change to try."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What binds.

    Attributes:
        binds: one of the limits above.
        because: in one sentence.
        evidence: figures by name, those that the sentence rests on first.
        change: the one change to try.
    """

    binds: str
    because: str
    evidence: dict[str, float]
    change: str


def diagnose(told: Evidence) -> Verdict:
    """Which limit binds.

    Args:
        told: the evidence.

    Raises:
        ValueError: there is no interval to judge.
    """
    if not told.intervals:
        raise ValueError(f"{told.source} told nothing: there is no interval to judge")
    return judged(*_verdict(told), told)


def judged(binds: str, because: str, told: Evidence) -> Verdict:
    """A verdict with its figures and the one change to try.

    Args:
        binds: the limit.
        because: why.
        told: the evidence.
    """
    return Verdict(binds, because, _figures(told), _change(binds, told))


def _verdict(told: Evidence) -> tuple[str, str]:
    late, refused = told.lateness, told.refused_share
    preempted = _ratio(told.total("preempted"), told.total("ended"))
    waiting, kv = told.mean("waiting"), told.mean("kv_used")
    running, batch = told.mean("running"), told.limit("batch_size")
    tokens, budget = told.mean("tokens_per_step"), told.limit("token_budget")
    if refused <= REFUSED and (late <= 1.0 or (math.isnan(late) and not waiting >= 1.0)):
        return NOTHING, _all_is_well(told)
    in_hand = not told.quantile("ttft_ms", 95) > IN_HAND * told.slo.ttft_ms
    if refused > REFUSED and in_hand and running < FULL * batch and math.isfinite(told.limit("max_queued_tokens")):
        return QUEUE, f"{refused:.1%} of the requests are refused while those served wait less than half of the target"
    slow = told.quantile("tpot_ms", 95) > told.slo.tpot_ms
    device = _device(told)
    if (kv >= KV_FULL or preempted > PREEMPTED) and not (slow and device == COMPUTE):
        return KV, f"{kv:.0%} of the KV cache is in use, and {preempted:.1%} of the requests are preempted"
    if running >= FULL * batch and not slow:
        return BATCH, f"{waiting:.1f} requests wait while {running:.1f} run of at most {batch:.0f}"
    if tokens >= FULL_TOKENS * budget and not _far_beyond_ridge(told):
        return TOKENS, f"steps compute {tokens:.0f} tokens of at most {budget:.0f} while {waiting:.1f} requests wait"
    if device is not None:
        how = "time per token misses its target" if slow else f"{waiting:.1f} requests wait"
        return device, f"{how}, no limit is reached, and steps of {tokens:.0f} tokens are bound by {device}"
    if math.isinf(batch) and waiting >= 1.0 and not slow:
        return BATCH, f"{waiting:.1f} requests wait beside {running:.1f} that run, and the KV cache has room ({kv:.0%})"
    return BANDWIDTH, "no limit is reached; say --device and --model to tell compute from memory bandwidth"


def _all_is_well(told: Evidence) -> str:
    late = told.lateness
    if math.isnan(late):
        return f"on average {told.mean('waiting', of=told.intervals):.2g} requests wait"
    return f"TTFT and TPOT are within their targets (p95 at {late:.0%}), and next to nobody is refused"


def _device(told: Evidence) -> str | None:
    """Which part of the device a step waits for; without hardware told only where it is so on every device."""
    step = told.step
    if step is not None:
        return COMPUTE if step.bound_by == "compute" else BANDWIDTH
    tokens = told.mean("tokens_per_step")
    ridges = [spec.peak_tflops * 1e3 / spec.bandwidth_gb_per_s for spec in devices()]
    if tokens >= max(ridges):
        return COMPUTE
    return BANDWIDTH if tokens <= min(ridges) else None


def _far_beyond_ridge(told: Evidence) -> bool:
    """Whether steps compute so much more than they read that twice the tokens would take twice as long."""
    step = told.step
    return _device(told) == COMPUTE if step is None else step.flop_per_byte >= BEYOND_RIDGE * step.ridge


def _figures(told: Evidence) -> dict[str, float]:
    step = told.step
    figures = {
        "p95_over_target": told.lateness,
        "ttft_p95_ms": told.quantile("ttft_ms", 95),
        "tpot_p95_ms": told.quantile("tpot_ms", 95),
        "refused_share": told.refused_share,
        "waiting": told.mean("waiting"),
        "running": told.mean("running"),
        "batch_size": told.limit("batch_size"),
        "tokens_per_step": told.mean("tokens_per_step"),
        "token_budget": told.limit("token_budget"),
        "kv_used": told.mean("kv_used"),
        "preemptions": told.total("preempted"),
        "step_ms": told.mean("step_ms"),
        "busy": told.mean("busy", of=told.intervals),
        "pressed_share_of_time": _pressed_share(told.intervals, told),
    }
    if step is not None:
        figures |= {
            "flop_per_byte": step.flop_per_byte,
            "ridge_flop_per_byte": step.ridge,
            "compute_utilisation": step.compute_utilisation,
            "bandwidth_utilisation": step.bandwidth_utilisation,
        }
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def _pressed_share(intervals: Sequence[object], told: Evidence) -> float:
    return sum(one.pressed for one in told.intervals) / len(intervals)


def _change(binds: str, told: Evidence) -> str:
    running = told.mean("running")
    figures = {
        "batch": told.limit("batch_size"),
        "more_batch": 2 * told.limit("batch_size"),
        "tokens": told.limit("token_budget"),
        "more_tokens": 2 * told.limit("token_budget"),
        "queue": told.limit("max_queued_tokens"),
        "more_queue": 2 * told.limit("max_queued_tokens"),
        "less_batch": math.nan if math.isnan(running) else max(1.0, FULL * running),
    }
    known = {name: f"{value:,.0f}" if math.isfinite(value) else "what it is" for name, value in figures.items()}
    known |= {name: "twice that" for name in figures if name.startswith("more") and not math.isfinite(figures[name])}
    return CHANGES[binds].format(**known)


def _ratio(part: float, whole: float) -> float:
    return part / whole if part > 0 and whole > 0 else 0.0
