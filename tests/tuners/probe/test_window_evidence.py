"""What a window proves about its batch size, and what makes it odd."""

import math

import pytest

from batchpilot.core import Limits
from batchpilot.tuners.probe.sample import Evidence, combine, is_odd, measured_nothing, read

LIMITS = Limits(batch_size=40)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Evidence.BINDING),
        ({"batch_size_mean": 36.0}, Evidence.BINDING),
        ({"batch_size_mean": 0.0}, Evidence.BINDING),  # not reported
        ({"batch_size_mean": 20.0, "running": 20, "queue": 0, "oldest_wait_ms": 0.0}, Evidence.LIGHT),
        ({"batch_size_mean": 20.0, "running": 20, "queue": 1, "oldest_wait_ms": 20.0}, Evidence.LIGHT),
        ({"batch_size_mean": 20.0, "running": 20, "queue": 9, "oldest_wait_ms": 900.0}, Evidence.SATURATED),
        ({"batch_size_mean": 20.0, "running": 30}, Evidence.FILLING),
        ({"batch_size_mean": 40.0, "running": 60}, Evidence.OVERHANG),
        ({"batch_size_mean": 60.0, "running": 60}, Evidence.DRAINING),
    ],
)
def test_evidence(window, changes, expected):
    assert read(window(LIMITS, 0.5, **changes)).evidence is expected


def test_a_batch_of_one_always_fills_a_limit_of_one(window):
    assert read(window(Limits(1), 0.5, queue=0)).evidence is Evidence.BINDING


@pytest.mark.parametrize(
    "name", ["busy_ms", "duration_ms", "start_ms", "steps", "generated_tokens", "utilisation", "memory_peak_mb"]
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 1e300, "many", None])
def test_a_number_that_is_none_makes_a_window_odd(window, name, value):
    assert is_odd(window(LIMITS, 0.5, **{name: value}))


def test_percentiles_without_a_sample_are_not_odd(window):
    assert not is_odd(window(LIMITS, 0.5, step_ms_mean=math.nan, ttft_ms_p99=math.nan))


@pytest.mark.parametrize("changes", [{"steps": 0}, {"generated_tokens": 0}, {"busy_ms": 0.0}, {"duration_ms": 0.0}])
def test_a_window_without_steps_or_tokens_measured_nothing(window, changes):
    assert measured_nothing(window(LIMITS, 0.5, **changes))
    assert not measured_nothing(window(LIMITS, 0.5))


def test_memory_efficiency_is_one_minus_the_waste(window):
    sample = read(window(LIMITS, 0.5, memory_used_mb=60.0, memory_peak_mb=80.0, memory_total_mb=100.0))
    assert sample.memory_efficiency == pytest.approx(1 - (80 - 60) / 80)
    assert sample.memory_fraction == pytest.approx(0.6)


def test_the_kv_share_stands_in_for_unknown_device_memory(window):
    sample = read(window(LIMITS, 0.5, memory_total_mb=0.0, kv_used_fraction=0.4))
    assert sample.memory_fraction == pytest.approx(0.4)


def test_combined_windows_are_sums_and_means_weighted_by_time(window):
    short = read(window(LIMITS, 0.4, prefill_tokens=10, peak_tokens_per_s=500.0))
    long = read(window(LIMITS, 0.8, 1, duration_ms=3000.0, busy_ms=2000.0, utilisation=0.6, prefill_tokens=20))
    both = combine([short, long])
    assert both.throughput_tokens_per_s == pytest.approx(1000 * (400 + 800) / (1000 + 2000))
    assert both.utilisation == pytest.approx((1.0 * 1 + 0.6 * 3) / 4)
    assert both.step_ms == pytest.approx(3000 / 100)
    assert both.prefill_tokens == 30
    # At their peaks the 400 tokens take 0.8 s and the 800 tokens another 0.8 s.
    assert both.peak_tokens_per_s == pytest.approx(1200 / 1.6)
    assert both.steps == 100
    assert both.duration_ms == 4000.0
    assert both.end_ms == long.end_ms


def test_combined_windows_know_their_peak_only_if_each_does(window):
    known, unknown = read(window(LIMITS, 0.4)), read(window(LIMITS, 0.4, 1, peak_tokens_per_s=0.0))
    assert combine([known, unknown]).peak_tokens_per_s == 0.0
