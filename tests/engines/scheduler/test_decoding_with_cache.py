"""Decoding by calendar finds in the prefix cache, and forgets, what planning request by request does."""

import math

import numpy as np
import pytest
from shared_prefixes import in_common

from batchpilot import SLO, Limits, RequestTable, SaturationParameters
from batchpilot.engines import EngineConfig, SimulatedEngine

LATENCY = SaturationParameters(p_max=12.0, k_b=2.0, k_s=0.02, tau_0=4.0, tau_b=0.05, tau_c=4e-4)
NEVER = 2**62


def drawn(seed, n=60):
    """Requests whose prompts begin alike, and limits for one window after the other."""
    rng = np.random.default_rng(seed)
    prompts, outputs = rng.integers(1, 900, n), rng.integers(1, 200, n)
    table = RequestTable.from_arrays(
        np.cumsum(rng.exponential(40.0, n)), prompts, outputs, slos=SLO(400.0, 60.0),
        prefixes=in_common(prompts + outputs, 16, rng),
    )  # fmt: skip
    guards = [None, 0.3, 1.0, 3.0]
    sizes, budgets = rng.choice([1, 3, 8, 20], 12), rng.choice([2, 4, 30, 128, 600], 12)
    return table, [
        Limits(int(size), int(budget), ttft_guard=guards[rng.integers(4)])
        for size, budget in zip(sizes, budgets, strict=True)
    ]


def played(table, schedule, block_size, pause):
    engine = SimulatedEngine(
        EngineConfig(LATENCY, kv_capacity_tokens=1800, block_size=block_size, prefix_cache=True, discipline="value"),
        table,
    )
    engine.state.clock.decoding_pause = pause
    windows = []
    for k, limits in enumerate([*schedule, Limits(32)]):
        engine.set_limits(limits)
        windows.append(str(engine.run_window(100.0 * (k + 1) if k < len(schedule) else math.inf)[0]))
    records = engine.state.requests
    return windows, [records[name].tolist() for name in ("computed", "cached", "first_ms", "finish_ms", "reason")]


@pytest.mark.parametrize(("block_size", "seeds"), [(1, [0, 1, 304, 361, 405]), (16, range(12))])
def test_limits_that_rise_and_fall_give_the_same_numbers_with_and_without_calendars(block_size, seeds):
    for seed in seeds:  # in the last three a block is taken that a request which the guard looks at would have found
        table, schedule = drawn(seed)
        by_calendar = played(table, schedule, block_size, pause=0)
        np.testing.assert_equal(by_calendar, played(table, schedule, block_size, pause=NEVER), err_msg=f"seed {seed}")
