"""Energy: between idle and peak by the work done, in a plan and in a fleet."""

import math
from dataclasses import replace

import numpy as np
import pytest

from batchpilot.configs.catalogue import Power, device, model, powers
from batchpilot.configs.errors import ConfigError
from batchpilot.core.limits import Limits
from batchpilot.engines.memory import memory_model
from batchpilot.engines.simulated.config import EngineConfig
from batchpilot.fleet import ReplicaSpec, simulate_fleet
from batchpilot.latency.model.registry import find_latency
from batchpilot.latency.planning.energy import EnergyModel, Work
from batchpilot.workloads import RequestTable, poisson

CHIP, SERVED = device("A100-80GB"), model("Llama-3.1-8B")
ENERGY = EnergyModel(Power(name="A100-80GB", peak_w=400.0, idle_w=60.0), CHIP, SERVED)


def test_an_idle_engine_draws_idle_power_on_every_device():
    assert ENERGY.joules(Work(), 10.0) == pytest.approx(600.0)
    assert replace(ENERGY, tensor_parallel=4).joules(Work(), 10.0) == pytest.approx(2400.0)


def test_more_work_draws_more_up_to_the_peak():
    drawn = [ENERGY.joules(Work(1000.0, 20.0, tokens, 20.0), 1.0) for tokens in (20.0, 2000.0, 20_000.0, 2e6)]
    assert drawn == sorted(drawn)
    assert drawn[0] > 60.0
    assert drawn[-1] == pytest.approx(400.0)


def test_a_step_that_reads_all_weights_as_fast_as_software_can_is_at_full_tilt():
    read_ms = 2 * SERVED.parameters / (CHIP.bandwidth_gb_per_s * 1e6 * 0.92)
    assert ENERGY.use(Work(10 * read_ms, 10.0, 10.0, 0.0)) == pytest.approx(1.0, abs=0.01)
    assert ENERGY.use(Work(20 * read_ms, 10.0, 10.0, 0.0)) == pytest.approx(0.5, abs=0.01)


def spec(**how):
    memory = memory_model(CHIP, SERVED)
    latency = find_latency(CHIP, SERVED, 1, "fp16").parameters
    return ReplicaSpec(EngineConfig(latency=latency, memory=memory), Limits(256, 2048), energy=ENERGY, **how)


def offered(rate, seconds=40.0):
    arrival_ms = poisson(rate, 1000.0 * seconds, np.random.default_rng(0))
    n = len(arrival_ms)
    return RequestTable.from_arrays(arrival_ms, np.full(n, 400), np.full(n, 100))


def test_a_fleet_draws_between_idle_and_peak_and_less_a_token_when_fuller():
    results = [simulate_fleet(offered(rate), spec(count=2)) for rate in (1.0, 10.0)]
    for result in results:
        seconds = result.replica_hours * 3600.0
        assert 60.0 * seconds < result.joules < 400.0 * seconds
    assert results[1].joules_per_token < 0.5 * results[0].joules_per_token
    assert results[1].summary()["joules_per_token"] == results[1].joules_per_token


def test_who_decides_meanwhile_changes_no_energy():
    whole = simulate_fleet(offered(5.0), spec(count=2))

    class Same:
        interval_s = 5.0

        def decide(self, view):
            return 2

    watched = simulate_fleet(offered(5.0), spec(count=2), scaler=Same(), least=2, most=2)
    drawn = [result.joules - 60.0 * 3600.0 * result.replica_hours for result in (whole, watched)]
    assert drawn[1] == pytest.approx(drawn[0], rel=1e-6)


def test_without_a_power_there_is_no_figure():
    result = simulate_fleet(offered(1.0), replace(spec(), energy=None))
    assert math.isnan(result.joules)
    assert math.isnan(result.joules_per_token)


def test_own_figures_replace_the_shipped_and_wrong_ones_are_refused(tmp_path):
    own = tmp_path / "power.yaml"
    own.write_text("H100: {peak_w: 500, idle_w: 90}\n")
    assert (powers(own)["H100-80GB"].peak_w, powers(own)["A100-80GB"].peak_w) == (500, 400)
    for text, told in (("H100: {peak_w: 0}", "above 0"), ("H100: {peak_w: 9, idle_w: 10}", "its peak")):
        own.write_text(text)
        with pytest.raises(ConfigError, match=told):
            powers(own)
