"""Predictive batching waits while that makes a batch more efficient by a fifth."""

import numpy as np
import pytest

from batchpilot import Limits, RequestTable, SaturationParameters, simulate
from batchpilot.baselines import BASELINES, Setting
from batchpilot.baselines.dispatch.predictive import efficiency, served_at_once_from
from batchpilot.baselines.dispatch.service_times import ServiceTimes


def test_it_waits_exactly_while_the_gain_is_above_a_fifth():
    times, gap_ms = ServiceTimes(2.0, 60.0, warm_up=[]), 25.0
    first = served_at_once_from(times, gap_ms, 64)
    gains = [efficiency(n + 4, times) / efficiency(n, times) for n in range(1, 64)]
    assert 1 < first < 64
    assert [gain > 1.2 for gain in gains] == [n < first for n in range(1, 64)]


def test_what_costs_the_same_in_any_batch_is_not_waited_for():
    assert served_at_once_from(ServiceTimes(5.0, 0.0, warm_up=[]), 1.0, 32) == 1


def test_no_more_are_expected_than_a_batch_holds():
    # However many come: eight instead of seven are an eighth more.
    assert served_at_once_from(ServiceTimes(0.001, 100.0, warm_up=[]), 1e-3, 8) == 7


@pytest.mark.parametrize("gap_ms", [30.0, 2000.0])
def test_the_wait_is_within_100_ms_and_makes_batches_larger_where_it_pays(gap_ms):
    rng = np.random.default_rng(2)
    table = RequestTable.from_arrays(np.cumsum(rng.exponential(gap_ms, 400)), 64, 1)
    latency = SaturationParameters(p_max=12.0, k_b=10.0, k_s=0.01, tau_0=60.0, tau_b=1.0)
    waits = simulate(table, latency, BASELINES["predictive-wait"](Setting()), mode="static", window_ms=1000.0)
    at_once = simulate(table, latency, Limits(32), mode="static", window_ms=1000.0)
    set_ms = [window.limits.max_wait_ms for window in waits.windows]
    assert max(set_ms) <= 100.0
    larger = waits.windows[-1].batch_size_mean > at_once.windows[-1].batch_size_mean
    assert (max(set_ms) > 0, larger) == ((True, True) if gap_ms == 30.0 else (max(set_ms) > 0, False))
