"""The bound on queued tokens: target TTFT times measured prefill throughput."""

import pytest

from batchpilot.core import SLO, WindowMetrics
from batchpilot.tuners import make_tuner


def tell(tuner, prefill_tokens: int, busy_ms: float = 1000.0, queue: int = 5, **changes) -> int | None:
    window = WindowMetrics(limits=tuner.ask(), prefill_tokens=prefill_tokens, busy_ms=busy_ms, queue=queue, **changes)
    tuner.tell(window)
    return tuner.ask().max_queued_tokens


@pytest.mark.parametrize("name", ["queue-tokens", "queue-tokens-online"])
def test_ten_windows_with_a_queue_calibrate(name):
    tuner = make_tuner(name, slo=SLO(2000.0, 100.0))
    assert [tell(tuner, 4000) for _ in range(5)] == [None] * 5
    assert [tell(tuner, 9000, queue=0), tell(tuner, 0), tell(tuner, 5, busy_ms=0.0)] == [None] * 3
    assert [tell(tuner, 6000, busy_ms=500.0) for _ in range(5)][-2:] == [None, 13333]  # 2 s x 50000 tokens / 7.5 s


def test_the_constant_stays_and_the_online_one_follows():
    constant, online = (make_tuner(name, slo=SLO(1000.0, 100.0)) for name in ("queue-tokens", "queue-tokens-online"))
    for tuner in (constant, online):
        for _ in range(10):
            tell(tuner, 1000)
    assert [tell(constant, 3000), tell(constant, 3000)] == [1000, 1000]
    assert [tell(online, 3000), tell(online, 3000)] == [1200, 1380]


def test_the_target_comes_from_the_windows_where_no_slo_was_given():
    tuner = make_tuner("queue-tokens")
    for _ in range(10):
        tell(tuner, 1000)
    assert tell(tuner, 1000, ttft_target_ms=500.0) == 500
    assert tell(tuner, 1000, ttft_target_ms=float("inf")) == 500  # nobody knows one any more: held
