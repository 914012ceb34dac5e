"""AIMD steps, with the arithmetic of the last 100 samples written out."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpilot.baselines import AIMDTuner
from batchpilot.core import SLO, Limits, WindowMetrics
from batchpilot.tuners import make_tuner


def tell(tuner: AIMDTuner, step_ms: float, steps: int = 100, **changes) -> int:
    tuner.tell(WindowMetrics(limits=tuner.ask(), duration_ms=1000.0, steps=steps, step_ms_mean=step_ms, **changes))
    return tuner.ask().batch_size


def test_steps_up_by_one_below_eight_tenths_of_the_target():
    tuner = AIMDTuner(Limits(8), target_ms=50.0)
    assert [tell(tuner, 39.9), tell(tuner, 39.9)] == [9, 10]


def test_holds_between_eight_tenths_and_the_target():
    tuner = AIMDTuner(Limits(8), target_ms=50.0)
    assert [tell(tuner, 40.0), tell(tuner, 50.0)] == [8, 8]


def test_steps_down_by_one_above_the_target():
    tuner = AIMDTuner(Limits(8), target_ms=50.0)
    assert [tell(tuner, 50.1), tell(tuner, 60.0)] == [7, 6]


def test_the_mean_is_over_the_last_hundred_steps():
    tuner = AIMDTuner(Limits(8), target_ms=50.0)
    assert tell(tuner, 30.0, steps=50) == 9
    assert tell(tuner, 60.0, steps=50) == 9  # (30 * 50 + 60 * 50) / 100 = 45: between 40 and 50
    assert tell(tuner, 60.0, steps=50) == 8  # the first 50 steps have left: 60


def test_clippers_rule_cuts_by_a_tenth_and_forgets():
    tuner = make_tuner("aimd-clipper", base=Limits(1), target_ms=50.0)
    for _ in range(12):
        tell(tuner, 49.0)
    assert tuner.ask().batch_size == 20
    assert tell(tuner, 51.0) == 18
    assert tell(tuner, 49.0) == 19


def test_the_target_comes_from_the_slo_or_else_from_the_windows():
    assert tell(AIMDTuner(Limits(8), slo=SLO(2000.0, 20.0)), 30.0) == 7
    assert tell(AIMDTuner(Limits(8)), 30.0, tpot_target_ms=20.0) == 7
    assert tell(AIMDTuner(Limits(8)), 30.0) == 8  # nobody knows one


def test_windows_at_another_size_are_ignored():
    tuner = AIMDTuner(Limits(8), target_ms=50.0)
    tuner.tell(WindowMetrics(limits=Limits(9), steps=100, step_ms_mean=10.0))
    assert tuner.ask().batch_size == 8


@pytest.mark.parametrize("bounds", [{"min_batch_size": 0}, {"min_batch_size": 9, "max_batch_size": 8}])
def test_bounds_in_disorder_are_refused(bounds):
    with pytest.raises(ValueError, match="min_batch_size"):
        AIMDTuner(**bounds)


def test_a_target_of_zero_is_refused():
    with pytest.raises(ValueError, match="target_ms"):
        AIMDTuner(target_ms=0.0)


@given(
    st.booleans(),
    st.lists(st.tuples(st.floats() | st.just(math.nan), st.integers(-5, 10**9) | st.just(10**400)), max_size=80),
)
def test_odd_windows_never_raise_and_sizes_stay_in_bounds(multiplicative, windows):
    tuner = AIMDTuner(Limits(8), target_ms=50.0, min_batch_size=2, max_batch_size=16, multiplicative=multiplicative)
    for step_ms, steps in windows:
        assert 2 <= tell(tuner, step_ms, steps) <= 16
        assert math.isfinite(tuner.status()["processing_time_ms"])
