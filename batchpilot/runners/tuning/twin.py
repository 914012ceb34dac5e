"""The prior of `tune`: what a simulation with a believed step latency expects of settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.runners.tuning.bench import Bench
from batchpilot.runners.tuning.search import Search, constraints
from batchpilot.tuners.bayesian.prior import DOUBT, Prior, prior_of

CANDIDATES = 96
"""Settings that a twin is asked for first; some dozens more lie near the best of them."""


def twin_prior(search: Search, bench: Bench, twin: SaturationParameters, doubt: float = DOUBT) -> Prior:
    """What a twin expects of settings: the load of the first seed on a simulation, also faster and slower ones.

    Args:
        search: what is searched.
        bench: what limits are tried on.
        twin: step latency that is believed of it.
        doubt: spread of the logarithm of what it is off by, > 0.
    """
    seed = search.seeds[0]
    space, tpot_ms = search.space, bench.tpot_ms(seed)

    def value(params: Mapping[str, Any], factor: float) -> tuple[float, float]:
        seen = bench.imitated(twin.scaled(factor), space.limits(params, tpot_ms), seed)
        return seen.value, sum(max(excess, 0.0) for excess in constraints(search, [seen]).values())

    spread = space.sample(CANDIDATES, np.random.default_rng(search.sampler_seed))
    return prior_of([space.base_params(tpot_ms), *spread], value, nearby=space.nearby, doubt=doubt)
