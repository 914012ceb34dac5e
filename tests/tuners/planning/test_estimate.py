"""What a tuner believes a step costs: the typical step is learned, the mean is believed."""

import json

import numpy as np
import pytest

from batchpilot.core.details import IN_FLIGHT, WindowDetails
from batchpilot.latency import SaturationParameters
from batchpilot.tuners.planning.estimating import FEWEST_STEPS, SLOWEST, Estimate, slower

BASE = SaturationParameters(p_max=20.0, k_b=0.5, k_s=0.02, tau_0=5.0, tau_b=0.1, tau_c=1e-4)
SIZES = (4, 8, 16, 24, 32)


def a_window(factor):
    """A hundred steps, each so many times as long as the base says."""
    steps = []
    for number in range(100):
        batch_size = SIZES[number % len(SIZES)]
        duration_ms = BASE.predict_one(batch_size, 2 * batch_size, 100 * batch_size) * factor(number)
        steps.append((50.0 * number, batch_size, 2 * batch_size, 100 * batch_size, duration_ms))
    nobody = np.zeros(0, IN_FLIGHT)
    return WindowDetails(5000.0, np.array(steps), nobody, np.array([], np.int64), nobody, nobody)


def believed_over_base(estimate):
    return estimate.parameters.predict_one(16, 32, 1600) / BASE.predict_one(16, 32, 1600)


def test_steps_as_expected_leave_the_estimate_as_it_was():
    estimate = Estimate(BASE)
    estimate.hear(a_window(lambda number: 1.0))
    assert believed_over_base(estimate) == pytest.approx(1.0, abs=0.01)


def test_glitches_that_leave_the_typical_step_alone_are_believed_in_the_mean():
    estimate = Estimate(BASE)
    for _ in range(5):
        estimate.hear(a_window(lambda number: 3.0 if number % 9 == 0 else 1.0))
    typical = estimate.adaptive.parameters
    assert typical.predict_one(16, 32, 1600) / BASE.predict_one(16, 32, 1600) == pytest.approx(1.0, abs=0.08)
    assert believed_over_base(estimate) == pytest.approx(1.23, abs=0.03)


def test_a_mean_far_from_the_estimate_is_not_believed_at_once():
    estimate = Estimate(BASE)
    estimate.hear(a_window(lambda number: 100.0 if number % 9 == 0 else 1.0))
    assert believed_over_base(estimate) <= SLOWEST * 1.1


def test_fewer_steps_than_a_mean_needs_change_nothing():
    few = a_window(lambda number: 2.0)
    few = WindowDetails(
        few.now_ms, few.steps[: FEWEST_STEPS - 1], few.arrivals, few.output_tokens, few.running, few.waiting
    )
    estimate = Estimate(BASE)
    estimate.hear(few)
    assert estimate.parameters == estimate.adaptive.parameters


def test_a_saved_estimate_believes_the_same():
    estimate, other = Estimate(BASE), Estimate(BASE)
    estimate.hear(a_window(lambda number: 3.0 if number % 9 == 0 else 1.0))
    other.load_state_dict(json.loads(json.dumps(estimate.state_dict())))
    assert other.parameters == estimate.parameters != BASE
    estimate.forget()
    assert estimate.parameters == BASE


def test_every_step_of_slower_parameters_takes_so_many_times_as_long():
    for batch_size, tokens, context in ((1, 1, 0), (8, 500, 3000), (64, 64, 20_000)):
        once = BASE.predict_one(batch_size, tokens, context)
        assert slower(BASE, 1.3).predict_one(batch_size, tokens, context) == pytest.approx(1.3 * once)
    assert slower(BASE, 0.5) == BASE


@pytest.mark.parametrize("stage", ["offline", "shadow"])
def test_before_it_decides_it_learns_and_the_base_is_believed(stage):
    estimate = Estimate(BASE, stage)
    for _ in range(10):
        estimate.hear(a_window(lambda number: 1.4))
    assert believed_over_base(estimate) == pytest.approx(1.0)
    assert estimate.error == pytest.approx(1 - 1 / 1.4, abs=0.02)
    estimate.move_to("full")
    learned = {"offline": 1.0, "shadow": 1.4}[stage]
    assert estimate.adaptive.adapted.predict_one(16, 32, 1600) / BASE.predict_one(16, 32, 1600) == pytest.approx(
        learned, rel=0.1
    )
    assert believed_over_base(estimate) == pytest.approx(1.4, rel=0.1)
    estimate.forget()
    assert estimate.adaptive.stage == "full"


def test_in_part_it_is_believed_in_that_share_of_the_windows():
    estimate = Estimate(BASE, "shadow")
    for _ in range(10):
        estimate.hear(a_window(lambda number: 1.4))
    estimate.move_to("partial", 0.3)
    believed = []
    for _ in range(100):
        estimate.hear(a_window(lambda number: 1.4))
        believed.append(believed_over_base(estimate) > 1.2)
    assert 0.2 < np.mean(believed) < 0.4
    assert estimate.status()["latency_stage"] == "partial"


def test_a_stage_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"'shadw'.*shadow"):
        Estimate(BASE, "shadw")


def test_what_is_told_of_it_is_json_from_the_first_window_on():
    estimate = Estimate(BASE)
    assert json.loads(json.dumps(estimate.status(), allow_nan=False))["latency_mean_error"] is None
    for _ in range(30):
        estimate.hear(a_window(lambda number: 1.1))
    told = json.loads(json.dumps(estimate.status(), allow_nan=False))
    assert told["latency_healthy"] is True
    assert told["latency_observations_per_update"] >= 25
