"""Simulated servers whose binding limit can be found out by widening each."""

import math
from dataclasses import replace

import numpy as np

from batchpilot.configs.catalogue import device, model
from batchpilot.diagnosis.evidence import Hardware
from batchpilot.engines.memory import memory_model
from batchpilot.engines.simulated.config import EngineConfig
from batchpilot.envs.scenarios import capacity_per_s
from batchpilot.latency.model.registry import find_latency
from batchpilot.workloads import RequestTable, poisson

SPREAD = 0.6
"""Of the logarithm of the lengths."""


def served(chip, named, prompt, output, load, *, kv=None, tpot_ms=100.0, seed=1, seconds=40.0):
    """Engine, requests and hardware: Poisson arrivals at a share of the estimated capacity, lognormal lengths."""
    spec, shape = device(chip), model(named)
    latency, memory = find_latency(spec, shape, 1, "fp16").parameters, memory_model(spec, shape)
    config = EngineConfig(latency=latency, memory=memory, max_model_len=shape.max_model_len)
    stretch = math.exp(SPREAD**2 / 2)
    rate = load * capacity_per_s(latency, memory.kv_capacity_tokens, prompt * stretch, output * stretch)
    rng = np.random.default_rng(seed)
    arrival_ms = poisson(rate, 1000.0 * seconds, rng)
    lengths = [rng.lognormal(math.log(mean), SPREAD, len(arrival_ms)).astype(int) + 1 for mean in (prompt, output)]
    if kv is not None:
        config = replace(config, memory=None, kv_capacity_tokens=kv)
    requests = RequestTable.from_arrays(arrival_ms, np.minimum(lengths[0], 20_000), np.minimum(lengths[1], 2_000))
    requests = requests.promised(2000.0, tpot_ms)
    return config, requests, Hardware(spec, shape)
