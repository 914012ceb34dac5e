"""Static (padded) batching as the batching document describes it."""

import numpy as np
import pytest

from batchpilot import Limits, RequestTable, SaturationParameters, simulate
from batchpilot.engines import EngineConfig, SimulatedEngine
from batchpilot.engines.scheduler.commit import commit_failure
from batchpilot.engines.scheduler.state import LENGTH, UNFINISHED
from batchpilot.engines.scheduler.static_batching import plan_static

LATENCY = SaturationParameters(p_max=12.0, k_b=10.0, k_s=0.01, tau_0=5.0, tau_b=0.02, tau_c=3e-4)


@pytest.mark.parametrize("where", ["prompts", "outputs"])
def test_the_documents_example_is_43_percent_efficient(where):
    # Batching document: lengths 100, 500, 50 pad to 3 * 500 = 1500 token-steps for 650 useful ones, 43.3 %.
    lengths = np.array([100, 500, 50])
    prompts, outputs = (lengths, 1) if where == "prompts" else (1, lengths + 1)
    table = RequestTable.from_arrays(np.zeros(3), prompts, outputs)
    result = simulate(table, LATENCY, Limits(3, max_wait_ms=50.0), mode="static")
    prompt_steps = 0 if where == "prompts" else 3
    assert result.computed_tokens == 1500 + prompt_steps
    assert result.useful_tokens == 650 + prompt_steps
    assert result.useful_tokens / result.computed_tokens == pytest.approx(650 / 1500, abs=0.002)


def test_members_of_a_batch_finish_together():
    table = RequestTable.from_arrays(np.zeros(3), [10, 20, 30], [5, 50, 100])
    result = simulate(table, LATENCY, Limits(3), mode="static")
    assert len(set(result.e2e_ms)) == 1


def test_a_batch_starts_when_it_is_full():
    table = RequestTable.from_arrays([0.0, 10.0, 20.0, 30.0], 50, 5)
    result = simulate(table, LATENCY, Limits(3, max_wait_ms=1000.0), mode="static", record_steps=True)
    assert result.step_log[0, 0] == 20.0
    assert result.step_log[0, 1] == 3


def test_a_batch_that_does_not_fill_starts_after_max_wait():
    table = RequestTable.from_arrays([0.0, 10.0], 50, 5)
    result = simulate(table, LATENCY, Limits(8, max_wait_ms=50.0), mode="static", record_steps=True)
    assert result.step_log[0, 0] == 50.0
    assert result.step_log[0, 1] == 2


def test_the_token_budget_bounds_the_padded_prompts():
    table = RequestTable.from_arrays(np.zeros(6), [100, 400, 100, 100, 100, 100], 3)
    result = simulate(table, LATENCY, Limits(6, token_budget=800), mode="static", record_steps=True)
    assert result.step_log[0, 1] == 2
    assert result.step_log[:, 2].max() <= 800


def test_a_long_prompt_holds_nobody_up_for_ever():
    table = RequestTable.from_arrays(np.zeros(2), [900, 10], 3)
    result = simulate(table, LATENCY, Limits(4, token_budget=200), mode="static")
    assert result.finish_reason == ["length", "length"]


def test_continuous_batching_beats_static_on_mixed_lengths():
    rng = np.random.default_rng(1)
    table = RequestTable.from_arrays(np.zeros(64), rng.integers(10, 500, 64), rng.integers(1, 300, 64))
    static, continuous = (simulate(table, LATENCY, Limits(8), mode=mode) for mode in ("static", "continuous"))
    assert continuous.throughput_tokens_per_s > 1.5 * static.throughput_tokens_per_s


def test_a_member_that_has_said_everything_finishes_when_its_step_fails():
    table = RequestTable.from_arrays([0.0, 0.0], 10, [20, 2])
    engine = SimulatedEngine(EngineConfig(latency=LATENCY, mode="static"), table)
    engine.set_limits(Limits(2))
    engine.run_until(60.0)
    assert engine.state.requests["reason"].tolist() == [UNFINISHED, UNFINISHED]
    plan_static(engine.state)
    commit_failure(engine.state, 1.0)
    assert engine.state.requests["reason"].tolist() == [UNFINISHED, LENGTH]
    assert engine.run_until(np.inf)
    assert engine.state.requests["generated"].tolist() == [20, 2]
