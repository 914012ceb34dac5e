"""Fallback levels, acceptability, shapes of scores and the trends that estimate memory and step time."""

import pytest

from batchpilot.configs.tuner import TunerConfig
from batchpilot.core import Limits
from batchpilot.tuners.probe.safety import (
    Fallback,
    Trend,
    allowed_mb,
    fallback_for,
    fallback_size,
    is_recovering,
    is_v_shaped,
    unacceptable,
)
from batchpilot.tuners.probe.sample import read


@pytest.mark.parametrize(
    ("drop", "level"),
    [
        (-0.5, Fallback.NONE),
        (0.09, Fallback.NONE),
        (0.10, Fallback.MINOR),
        (0.29, Fallback.MINOR),
        (0.30, Fallback.MODERATE),
        (0.49, Fallback.MODERATE),
        (0.50, Fallback.MAJOR),
        (0.80, Fallback.MAJOR),
        (0.81, Fallback.SAFE),
    ],
)
def test_fallback_level_follows_the_drop(drop, level):
    assert fallback_for(drop, "safe") is level


def test_the_configured_level_is_the_strongest_one_taken():
    assert fallback_for(0.9, "moderate") is Fallback.MODERATE
    assert fallback_for(0.9, "none") is Fallback.NONE
    assert fallback_for(0.15, "moderate") is Fallback.MINOR


@pytest.mark.parametrize(
    ("level", "size", "best", "expected"),
    [
        (Fallback.NONE, 40, 40, 40),
        (Fallback.MINOR, 40, 40, 36),
        (Fallback.MODERATE, 40, 40, 28),
        (Fallback.MODERATE, 80, 40, 40),  # 56, but at most the best
        (Fallback.MAJOR, 40, 40, 20),
        (Fallback.SAFE, 40, 40, 2),
        (Fallback.MAJOR, 3, 3, 2),  # 1, but not below the minimum
    ],
)
def test_fallback_size(level, size, best, expected):
    assert fallback_size(level, size, best, lowest=2) == expected


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"generated_tokens": 9}, "throughput"),
        ({"busy_ms": 50 * 5001.0, "generated_tokens": 10_000}, "step"),
        ({"utilisation": 0.09}, "utilisation"),
    ],
)
def test_what_is_not_acceptable_is_named(window, changes, word):
    config = TunerConfig()
    assert unacceptable(read(window(Limits(8), 0.5)), config) is None
    assert word in unacceptable(read(window(Limits(8), 0.5, **changes)), config)


def test_a_dip_and_a_rise_are_a_v():
    assert is_v_shaped([1.0, 0.7, 0.9])  # 0.7 < 0.8 * 1.0 and 0.9 > 1.2 * 0.7
    assert not is_v_shaped([1.0, 0.85, 1.1])
    assert not is_v_shaped([1.0, 0.7, 0.8])
    assert not is_v_shaped([0.7, 0.9])


def test_five_rising_scores_are_a_recovery():
    assert is_recovering([0.50, 0.52, 0.54, 0.56, 0.58], sensitivity=0.5)  # slope 0.02 > 0.01
    assert not is_recovering([0.50, 0.505, 0.51, 0.515, 0.52], sensitivity=0.5)  # slope 0.005
    assert is_recovering([0.50, 0.508, 0.516, 0.524, 0.532], sensitivity=1.0)  # slope 0.008 > 0.005
    assert not is_recovering([0.5, 0.6, 0.7, 0.8], sensitivity=0.5)


def test_a_trend_is_unknown_until_two_batches_were_seen():
    trend = Trend()
    assert trend.estimate(8) is None
    trend.observe(8, 1000.0)
    trend.observe(8, 1000.0)
    assert trend.estimate(16) is None


def test_a_trend_extrapolates_the_line():
    trend = Trend()
    trend.observe(4, 14_400.0)
    trend.observe(8, 14_800.0)
    assert trend.estimate(32) == pytest.approx(17_200.0)  # 14,000 + 100 per request
    assert trend.helps_to_shrink(1, 14_500.0)
    assert not trend.helps_to_shrink(1, 14_000.0)


def test_a_trend_keeps_its_slope_while_the_batch_stays_the_same():
    trend = Trend()
    trend.observe(4, 14_400.0)
    trend.observe(8, 14_800.0)
    assert trend.estimate(8) == pytest.approx(14_800.0)
    for _ in range(300):
        trend.observe(8, 15_800.0)
    assert trend.estimate(18) == pytest.approx(16_800.0, rel=0.01)


def test_an_assumed_slope_needs_one_batch_only_and_gives_way_to_two():
    trend = Trend()
    trend.observe(8, 14_800.0)
    assert not trend.knows_slope
    trend.assume(100.0)
    trend.assume(500.0)
    assert trend.estimate(16) == pytest.approx(15_600.0)
    trend.observe(16, 14_800.0 + 8 * 200.0)
    assert trend.estimate(24) == pytest.approx(14_800.0 + 16 * 200.0)


def test_allowed_memory_is_what_the_margin_and_the_limit_leave():
    assert allowed_mb(16_384.0, TunerConfig()) == pytest.approx((16_384 - 512) * 0.9)
    assert allowed_mb(100.0, TunerConfig()) == 0.0
