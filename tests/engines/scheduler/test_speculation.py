"""Speculative decoding in the scheduler: several tokens a step, and nothing is lost, leaked or said twice."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shared_prefixes import in_common

from batchpilot import SLO, Limits, RequestTable, SaturationParameters, simulate
from batchpilot.configs.scenario import EngineSpec, scenario
from batchpilot.core.limit_arrays import limit_arrays, limits_at
from batchpilot.core.speculation import Speculation
from batchpilot.engines import EngineConfig, SimulatedEngine
from batchpilot.engines.memory import MemoryModel
from batchpilot.engines.scheduler.state import UNFINISHED
from batchpilot.engines.simulated.stream import simulate_stream
from batchpilot.engines.simulated.twin import Future, Horizon, Twin
from batchpilot.envs import prepare
from batchpilot.envs.rows import SimulationRows

LATENCY = SaturationParameters(p_max=12.0, k_b=10.0, k_s=0.01, tau_0=5.0, tau_b=0.02, tau_c=3e-4)
ONE_BY_ONE = SaturationParameters(p_max=1.0, k_b=50.0, k_s=50.0, tau_0=0.01)
"""Every token takes a millisecond, whoever it belongs to: a device that is bound by computing."""
WAITING = SaturationParameters(p_max=1000.0, k_b=50.0, k_s=50.0, tau_0=20.0)
"""A step takes 20 ms, whatever is in it: a device that is bound by reading its weights."""


@st.composite
def tables(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 50))
    prompts, outputs = rng.integers(1, 900, n), rng.integers(1, 120, n)
    return RequestTable.from_arrays(
        np.cumsum(rng.exponential(draw(st.sampled_from([1e-3, 20.0, 200.0])), n)),
        prompts,
        outputs,
        user=rng.integers(0, 4, n),
        priority=rng.integers(0, 3, n),
        slos=SLO(1500.0, 80.0),
        concurrency=draw(st.sampled_from([0, 0, 4])),
        prefixes=in_common(prompts + outputs, 32, rng) if draw(st.booleans()) else None,
    )


drafting = st.builds(
    Limits,
    batch_size=st.integers(1, 30),
    token_budget=st.one_of(st.none(), st.integers(1, 1000)),
    step_target_ms=st.one_of(st.none(), st.floats(0.5, 100.0)),
    ttft_guard=st.one_of(st.none(), st.floats(0.05, 3.0)),
    discipline=st.sampled_from(["fcfs", "sjf", "spf", "slo", "fair", "priority", "deadline"]),
    speculative_tokens=st.integers(1, 12),
)
drafters = st.builds(Speculation, st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 0.2))
options = st.fixed_dictionaries(
    {
        "kv_capacity_tokens": st.integers(1100, 6000),
        "prefill": st.sampled_from(["chunked", "whole", "selective"]),
        "speculation": drafters,
        "seed": st.integers(0, 100),
    }
)
lawful = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@lawful
@given(tables(), drafting, options)
def test_every_request_says_its_whole_output_and_no_token_more(table, limits, how):
    result = simulate(table, LATENCY, limits, prefix_cache=table.prefixes is not None, record_steps=True, **how)
    reasons = np.array(result.finish_reason)
    assert not np.any(reasons == "unfinished")
    np.testing.assert_array_equal(
        result.generated_tokens[reasons == "length"], table.output_tokens[reasons == "length"]
    )
    assert np.all(result.generated_tokens <= table.output_tokens)
    assert sum(window.generated_tokens for window in result.windows) == result.total_generated_tokens
    assert result.computed_tokens == result.step_log[:, 2].sum()
    if limits.token_budget is not None:
        assert np.all(result.step_log[:, 2] <= limits.token_budget)
    drafted, accepted = (sum(getattr(w, f"{name}_tokens") for w in result.windows) for name in ("drafted", "accepted"))
    assert 0 <= accepted <= drafted <= 12 * sum(window.drafts for window in result.windows)
    if result.preemptions == 0 and table.prefixes is None:
        assert result.computed_tokens - result.useful_tokens == drafted - accepted
        finished = reasons == "length"
        assert result.useful_tokens == (table.prompt_tokens + table.output_tokens - 1)[finished].sum()


@lawful
@given(tables(), drafting, options, st.randoms(use_true_random=False))
def test_kv_blocks_neither_leak_nor_are_freed_twice(table, limits, how, random):
    config = EngineConfig(LATENCY, prefix_cache=table.prefixes is not None, **how)
    engine = SimulatedEngine(config, table)
    clock, requests, total = engine.state.clock[0], engine.state.requests, config.capacity_tokens // 16
    done = False
    while not done:
        engine.set_limits(limits if random.random() < 0.7 else limits.replace(speculative_tokens=0))
        done = engine.run_until(engine.now_ms + 40.0)
        if random.random() < 0.2:
            engine.cancel(random.randrange(len(table)))
        shared = engine.state.chains["shared"].sum() if clock.prefix_cache else 0
        contents = engine.state.contents["holders"] if clock.prefix_cache else np.zeros(0)
        held_once = requests["blocks"].sum() - shared + np.count_nonzero(contents > 0)
        assert held_once == total - clock.free_blocks
        assert contents[contents > 0].sum() == shared
        live = requests["reason"] == UNFINISHED
        assert np.all(requests["blocks"][~live] == 0)
        running = requests[engine.state.slots["running"][: clock.n_running]]
        assert np.all(running["blocks"] * 16 >= running["computed"])
        assert clock.plan_drafted == 0
        done = done or bool(clock.n_ended == clock.n_requests)
    assert clock.free_blocks == total


@lawful
@given(tables(), drafting, options, st.floats(5.0, 3000.0))
def test_measuring_in_windows_does_not_change_what_is_accepted(table, limits, how, window_ms):
    whole, parts = (simulate(table, LATENCY, limits, window_ms=ms, **how) for ms in (1e9, window_ms))
    np.testing.assert_array_equal(whole.e2e_ms, parts.e2e_ms)
    assert sum(w.accepted_tokens for w in whole.windows) == sum(w.accepted_tokens for w in parts.windows)


def test_tables_of_a_stream_are_drawn_for_as_one_run():
    rng = np.random.default_rng(0)
    table = RequestTable.from_arrays(np.cumsum(rng.exponential(40.0, 80)), rng.integers(1, 400, 80), 60)
    limits = Limits(8, 512, speculative_tokens=3)
    at_once = simulate(table, LATENCY, limits, estimate=LATENCY, seed=5)
    config = EngineConfig(LATENCY, LATENCY, seed=5)
    parts = list(simulate_stream([table.select(slice(0, 30)), table.select(slice(30, 80))], config, limits))
    ends = np.concatenate([part.requests.arrival_ms + part.e2e_ms for part in parts])
    np.testing.assert_array_equal(np.sort(ends), np.sort(table.arrival_ms + at_once.e2e_ms))


@pytest.mark.parametrize(
    "speculation", [Speculation(0.65), Speculation(0.8, 0.9), Speculation(0.0), Speculation(1.0), Speculation(0.3, 0.5)]
)
@pytest.mark.parametrize("drafted", [1, 4, 8])
def test_drafts_give_as_many_tokens_as_expected(speculation, drafted):
    table = RequestTable.from_arrays(np.zeros(40), 20, 2000)
    result = simulate(table, LATENCY, Limits(40, speculative_tokens=drafted), speculation=speculation)
    assert result.accepted_length == pytest.approx(speculation.expected_tokens(drafted), rel=0.03)


def test_the_expected_length_is_the_sum_of_a_geometric_series():
    assert Speculation(0.8).expected_tokens(4) == pytest.approx((1 - 0.8**5) / (1 - 0.8))
    assert Speculation(0.5, 0.5).expected_tokens(2) == 1 + 0.5 + 0.5 * 0.25


def test_drafts_pay_where_a_step_takes_what_it_takes_and_cost_where_every_token_does():
    table = RequestTable.from_arrays(np.zeros(8), 20, 400)
    spent = {}
    for name, latency in (("waiting", WAITING), ("computing", ONE_BY_ONE)):
        for drafted in (0, 4):
            limits = Limits(8, speculative_tokens=drafted)
            result = simulate(table, latency, limits, speculation=Speculation(0.65, 1.0, 0.0))
            spent[name, drafted] = result.e2e_ms.mean()
    expected = Speculation(0.65).expected_tokens(4)
    assert spent["waiting", 0] / spent["waiting", 4] == pytest.approx(expected, rel=0.1)
    assert spent["computing", 4] / spent["computing", 0] == pytest.approx(5 / expected, rel=0.1)


def test_a_draft_model_takes_its_share_of_the_step_for_every_drafted_token():
    table = RequestTable.from_arrays([0.0], 1, 2)
    limits = Limits(1, speculative_tokens=3)
    free, paid = (
        simulate(RequestTable.from_arrays([0.0], 1, 5), WAITING, limits, speculation=Speculation(1.0, 1.0, share))
        for share in (0.0, 0.1)
    )
    assert paid.e2e_ms[0] - free.e2e_ms[0] == pytest.approx(3 * 0.1 * WAITING.predict_one(1, 1, 1))
    assert math.isnan(simulate(table, WAITING, limits).accepted_length), "the last token needs no draft"


def test_nobody_is_preempted_for_a_draft():
    table = RequestTable.from_arrays(np.zeros(4), 32, 33)
    plain, drafting = (
        simulate(table, LATENCY, Limits(4, speculative_tokens=k), kv_capacity_tokens=256) for k in (0, 8)
    )
    assert plain.preemptions == drafting.preemptions == 0


def test_a_failed_step_gives_the_blocks_of_its_drafts_back():
    memory = MemoryModel(1000.0, 700.0, 0.1, 1.0, 2000)
    table = RequestTable.from_arrays(np.zeros(20), 4, 40)
    engine = SimulatedEngine(EngineConfig(LATENCY, memory=memory), table)
    engine.set_limits(Limits(20, speculative_tokens=8))
    failures = 0
    while not engine.run_until(engine.now_ms + 20.0):
        failures += engine.close_window().failures
        clock = engine.state.clock[0]
        assert engine.state.requests["blocks"].sum() == clock.total_blocks - clock.free_blocks
    assert failures > 0
    assert engine.state.clock[0].free_blocks == engine.state.clock[0].total_blocks


def test_padded_batches_refuse_to_draft_in_words():
    table = RequestTable.from_arrays([0.0], 10, 10)
    with pytest.raises(
        ValueError, match=r"speculative_tokens is 4 in mode static.*set it to 0 or choose mode continuous"
    ):
        simulate(table, LATENCY, Limits(4, speculative_tokens=4), mode="static")
    rows = SimulationRows(2)
    rows._clock["mode"][1] = 1
    with pytest.raises(ValueError, match="speculative_tokens is 2 in mode static"):
        rows.set_limits(limit_arrays([Limits(4), Limits(4, speculative_tokens=2)]))


@pytest.mark.parametrize("latency", [WAITING, ONE_BY_ONE])
def test_the_twin_knows_where_drafts_pay(latency):
    table = RequestTable.from_arrays(np.zeros(8), 20, 4000, slos=SLO(1e6, 1e6))
    engine = SimulatedEngine(EngineConfig(latency), table)
    engine.set_limits(Limits(8))
    engine.run_until(500.0)
    future = Future(engine.state.requests[:8].copy(), 8, 0)
    twin = Twin()
    twin.look(
        [future, future], latency, 0, Horizon(engine.now_ms, 1000.0, 2000.0, prefill_share=0.0), Speculation(0.65)
    )
    values = twin.values(limit_arrays([Limits(8), Limits(8, speculative_tokens=4)]))
    assert (values[1] > values[0]).all() == (latency is WAITING)
    np.testing.assert_array_equal(values[:, 0], values[:, 1])


@pytest.mark.parametrize("drafted", [0, 1, 8])
def test_the_limit_survives_arrays_and_files(drafted):
    limits = Limits(8, speculative_tokens=drafted)
    assert limits_at(limit_arrays([limits]), 0) == limits == Limits.from_dict(limits.to_dict())
    assert ("speculative_tokens" in str(limits)) == ("speculative_tokens" in limits.in_force()) == (drafted > 0)


@pytest.mark.parametrize("wrong", [-1, 1.5, True, "4"])
def test_a_draft_has_a_whole_number_of_tokens(wrong):
    with pytest.raises(ValueError, match="speculative_tokens is"):
        Limits(8, speculative_tokens=wrong)


@pytest.mark.parametrize("wrong", [{"acceptance": 1.1}, {"decay": math.nan}, {"draft_share": -0.1}])
def test_a_drafter_out_of_bounds_is_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Speculation(**wrong)


def started_with(drafted):
    return Speculation(acceptance=0.7, draft_share=0.02, drafted=drafted)


def test_a_server_started_with_drafts_serves_as_limits_that_ask_for_them_do():
    table = RequestTable.from_arrays(np.linspace(0.0, 900.0, 20), 40, 80)
    asked = simulate(table, LATENCY, Limits(8, 512, speculative_tokens=3), speculation=started_with(0), seed=1)
    started = simulate(table, LATENCY, Limits(8, 512), speculation=started_with(3), seed=1)
    np.testing.assert_array_equal(asked.e2e_ms, started.e2e_ms)
    assert sum(window.drafted_tokens for window in started.windows) > 0
    assert started.windows[0].limits.speculative_tokens == 0


def test_limits_that_ask_for_drafts_go_before_what_the_server_was_started_with():
    table = RequestTable.from_arrays(np.linspace(0.0, 900.0, 20), 40, 80)
    asked, either = (
        simulate(table, LATENCY, Limits(8, 512, speculative_tokens=2), speculation=started_with(drafted), seed=1)
        for drafted in (0, 5)
    )
    np.testing.assert_array_equal(asked.e2e_ms, either.e2e_ms)


def test_rows_of_an_environment_draft_what_each_ones_server_was_started_with():
    drafting, plain = prepare(scenario("held-drafts-head-m3"), 0), prepare(scenario("quick-chat"), 0)
    rows = SimulationRows(2)
    for i, run in enumerate((drafting, plain)):
        rows.load(i, run)
    rows.set_limits(limit_arrays([Limits(64, 2048)] * 2))
    rows.run_until(np.full(2, 20_000.0))
    assert rows.metrics["drafted_tokens"][0] > 0
    assert rows.metrics["drafted_tokens"][1] == 0
    assert rows.metrics["generated_tokens"][1] > 0


def test_padded_batches_refuse_a_server_that_drafts_and_so_does_its_scenario():
    with pytest.raises(ValueError, match=r"speculation\.drafted is above 0 in mode static"):
        EngineConfig(LATENCY, mode="static", speculation=started_with(2))
    with pytest.raises(ValueError, match="padded batches advance together"):
        EngineSpec(mode="static", speculation={"drafted": 2})
    with pytest.raises(ValueError, match="drafted is -1"):
        started_with(-1)
