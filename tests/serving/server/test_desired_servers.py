"""A server's vote on how many servers there should be."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("fastapi")

from batchpilot.core import Limits, WindowMetrics
from batchpilot.fleet.scalers import DESIRED_METRIC, ResponseTime
from batchpilot.serving.server.desired import DesiredServers
from batchpilot.serving.server.metrics import ServerMetrics


def windows(seconds, **told):
    limits = Limits(64)
    return [WindowMetrics(limits=limits, start_ms=1000.0 * k, duration_ms=1000.0, **told) for k in range(seconds)]


def vote(*heard):
    desired = DesiredServers()
    for window in heard:
        desired.hear(window)
    return desired.replicas


def test_a_busy_server_asks_for_another_and_an_idle_one_to_go():
    assert vote(*windows(30, queue=40, batch_size_mean=64.0)) == 2
    assert vote(*windows(30, batch_size_mean=60.0)) == 2
    assert vote(*windows(30, batch_size_mean=8.0, kv_used_fraction=0.95)) == 2
    assert vote(*windows(30, batch_size_mean=32.0, queue=1)) == 1
    assert vote(*windows(30, batch_size_mean=1.0)) == 0


@pytest.mark.parametrize("told", [{"refused_by_guard": 1}, {"refused_on_arrival": 2}])
def test_a_server_that_turns_requests_away_asks_for_another_however_small_its_batch(told):
    assert vote(*windows(30, batch_size_mean=10.0, **told)) == 2
    assert vote(*windows(15, batch_size_mean=10.0, **told), *windows(15, batch_size_mean=10.0)) == 1, "it may not go"


def test_steps_without_a_pause_are_no_reason_for_more():
    assert vote(*windows(30, batch_size_mean=1.0, utilisation=1.0, busy_ms=1000.0)) == 0


def test_nothing_is_decided_before_it_is_time():
    assert vote(*windows(29, queue=40)) == 1
    assert vote(*windows(30, queue=40), *windows(29, queue=0)) == 2


def test_another_rule_may_decide():
    desired = DesiredServers(ResponseTime(target_s=1.0, interval_s=2.0))
    for window in windows(2, ttft_ms_p50=3000.0):
        desired.hear(window)
    assert desired.replicas == 2


def test_the_vote_is_told_to_prometheus_from_the_start():
    metrics = ServerMetrics()
    assert f"{DESIRED_METRIC} 1.0" in metrics.text().decode()
    for window in windows(30, queue=40):
        metrics.window(window)
    assert f"{DESIRED_METRIC} 2.0" in metrics.text().decode()
