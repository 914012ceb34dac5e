"""Laws of tenants: nobody above its ceiling, nobody forgotten, shares by weight."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchpilot import SLO, Limits, RequestTable, SaturationParameters, simulate
from batchpilot.core.limits import DISCIPLINES
from batchpilot.core.tenants import TenantTerms
from batchpilot.engines import EngineConfig, SimulatedEngine
from batchpilot.engines.simulated.fairness import served_by_user, tenant_figures
from batchpilot.engines.simulated.stream import simulate_stream

LATENCY = SaturationParameters(p_max=12.0, k_b=10.0, k_s=0.01, tau_0=5.0, tau_b=0.02, tau_c=3e-4)


def table(seed, n=50, users=3, gap_ms=60.0):
    rng = np.random.default_rng(seed)
    return RequestTable.from_arrays(
        np.cumsum(rng.exponential(gap_ms, n)),
        rng.integers(1, 900, n),
        rng.integers(1, 60, n),
        user=10 * rng.integers(0, users, n),
        priority=rng.integers(0, 3, n),
        slos=SLO(1500.0, 80.0),
    )


terms_of_any_kind = st.dictionaries(
    st.sampled_from([0, 10, 20]),
    st.builds(TenantTerms, st.floats(0.1, 8.0), st.one_of(st.none(), st.integers(1, 4))),
    max_size=3,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 2**32 - 1),
    terms_of_any_kind,
    st.sampled_from([*DISCIPLINES]),
    st.sampled_from([("continuous", "chunked"), ("continuous", "selective"), ("static", "chunked")]),
    st.one_of(st.none(), st.floats(0.2, 3.0)),
    st.integers(0, 49),
)
def test_nobody_is_above_its_ceiling_and_nobody_is_forgotten(seed, terms, discipline, mode, guard, cancelled):
    requests = table(seed)
    config = EngineConfig(LATENCY, kv_capacity_tokens=3000, mode=mode[0], prefill=mode[1], tenants=terms)
    engine = SimulatedEngine(config, requests)
    engine.set_limits(Limits(9, token_budget=300, ttft_guard=guard, discipline=discipline, max_wait_ms=50.0))
    users = np.unique(requests.user)
    ceilings = np.array([terms.get(user, TenantTerms()).max_running or math.inf for user in users.tolist()])
    done, at_ms = False, 0.0
    while not done:
        at_ms += 100.0
        done = engine.run_until(at_ms)
        if at_ms == 1000.0:
            engine.cancel(cancelled)
        state = engine.state
        runs = (state.requests["blocks"] > 0) & (state.requests["reason"] == 0)
        running = np.bincount(state.requests["user"][runs], minlength=len(users))
        assert np.all(running <= ceilings)
        if state.clock["ceilings"][0]:
            np.testing.assert_array_equal(state.users["running"], running)
            held = np.bincount(state.requests["user"][state.requests["held"] > 0], minlength=len(users))
            np.testing.assert_array_equal(state.users["held"], held)
            waiting = state.lines["waiting"][: int(state.clock["n_queue"][0])]
            has_turn = waiting[state.requests["held"][waiting] == 0]
            turns = np.bincount(state.requests["user"][has_turn], minlength=len(users))
            assert np.all((held == 0) | (turns >= ceilings - running)), "who may run has its turn"
    assert np.all(state.requests["reason"] != 0)


def test_terms_that_say_nothing_change_nothing():
    requests = table(3)
    for limits in (Limits(8, 256), Limits(8, 256, discipline="fair", ttft_guard=1.0)):
        plain = simulate(requests, LATENCY, limits)
        same = simulate(requests, LATENCY, limits, tenants={0: TenantTerms(), 20: TenantTerms(max_running=1000)})
        np.testing.assert_array_equal(plain.e2e_ms, same.e2e_ms)
        assert plain.finish_reason == same.finish_reason


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_past_capacity_shares_are_as_weights(weight):
    n = 400
    rng = np.random.default_rng(5)
    requests = RequestTable.from_arrays(
        np.sort(rng.uniform(0.0, 10_000.0, n)), np.full(n, 200), np.full(n, 40), user=rng.integers(0, 2, n)
    )
    result = simulate(
        requests,
        LATENCY,
        Limits(8, 256, discipline="fair"),
        tenants={0: TenantTerms(weight=weight)},
        horizon_ms=10_000.0,
    )
    assert result.count("length") < 0.7 * n, "the engine is past its capacity"
    tokens = [result.generated_tokens[requests.user == user].sum() for user in (0, 1)]
    assert tokens[0] / tokens[1] == pytest.approx(weight, rel=0.15)


def test_a_tenant_that_floods_an_engine_is_held_so_that_others_are_served():
    rng = np.random.default_rng(1)
    n = 300
    requests = RequestTable.from_arrays(
        np.sort(rng.uniform(0.0, 10_000.0, n)),
        np.full(n, 300),
        np.full(n, 60),
        user=(rng.random(n) < 0.1).astype(int),
        slos=SLO(2000.0, 100.0),
    )
    free = simulate(requests, LATENCY, Limits(8, 256))
    held = simulate(requests, LATENCY, Limits(8, 256), tenants={0: TenantTerms(max_running=5)})
    shares = [{user: s / asked for user, (s, asked) in served_by_user(r).items()} for r in (free, held)]
    assert shares[0][1] < 0.5
    assert shares[1][1] > 0.9, "who sends little does not wait behind who sends much"
    told = tenant_figures(held, {0: TenantTerms(max_running=5)})
    assert told["user_1_served_of_demand"] == pytest.approx(shares[1][1])
    assert told["user_0_share_of_served"] + told["user_1_share_of_served"] == pytest.approx(1.0)


def test_a_stream_keeps_ceilings_from_table_to_table():
    requests, terms = table(7, n=120), {0: TenantTerms(2.0, 1), 20: TenantTerms(max_running=2)}
    config = EngineConfig(LATENCY, LATENCY, kv_capacity_tokens=4000, tenants=terms)
    limits = Limits(8, 256)
    whole = simulate(requests, LATENCY, limits, kv_capacity_tokens=4000, tenants=terms, estimate=LATENCY)
    free = simulate(requests, LATENCY, limits, kv_capacity_tokens=4000, estimate=LATENCY)
    parts = [requests.select(slice(0, 60)), requests.select(slice(60, 120))]
    told = np.concatenate([part.e2e_ms for part in simulate_stream(parts, config, limits)])
    np.testing.assert_allclose(np.sort(told), np.sort(whole.e2e_ms))
    assert not np.allclose(np.sort(told), np.sort(free.e2e_ms)), "the ceilings have bitten"
