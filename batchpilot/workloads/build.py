"""From the `workload` section of a scenario to a request table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.configs.conversation_spec import Conversations, CountSpec, PauseSpec
from batchpilot.configs.image_spec import ImagesSpec
from batchpilot.configs.load_spec import (
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
    UniformLengths,
)
from batchpilot.configs.workload_spec import ClosedLoop, Phase, TraceReplay, Workload
from batchpilot.core.names import lookup
from batchpilot.core.slo import SLO
from batchpilot.workloads.arrivals import diurnal, gamma, mmpp, poisson
from batchpilot.workloads.conversations import NOBODY_WORKS, Count, Pause, Talk, draw_conversations, new_tokens
from batchpilot.workloads.drawn_images import ImageModel, add_images
from batchpilot.workloads.fitted import FITTED_LENGTHS
from batchpilot.workloads.lengths import Lengths, LogNormal, Uniform, estimate_outputs, fixed_lengths
from batchpilot.workloads.readers import read_trace
from batchpilot.workloads.sharing import SharedLevel, draw_prefixes
from batchpilot.workloads.table import PRIORITIES, RequestTable, concatenate

_LIKELY = 300
"""Conversations from whose mean a `load` is turned into a rate; always the same ones."""

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
    names = dict.fromkeys(name for group in workload.senders.values() for name in group.slo_mix)
    promised = {name: lookup(slos, name, "SLO class") for name in names}
    tables = [
        _sent_by(group, table, promised, workload.length_estimate_sigma, rng)
        for group, table in _bare_tables(workload, rng, capacity_per_s, duration_s)
    ]
    return add_prompts(tables[0] if len(tables) == 1 else concatenate(tables), workload, rng)


def add_prompts(table: RequestTable, workload: Workload, rng: np.random.Generator) -> RequestTable:
    """The same requests with what a workload says of their prompts drawn: what they have in common, and images.

    Args:
        table: requests without images.
        workload: what is asked of the engine.
        rng: source of randomness.
    """
    if workload.sharing is not None:
        levels = [SharedLevel(**level.model_dump()) for level in workload.sharing.levels]
        table = replace(table, prefixes=draw_prefixes(table.prompt_tokens, levels, workload.sharing.block_tokens, rng))
    if workload.images is None or workload.conversations is not None:
        return table
    return add_images(table, make_images(workload.images), rng)


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


def make_count(spec: CountSpec) -> Count:
    """The count that a specification describes.

    Args:
        spec: a `requests` or `steps` section.
    """
    return Count(spec.median, spec.sigma, spec.max, spec.none)


def make_images(spec: ImagesSpec) -> ImageModel:
    """The model of images that a specification describes.

    Args:
        spec: an `images` section.
    """
    return ImageModel(spec.share, spec.sizes, spec.different, spec.zipf, spec.per_request)


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


def _bare_tables(
    workload: Workload, rng: np.random.Generator, capacity_per_s: CapacityPerSecond, duration_s: float | None
) -> Iterator[tuple[Senders, RequestTable]]:
    """Arrivals and lengths of each group of senders, before it is drawn who sent what."""
    image_tokens = 0.0 if workload.images is None else make_images(workload.images).mean_tokens
    if workload.trace is not None:
        yield workload.trace, _replay(workload.trace, duration_s)
    if workload.closed_loop is not None:
        yield workload.closed_loop, _closed_loop(workload.closed_loop, rng)
    if workload.conversations is not None:
        images = None if workload.images is None else make_images(workload.images)
        yield workload.conversations, _conversations(workload.conversations, images, rng, capacity_per_s)
    start_ms = 0.0
    for phase in workload.phases or ():
        yield phase, _phase(phase, start_ms, rng, capacity_per_s, image_tokens)
        start_ms += phase.duration_s * 1000.0


def _phase(
    phase: Phase,
    start_ms: float,
    rng: np.random.Generator,
    capacity_per_s: CapacityPerSecond,
    image_tokens: float,
) -> RequestTable:
    lengths = make_lengths(phase.lengths)
    rate_per_s = phase.arrivals.rate_per_s
    if rate_per_s is None:
        prompt, output = lengths.means()
        rate_per_s = (phase.arrivals.load or 0.0) * capacity_per_s(prompt + image_tokens, output)
    arrival_ms = draw_arrivals(phase.arrivals, rate_per_s, phase.duration_s * 1000.0, rng)
    return RequestTable.from_arrays(start_ms + arrival_ms, *lengths.sample(len(arrival_ms), rng))


def _closed_loop(loop: ClosedLoop, rng: np.random.Generator) -> RequestTable:
    prompt, output = make_lengths(loop.lengths).sample(loop.requests, rng)
    if loop.output_tokens is not None:
        output = np.full_like(output, loop.output_tokens)
    return RequestTable.from_arrays(np.zeros(loop.requests), prompt, output, concurrency=loop.concurrency)


def _conversations(
    spec: Conversations, images: ImageModel | None, rng: np.random.Generator, capacity_per_s: CapacityPerSecond
) -> RequestTable:
    talk = Talk(
        requests=make_count(spec.requests),
        steps=NOBODY_WORKS if spec.steps is None else make_count(spec.steps),
        system_tokens=spec.system_tokens,
        system_kinds=spec.system_kinds,
        first=_lognormal(spec.first_tokens),
        message=_lognormal(spec.message_tokens),
        tool=_lognormal(spec.tool_tokens or spec.message_tokens),
        output=_lognormal(spec.output_tokens),
        think=_pause(spec.think),
        work=_pause(spec.work or spec.think),
        most_context=spec.max_context_tokens,
        block_tokens=spec.block_tokens,
    )
    duration_ms = spec.duration_s * 1000.0
    rate_per_s = spec.arrivals.rate_per_s
    if rate_per_s is None:
        usual = np.random.default_rng(_LIKELY)
        likely = draw_conversations(talk, np.zeros(_LIKELY), usual, images).window(0.0, duration_ms)
        capacity = capacity_per_s(float(new_tokens(likely).mean()), float(likely.output_tokens.mean()))
        rate_per_s = (spec.arrivals.load or 0.0) * capacity * _LIKELY / len(likely)
    start_ms = draw_arrivals(spec.arrivals, rate_per_s, duration_ms, rng)
    return draw_conversations(talk, start_ms, rng, images).window(0.0, duration_ms)


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


def _sent_by(
    group: Senders, table: RequestTable, promised: Mapping[str, SLO], sigma: float, rng: np.random.Generator
) -> RequestTable:
    """The same requests with class, user and priority drawn from the group's mixes, and a predictor's estimate."""
    n, names = len(table), list(promised)
    priorities = {PRIORITIES[name]: share for name, share in group.priority_mix.items()}
    first = np.arange(n) if table.turns is None else table.turns.first_of()
    return replace(
        table,
        estimated_output_tokens=estimate_outputs(table.output_tokens, rng, sigma),
        slo_class=_draw({names.index(name): share for name, share in group.slo_mix.items()}, n, rng)[first],
        user=_draw({user: 1.0 / (user + 1) for user in range(group.users)}, n, rng)[first],
        priority=_draw(priorities, n, rng)[first],
        slos=tuple(promised.values()),
    )


def _pause(spec: PauseSpec) -> Pause:
    return Pause(spec.median_s * 1000.0, spec.sigma, spec.max_s * 1000.0)


def _lognormal(shape: LogNormalShape) -> LogNormal:
    return LogNormal(shape.median, shape.sigma, shape.min, shape.max)


def _draw(weights: Mapping[int, float], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    values, shares = np.array(list(weights), dtype=np.int64), np.array(list(weights.values()))
    return rng.choice(values, size=n, p=shares / shares.sum())
