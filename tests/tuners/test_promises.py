"""Nobody's promise sets everybody's step target: a few requests cannot move the figures over promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hostile_windows import details, sane_window
from hypothesis import given
from hypothesis import strategies as st

from batchpilot.core import SLO, Limits
from batchpilot.core.slo import FURTHEST_APART, typical_target
from batchpilot.engines import EngineConfig, SimulatedEngine
from batchpilot.latency import SaturationParameters
from batchpilot.serving import TunerSession
from batchpilot.tuners import TUNERS, make_tuner
from batchpilot.workloads import RequestTable

LATENCY = SaturationParameters(p_max=20.0, k_b=0.12, k_s=0.005, tau_0=10.0, tau_b=0.02, tau_c=1e-4)
ODD_PROMISES = (1e9, math.inf, 1e-3, 5e-324)
STUDIOUS = [name for name in TUNERS if name in ("model-based", "guarded-adaptive", "policy-limits", "policy-guarded")]


@given(st.lists(st.floats(50.0, 200.0), min_size=4, max_size=60), st.sampled_from(ODD_PROMISES))
def test_a_quarter_of_the_requests_cannot_move_the_typical_promise_beyond_the_others(targets, odd):
    hostile = [odd] * (len(targets) // 4)
    assert min(targets) * 0.999 <= typical_target(targets + hostile) <= max(targets) * 1.001


@given(st.lists(st.floats(1e-3, 1e9), min_size=1, max_size=60))
def test_a_typical_promise_lies_near_the_median(targets):
    median = float(np.median(targets))
    assert 0.999 * median / FURTHEST_APART <= typical_target(targets) <= 1.001 * FURTHEST_APART * median


def test_requests_without_a_promise_do_not_hide_those_with_one():
    assert typical_target([math.inf] * 9 + [100.0]) == 100.0
    assert typical_target([math.inf]) == math.inf
    assert math.isnan(typical_target([math.nan, 0.0, -1.0]))


@pytest.mark.parametrize("odd", ODD_PROMISES)
def test_windows_of_engine_and_session_tell_the_typical_promise(odd):
    promises = [SLO(2000.0, 100.0)] * 19 + [SLO(odd, odd)]
    requests = RequestTable.from_arrays(np.arange(20.0), np.full(20, 50), np.full(20, 4), slos=promises)
    engine = SimulatedEngine(EngineConfig(latency=LATENCY, estimate=LATENCY, kv_capacity_tokens=100_000), requests)
    engine.set_limits(Limits(32))
    engine.run_until(1000.0)
    window = engine.close_window()
    now = [0.0]
    session = TunerSession(make_tuner("guarded-default"), window_ms=1000.0, clock=lambda: now[0])
    for number, promise in enumerate(promises):
        session.on_arrival(number, 50, ttft_target_ms=promise.ttft_ms, tpot_target_ms=promise.tpot_ms)
    now[0] = 1.5
    session.tick()
    for told in (window, session.latest):
        assert (told.ttft_target_ms, told.tpot_target_ms) == (2000.0, 100.0)
    assert session.limits().step_target_ms <= 100.0


@pytest.mark.parametrize("name", STUDIOUS)
@pytest.mark.parametrize("slo", [None, SLO(2000.0, 100.0)], ids=["told by windows", "told by the operator"])
@pytest.mark.parametrize("odd", ODD_PROMISES)
def test_one_promise_of_twenty_moves_no_limits(name, slo, odd):
    def limits(promise_ms: float) -> Limits:
        tuner = make_tuner(name, slo=slo, track="guarded", latency=LATENCY)
        rng = np.random.default_rng(5)
        for second in range(1, 6):
            told = details(1000.0 * second, rng, hostile=False, most=21)
            told.arrivals["tpot_target_ms"][:1] = told.arrivals["ttft_target_ms"][:1] = promise_ms
            tuner.study(told)
            tuner.tell(sane_window(tuner.ask(), 1000.0 * (second - 1), rng))
        return tuner.ask()

    calm, asked = limits(100.0), limits(odd)
    assert (asked.step_target_ms is None) == (calm.step_target_ms is None)
    if calm.step_target_ms is not None:
        assert asked.step_target_ms == pytest.approx(calm.step_target_ms, rel=0.3)


def test_a_plan_looks_no_further_however_long_the_promises_are():
    tuner = make_tuner("model-based", track="guarded", latency=LATENCY)
    rng = np.random.default_rng(5)
    told = details(1000.0, rng, hostile=False, most=21)
    told.arrivals["tpot_target_ms"] = told.arrivals["ttft_target_ms"] = 1e9
    tuner.study(told)
    tuner.tell(sane_window(tuner.ask(), 0.0, rng))
    horizon_s = float(tuner.status()["reason"].partition("over ")[2].partition(" s")[0])
    assert horizon_s <= 90.0
