"""What operators notice first, each with its likely cause by the figures, and the targets a healthy server keeps.

Source: deployment document, diagnosis and acceptance: low utilisation, P99 ten times P50, out of memory now and then,
answers cut short; utilisation above 80 %, errors below 0.1 %, a stable P99, no leak.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from batchpilot.diagnosis.evidence import Evidence
from batchpilot.diagnosis.rules import FULL

LOW_USE = 0.5
TAIL = 10.0
"""P99 over P50 of the time to first token from which on the tail is a symptom."""

CUT = 0.01
"""Share of the answers cut short from which on it is a symptom."""

LEAK = 0.1
"""Relative rise of memory from the first to the last quarter of the time, at no more load, that counts as a leak."""

STABLE_TAIL = 1.5
"""Latest over earliest mean wait that still counts as stable."""

_FEWEST_INTERVALS = 8


@dataclass(frozen=True, slots=True)
class Symptom:
    """Something that is not as it should be.

    Attributes:
        name: of the symptom.
        cause: the likelier one by the figures.
        told: the figures, in words.
    """

    name: str
    cause: str
    told: str


@dataclass(frozen=True, slots=True)
class Target:
    """One target of a healthy server.

    Attributes:
        name: what is asked.
        value: measured, NaN for unknown.
        kept: whether it is; None for unknown.
    """

    name: str
    value: float
    kept: bool | None


def symptoms(told: Evidence) -> list[Symptom]:
    """What is not as it should be; empty where nothing shows.

    Args:
        told: the evidence.
    """
    found = (_low_use(told), _long_tail(told), _out_of_memory(told), _cut_short(told))
    return [one for one in found if one is not None]


def targets(told: Evidence) -> list[Target]:
    """What a healthy server keeps: use, errors, stability, memory.

    Args:
        told: the evidence.
    """
    busy = told.mean("busy", of=told.intervals)
    ended, failed = told.total("ended"), told.total("failed")
    errors = failed / ended if ended > 0 else math.nan
    drift, leak = _risen(told, "waiting", 1.0), _risen(told, "memory_mb", 0.0)
    return [
        Target("utilisation above 80 %", busy, None if math.isnan(busy) else busy > 0.8),
        Target("errors below 0.1 %", errors, None if math.isnan(errors) else errors < 0.001),
        Target("queue stable (last over first quarter)", drift, None if math.isnan(drift) else drift <= STABLE_TAIL),
        Target("no leak (last over first quarter)", leak, None if math.isnan(leak) else leak <= 1 + LEAK),
    ]


def _low_use(told: Evidence) -> Symptom | None:
    step, used = told.step, told.mean("busy", of=told.intervals)
    waiting = told.mean("waiting", of=told.intervals)
    crowded = waiting >= 1.0
    if step is not None:
        compute, bandwidth = step.compute_utilisation, step.bandwidth_utilisation
        used = compute if crowded else max(compute, bandwidth) * (1.0 if math.isnan(used) else used)
    if math.isnan(used) or used >= LOW_USE:
        return None
    full = told.mean("running") >= FULL * told.limit("batch_size")
    if crowded and not full:
        return None  # the verdict says what else holds them back
    cause = "batches too small: the batch is at its limit" if full else "input starved: the device waits for requests"
    return Symptom("low utilisation", cause, f"{used:.0%} of the device used, {waiting:.1f} requests waiting")


def _long_tail(told: Evidence) -> Symptom | None:
    middle, far = told.quantile("ttft_ms", 50), told.quantile("ttft_ms", 99)
    if not far >= TAIL * middle:
        return None
    prompts = told.quantile("prompt_tokens", 99) / max(told.quantile("prompt_tokens", 50), 1.0)
    figures = f"TTFT P99 {far:,.0f} ms is {far / middle:.0f} times P50"
    if prompts >= TAIL:
        return Symptom("P99 far above P50", "giant prompts", f"{figures}; prompts' P99 is {prompts:.0f} times P50")
    return Symptom("P99 far above P50", "contention: requests wait for each other", figures)


def _out_of_memory(told: Evidence) -> Symptom | None:
    failed, preempted = told.total("failed"), told.total("preempted")
    leak = _risen(told, "memory_mb", 0.0)
    rising = leak > 1 + LEAK and not _risen(told, "running", 1.0) > 1 + LEAK
    if not (failed > 0 or preempted > 0 or rising):
        return None
    figures = (
        f"{0 if math.isnan(failed) else failed:,.0f} failed, {0 if math.isnan(preempted) else preempted:,.0f} preempted"
    )
    if rising:
        return Symptom("out of memory now and then", "a leak: memory grows at equal load", f"{figures}; x{leak:.2f}")
    prompts = told.quantile("prompt_tokens", 99) / max(told.quantile("prompt_tokens", 50), 1.0)
    cause = "giant inputs" if prompts >= TAIL else "too many requests are let in for the KV cache"
    return Symptom("out of memory now and then", cause, figures)


def _cut_short(told: Evidence) -> Symptom | None:
    served = told.ended.get("stop", 0.0) + told.ended.get("length", 0.0)
    aborted, failed = told.ended.get("aborted", 0.0), told.ended.get("failed", 0.0)
    total = served + aborted + failed
    if total <= 0 or aborted + failed < CUT * total:
        return None
    slow = told.lateness > 1.0
    if aborted >= failed:
        cause = "time-outs of clients: answers are late" if slow else "clients leave though answers are in time"
    else:
        cause = "silent failures: the server ends requests itself; read its log"
    return Symptom("answers cut short", cause, f"{aborted:,.0f} aborted and {failed:,.0f} failed of {total:,.0f}")


def _risen(told: Evidence, name: str, least: float) -> float:
    """The mean of the last quarter of the intervals over that of the first; NaN with few of them."""
    known = [getattr(one, name) for one in told.intervals if not math.isnan(getattr(one, name))]
    if len(known) < _FEWEST_INTERVALS:
        return math.nan
    quarter = len(known) // 4
    first, last = sum(known[:quarter]) / quarter, sum(known[-quarter:]) / quarter
    return max(last, least) / max(first, least) if max(first, least) > 0 else math.nan
