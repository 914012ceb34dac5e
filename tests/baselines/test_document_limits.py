"""The documents' numbers as strategies, in the mode that each is meant for."""

import numpy as np
import pytest

from batchpilot import SLO, RequestTable, SaturationParameters, simulate
from batchpilot.baselines import BASELINES, Setting

LATENCY = SaturationParameters(p_max=12.0, k_b=10.0, k_s=0.01, tau_0=5.0, tau_b=0.02, tau_c=3e-4)
PROMISE = SLO(1000.0, 100.0)


def load(rate_per_s, requests=400, seed=1):
    rng = np.random.default_rng(seed)
    prompts = np.where(rng.random(requests) < 0.3, 900, 60)
    arrivals = np.cumsum(rng.exponential(1000.0 / rate_per_s, requests))
    return RequestTable.from_arrays(arrivals, prompts, rng.integers(5, 60, requests), slos=PROMISE)


def run(name, table, **options):
    return simulate(table, LATENCY, BASELINES[name](Setting(slo=PROMISE)), **options)


@pytest.mark.parametrize("name", ["adaptive-padding", "padding-bound"])
def test_a_bound_on_padding_computes_less_in_vain_than_the_batcher_it_is_added_to(name):
    table = load(20.0)
    plain, bounded = (run(one, table, mode="static") for one in ("dynamic-batcher", name))
    assert bounded.efficiency > plain.efficiency


def test_a_delay_after_prompts_leaves_more_time_to_those_who_decode():
    table = load(20.0)
    at_once, delayed = run("static-default", table), run("delay-factor", table)
    assert delayed.percentile_ms("ttft_ms", 50) > at_once.percentile_ms("ttft_ms", 50)
    assert delayed.count("length") == 400


def test_deadline_and_work_with_relegation_keep_promises_under_overload_and_refuse_nobody():
    table = load(60.0)
    niyama, default = run("niyama", table), run("static-default", table)
    assert niyama.count("length") == 400
    assert niyama.goodput_fraction > default.goodput_fraction
