"""Energy and money of a run, per token that was served in time."""

import math
from dataclasses import replace

import pytest

from batchpilot import Limits
from batchpilot.configs.catalogue import powers, prices
from batchpilot.configs.scenario import scenario
from batchpilot.engines import SimulatedEngine
from batchpilot.engines.simulated.simulation import run_engine
from batchpilot.envs.scenarios import prepare
from batchpilot.runners.leaderboard.device_use import device_use


@pytest.fixture(scope="module")
def run():
    return prepare(scenario("quick-steady"), 0)


def served(run, limits, horizon_ms=40_000.0):
    return run_engine(SimulatedEngine(run.engine, run.requests), limits, window_ms=1000.0, horizon_ms=horizon_ms)


def test_energy_lies_between_idle_and_full_tilt_and_money_is_the_price_of_the_time(run):
    result = served(run, Limits(64, 2048))
    told = device_use(run, result)
    tokens, seconds = float(result.generated_tokens[result.slo_met].sum()), result.elapsed_ms / 1000.0
    power, price = powers()[run.scenario.device], prices()[run.scenario.device]
    assert power.idle * seconds / tokens < told["joules_per_token"] < power.peak_w * seconds / tokens
    assert told["usd_per_million"] == pytest.approx(price.usd_per_hour * seconds / 3600 / tokens * 1e6)


def test_who_keeps_less_in_the_same_time_pays_more_for_each(run):
    slow, fast = (device_use(run, served(run, Limits(size, 2048))) for size in (4, 64))
    for column in ("joules_per_token", "usd_per_million"):
        assert slow[column] > 2 * fast[column]


def test_what_is_not_known_is_not_made_up(run):
    result = served(run, Limits(64, 2048), horizon_ms=5_000.0)
    unknown = replace(run, scenario=run.scenario.model_copy(update={"device": "my-own-device"}))
    assert math.isnan(device_use(unknown, result)["joules_per_token"])
    nothing = served(run, Limits(64, max_queued_tokens=0), horizon_ms=5_000.0)
    assert all(math.isnan(device_use(run, nothing)[column]) for column in ("joules_per_token", "usd_per_million"))


def test_use_is_told_as_shares_of_the_device(run):
    result = served(run, Limits(64, 2048))
    told = device_use(run, result)
    for column in ("bandwidth_utilisation", "compute_utilisation", "memory_utilisation", "kv_used_mean"):
        assert 0 < told[column] < 1, column
    assert told["kv_used_mean"] <= told["kv_used_peak"] <= 1
    assert told["utilisation_peak"] == max(window.utilisation for window in result.windows)
    # Weights are held whatever is served.
    lone = device_use(run, served(run, Limits(1, 2048)))
    assert 0.15 < lone["memory_utilisation"] < told["memory_utilisation"]
    assert lone["flop_per_byte"] < told["flop_per_byte"]
