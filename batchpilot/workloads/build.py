"""From the `workload` section of a scenario to a request table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchpilot.configs.workload_spec import (
    ArrivalsSpec,
    DiurnalArrivals,
    FittedLengths,
    FixedLengths,
    GammaArrivals,
    LengthsSpec,
    LogNormalLengths,
    LogNormalShape,
    MmppArrivals,
    Senders,
    TraceReplay,
    UniformLengths,
    Workload,
)
from batchpilot.core.names import lookup
from batchpilot.core.slo import SLO
from batchpilot.workloads.arrivals import diurnal, gamma, mmpp, poisson
from batchpilot.workloads.fitted import FITTED_LENGTHS
from batchpilot.workloads.lengths import Lengths, LogNormal, Uniform, estimate_outputs, fixed_lengths
from batchpilot.workloads.readers import read_trace
from batchpilot.workloads.table import PRIORITIES, RequestTable, concatenate

CapacityPerSecond = Callable[[float, float], float]
"""Estimated requests per second that a device can serve, given mean prompt and mean output tokens."""


def build_requests(
    workload: Workload,
    slos: Mapping[str, SLO],
    rng: np.random.Generator,
    capacity_per_s: CapacityPerSecond,
    duration_s: float | None = None,
) -> RequestTable:
    """Draw or read the requests of a workload.

    Args:
        workload: what is asked of the engine.
        slos: SLO by class name; holds every class that the workload names.
        rng: the only source of randomness; the same state gives the same table.
        capacity_per_s: turns a `load` into a rate.
        duration_s: the scenario's length, which a looped trace fills and any trace is cut to; None for no bound.

    Returns:
        Requests whose `slos` are the classes that the workload names, in order of first appearance.

    Raises:
        ValueError: an SLO class that `slos` does not hold, or a trace scenario without a file.
        TraceError: the trace file is malformed.
        OSError: the trace file cannot be opened.
    """
    names = list(dict.fromkeys(name for group in workload.senders.values() for name in group.slo_mix))
    promised = [lookup(slos, name, "SLO class") for name in names]

    def sent_by(
        group: Senders,
        arrival_ms: NDArray[np.float64],
        lengths: tuple[NDArray[np.int64], NDArray[np.int64]],
        **rest: int,
    ) -> RequestTable:
        n = len(arrival_ms)
        mix, priorities = list(group.slo_mix), list(group.priority_mix)
        ranks = 1.0 / np.arange(1, group.users + 1)
        return RequestTable.from_arrays(
            arrival_ms,
            *lengths,
            estimated_output_tokens=estimate_outputs(lengths[1], rng, workload.length_estimate_sigma),
            slo_class=_draw([names.index(name) for name in mix], list(group.slo_mix.values()), n, rng),
            user=_draw(range(group.users), ranks, n, rng),
            priority=_draw([PRIORITIES[name] for name in priorities], list(group.priority_mix.values()), n, rng),
            slos=promised,
            **rest,
        )

    if (trace := workload.trace) is not None:
        table = _replay(trace, duration_s)
        lengths = (table.prompt_tokens, table.output_tokens)
        return sent_by(trace, table.arrival_ms, lengths, skipped_rows=table.skipped_rows)
    if (loop := workload.closed_loop) is not None:
        prompt, output = make_lengths(loop.lengths).sample(loop.requests, rng)
        if loop.output_tokens is not None:
            output = np.full_like(output, loop.output_tokens)
        return sent_by(loop, np.zeros(loop.requests), (prompt, output), concurrency=loop.concurrency)
    tables, start_ms = [], 0.0
    for phase in workload.phases or ():
        distribution = make_lengths(phase.lengths)
        rate_per_s = phase.arrivals.rate_per_s
        if rate_per_s is None:
            rate_per_s = (phase.arrivals.load or 0.0) * capacity_per_s(*distribution.means())
        duration_ms = phase.duration_s * 1000.0
        arrival_ms = start_ms + draw_arrivals(phase.arrivals, rate_per_s, duration_ms, rng)
        tables.append(sent_by(phase, arrival_ms, distribution.sample(len(arrival_ms), rng)))
        start_ms += duration_ms
    return concatenate(tables)


def make_lengths(spec: LengthsSpec) -> Lengths:
    """The length distribution that a specification describes.

    Args:
        spec: a `lengths` section.
    """
    match spec:
        case FixedLengths():
            return fixed_lengths(spec.prompt_tokens, spec.output_tokens)
        case UniformLengths():
            prompt, output = spec.prompt_tokens, spec.output_tokens
            return Lengths(Uniform(prompt.min, prompt.max), (Uniform(output.min, output.max),))
        case LogNormalLengths():
            return Lengths(_lognormal(spec.prompt_tokens), (_lognormal(spec.output_tokens),))
        case FittedLengths():
            return replace(
                FITTED_LENGTHS[spec.kind],
                max_prompt_tokens=spec.max_prompt_tokens,
                max_output_tokens=spec.max_output_tokens,
            )


def draw_arrivals(
    spec: ArrivalsSpec, rate_per_s: float, duration_ms: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Arrival times of one phase, counted from its start.

    Args:
        spec: an `arrivals` section.
        rate_per_s: mean arrivals per second.
        duration_ms: length of the phase.
        rng: source of randomness.

    Returns:
        Times in ms, ascending, shape (n,).
    """
    match spec:
        case GammaArrivals():
            return gamma(rate_per_s, spec.cv, duration_ms, rng)
        case MmppArrivals():
            factors = [state.factor for state in spec.states]
            return mmpp(factors, [state.mean_dwell_s for state in spec.states], rate_per_s, duration_ms, rng)
        case DiurnalArrivals():
            return diurnal(rate_per_s, spec.amplitude, spec.period_s, duration_ms, rng)
        case _:
            return poisson(rate_per_s, duration_ms, rng)


def _replay(trace: TraceReplay, duration_s: float | None) -> RequestTable:
    if trace.file is None:
        raise ValueError("this scenario replays a trace file of your own; name one (--trace FILE, or `file` in a copy)")
    options: dict[str, Any] = dict(trace.options)
    table = read_trace(
        trace.file,
        trace.format,
        rate=trace.rate,
        start_s=trace.start_s,
        duration_s=trace.duration_s,
        loop_s=duration_s if trace.loop else None,
        skip_bad_rows=trace.skip_bad_rows,
        **options,
    )
    return table if duration_s is None else table.window(0.0, duration_s * 1000.0)


def _lognormal(shape: LogNormalShape) -> LogNormal:
    return LogNormal(shape.median, shape.sigma, shape.min, shape.max)


def _draw(values: Sequence[int], weights: ArrayLike, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    shares = np.asarray(weights, dtype=np.float64)
    return np.asarray(values, dtype=np.int64)[rng.choice(len(shares), size=n, p=shares / shares.sum())]
