"""The monitor: errors as met, rates, a degradation alarm that keeps its level, and one health check."""

import json

import numpy as np
import pytest

from batchpilot.latency.online import Monitor


def heard(monitor, errors, block=25):
    """Whether degradation was found at any point while hearing errors block by block."""
    found = False
    for start in range(0, len(errors), block):
        monitor.hear_errors(errors[start : start + block], errors[start : start + block])
        found |= monitor.degraded
    return found


def noise(count, seed, scale=0.05):
    return np.abs(scale * np.random.default_rng(seed).standard_normal(count))


def test_errors_are_those_of_the_newest_thousand():
    monitor = Monitor()
    monitor.hear_errors(np.full(500, 9.0), np.full(500, 8.0))
    monitor.hear_errors(np.arange(1000.0), np.zeros(1000))
    assert monitor.errors.mean == pytest.approx(499.5)
    assert monitor.errors.p95 == pytest.approx(np.percentile(np.arange(1000), 95))
    assert monitor.errors.p99 == pytest.approx(np.percentile(np.arange(1000), 99))
    assert monitor.base_errors.mean == 0
    assert monitor.recent_error(10) == pytest.approx(994.5)


def test_without_errors_nothing_is_known_and_nothing_is_wrong():
    monitor = Monitor()
    assert np.isnan([monitor.errors.mean, monitor.errors.p99, monitor.recent_error(5)]).all()
    assert monitor.health().healthy


@pytest.mark.parametrize("seed", range(4))
def test_steady_errors_are_no_degradation(seed):
    assert not heard(Monitor(), noise(20_000, seed))


def test_errors_that_grow_are_degradation_until_a_new_regime_begins():
    monitor = Monitor()
    assert heard(monitor, np.concatenate([noise(1000, 0), noise(600, 1, scale=0.1)]))
    monitor.rebase()
    assert not monitor.degraded
    assert not heard(monitor, noise(3000, 2, scale=0.1))


def test_errors_that_shrink_are_no_degradation():
    assert not heard(Monitor(), np.concatenate([noise(1000, 0), noise(2000, 1, scale=0.02)]))


def test_health_names_what_is_too_high():
    monitor = Monitor()
    monitor.hear_errors(np.full(10, 0.2), np.zeros(10))
    for k in range(20):
        monitor.hear_drift_test(k < 2)
        monitor.hear_update(k < 1)
    health = monitor.health()
    assert (health.error, health.drift_rate, health.failure_rate) == pytest.approx((0.2, 0.1, 0.05))
    assert not health.healthy
    assert [complaint.split(" 0.")[0] for complaint in health.complaints] == ["error", "drift rate", "update failures"]


def test_rates_forget_what_was_long_ago():
    monitor = Monitor()
    for failed in [True] * 50 + [False] * 100:
        monitor.hear_update(failed)
    assert monitor.health().failure_rate == 0


def test_a_restored_monitor_goes_on_as_the_first_would_have():
    first, restored = Monitor(), Monitor()
    heard(first, noise(1100, 0))
    first.hear_update(True)
    restored.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for monitor in (first, restored):
        heard(monitor, noise(500, 1, scale=0.1))
    assert restored.state_dict() == first.state_dict()
    assert restored.degraded


def test_a_wrong_state_or_level_is_refused():
    with pytest.raises(ValueError, match="saved monitor"):
        Monitor().load_state_dict({"adapted": []})
    with pytest.raises(ValueError, match="level is 1"):
        Monitor(level=1.0)
