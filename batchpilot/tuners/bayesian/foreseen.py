"""What a twin expects of settings on the traffic that was heard: the prior of an online study. Times in ms."""

from __future__ import annotations

import numpy as np

from batchpilot.core.slo import SLO
from batchpilot.engines.simulated.simulation import simulate
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.tuners.bayesian.prior import Params, Prior, prior_of
from batchpilot.tuners.bayesian.space import SearchSpace
from batchpilot.tuners.planning.traffic import Traffic
from batchpilot.workloads.table import RequestTable

CANDIDATES, ROUNDS = 24, 1
"""A server at work is not kept waiting as long as `tune` may."""

LONGEST_MS, MOST_REQUESTS = 20_000.0, 500
"""Of the traffic that is replayed."""

NOISE = 0.2
"""Of a trial's value: the windows of one trial see other requests than those of the next."""

_NO_PROMISE_MS = 1e9


def foreseen(
    traffic: Traffic,
    twin: SaturationParameters,
    space: SearchSpace,
    tpot_ms: float,
    kv_tokens: int,
    rng: np.random.Generator,
) -> Prior:
    """A prior of tokens per second within the promise.

    Args:
        traffic: what came, of which something is known.
        twin: step latency that is believed.
        space: what may be set.
        tpot_ms: what step targets are multiples of.
        kv_tokens: KV tokens that fit, 0 for no bound that is known.
        rng: draws candidates and the output lengths of requests that have not finished.
    """
    requests = replayed(traffic, rng)
    offered_per_ms = float(requests.output_tokens.sum()) / max(requests.duration_ms, 1.0)

    def value(params: Params, factor: float) -> tuple[float, float]:
        latency = twin.scaled(factor)
        limits = space.limits(params, tpot_ms)
        result = simulate(requests, latency, limits, estimate=latency, kv_capacity_tokens=kv_tokens or None)
        return 1000.0 * offered_per_ms * result.goodput_fraction, 0.0

    candidates = [space.base_params(tpot_ms), *space.sample(CANDIDATES, rng)]
    return prior_of(candidates, value, nearby=space.nearby, noise=NOISE, rounds=ROUNDS)


def replayed(traffic: Traffic, rng: np.random.Generator) -> RequestTable:
    """The latest requests as a load of their own.

    Args:
        traffic: what came, of which something is known.
        rng: draws output lengths like those that finished.
    """
    arrivals = traffic.arrivals[-MOST_REQUESTS:]
    times = arrivals["arrival_ms"]
    recent = arrivals[times > times.max() - LONGEST_MS]
    slo = SLO(
        ttft_ms=min(traffic.typical_ttft_ms(), _NO_PROMISE_MS), tpot_ms=min(traffic.typical_tpot_ms(), _NO_PROMISE_MS)
    )
    return RequestTable.from_arrays(
        recent["arrival_ms"] - recent["arrival_ms"].min(),
        np.maximum(recent["prompt_tokens"], 1),
        traffic.draw_outputs(len(recent), rng),
        slos=slo,
    )
