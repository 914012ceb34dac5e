import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchpilot.agents.training.randomisation import Randomisation, Range, draw_scenarios
from batchpilot.envs.scenarios import prepare

RANGES = Randomisation(devices=["A10", "T4"], models=["Qwen3-0.6B", "Llama-2-7B"], most_requests=300)


def draw(count, seed, ranges=RANGES):
    return draw_scenarios(ranges, count, np.random.default_rng(seed), "drawn")


@given(st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_every_drawn_scenario_can_be_prepared_and_keeps_to_its_ranges(seed):
    (scenario,) = draw(1, seed)
    run = prepare(scenario, seed)
    assert scenario.device in RANGES.devices
    assert scenario.model in RANGES.models
    assert 40.0 <= scenario.duration_s <= RANGES.duration_s.high
    assert scenario.engine.noise <= RANGES.noise.high
    assert run.requests.ttft_target_ms.min(initial=np.inf) >= RANGES.ttft_ms.low


def test_equal_generators_draw_equal_scenarios_and_others_do_not():
    assert draw(3, 1) == draw(3, 1)
    assert draw(3, 1) != draw(3, 2)


def test_every_kind_of_load_is_drawn():
    families = {scenario.family for scenario in draw(60, 0)}
    assert families == {"stationary", "bursty", "diurnal", "prompt-shift", "slo-shift"}
    assert any(scenario.engine.drift for scenario in draw(20, 0))


def test_a_promise_is_never_tighter_than_a_device_alone_could_keep():
    slow = Randomisation(devices=["CPU"], models=["Llama-2-7B"], tpot_ms=Range(low=1.0, high=1.0))
    for scenario in draw(5, 0, slow):
        run = prepare(scenario, 0)
        assert run.requests.tpot_target_ms.min() > float(run.engine.latency.predict(1, 1, 100))


def test_drawn_devices_differ_from_the_named_one_and_from_each_other_unless_the_spread_is_off():
    def first_steps(spread):
        ranges = RANGES.model_copy(update={"devices": ["T4"], "models": ["Qwen3-0.6B"], "device_spread": spread})
        drawn = draw(12, 3, ranges.model_copy(update={"tensor_parallel": [1], "dtypes": ["fp16"]}))
        return {float(prepare(scenario, 0).engine.latency.predict(1, 1, 0)) for scenario in drawn}

    assert len(first_steps(0.0)) == 1
    assert len(first_steps(0.3)) == 12


def test_a_range_out_of_order_is_refused():
    with pytest.raises(ValueError, match="low 2 is above high 1"):
        Range(low=2.0, high=1.0)


def test_a_model_that_fits_nowhere_is_told():
    nowhere = Randomisation(devices=["T4"], models=["Llama-2-70B"], tensor_parallel=[1])
    with pytest.raises(ValueError, match="none of the models Llama-2-70B fits on any of T4"):
        draw(1, 0, nowhere)
