"""What is sent to the real servers: Poisson arrivals, prompts of about 110 tokens, outputs of about 47, one promise."""

from __future__ import annotations

import numpy as np

from batchpilot.core.slo import SLO
from batchpilot.workloads import Lengths, LogNormal, poisson
from batchpilot.workloads.table import RequestTable

PROMISE = SLO(5000.0, 150.0, "promised")
LENGTHS = Lengths(LogNormal(100, 0.6, 16, 600), (LogNormal(40, 0.6, 4, 200),))
CAPACITY_PER_S = {"vllm": 2.8, "llama.cpp": 1.5}
"""Requests a second that each server had room for in bursts, on two cores: what the multiples are multiples of."""


def requests_of(server: str, load: float, seconds: float, seed: int) -> RequestTable:
    """One run's requests; no two seeds share prompts, or a prefix cache would answer.

    Args:
        server: a key of `CAPACITY_PER_S`.
        load: multiple of its capacity.
        seconds: for how long they come.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    arrival_ms = poisson(load * CAPACITY_PER_S[server], 1000.0 * seconds, rng)
    return RequestTable.from_arrays(arrival_ms, *LENGTHS.sample(len(arrival_ms), rng), slos=PROMISE)
