"""Gradient2 and Vegas against their formulas, worked out by hand."""

import pytest

from batchpilot.baselines.controllers.concurrency import Pool, Sample
from batchpilot.baselines.controllers.gradient2 import Gradient2
from batchpilot.baselines.controllers.vegas import Vegas
from batchpilot.configs.tuner import TunerConfig
from batchpilot.core import Limits, WindowMetrics
from batchpilot.tuners import make_tuner


def sample(latency_ms: float, in_flight: float = 100.0, requests: int = 10, dropped: bool = False) -> Sample:
    return Sample(latency_ms, in_flight, requests, dropped)


def tell(tuner, tpot_ms: float, completions: int = 10, running: int = 100, **changes) -> int:
    window = WindowMetrics(limits=tuner.ask(), completions=completions, tpot_ms_p50=tpot_ms, running=running, **changes)
    tuner.tell(window)
    return tuner.ask().batch_size


def test_gradient2_grows_by_a_fifth_of_four_while_latency_is_steady():
    rule = Gradient2()
    limits = []
    for _ in range(5):
        rule.update(sample(30.0))
        limits.append(rule.limit)
    assert limits == pytest.approx([20.8, 21.6, 22.4, 23.2, 24.0])


def test_gradient2_shrinks_by_the_gradient():
    rule = Gradient2(limit=100.0)
    rule.update(sample(30.0))  # 100.8; the mean of the first 10 requests is 30
    rule.update(sample(90.0, requests=1))
    long_ms = 30 * (1 - 2 / 601) + 90 * 2 / 601
    gradient = 1.5 * long_ms / 90
    assert rule.limit == pytest.approx(0.8 * 100.8 + 0.2 * (100.8 * gradient + 4))


def test_gradient2_shrinks_by_half_of_a_fifth_at_most():
    rule = Gradient2(limit=100.0)
    rule.update(sample(30.0))
    rule.update(sample(3000.0, requests=1))
    assert rule.limit == pytest.approx(0.8 * 100.8 + 0.2 * (50.4 + 4))


def test_gradient2_forgets_a_long_latency_that_is_over():
    rule = Gradient2()
    rule.update(sample(100.0))
    rule.update(sample(10.0, requests=1))
    assert rule.long_ms == pytest.approx(0.95 * (100 * (1 - 2 / 601) + 10 * 2 / 601))


def test_gradient2_averages_a_window_as_its_requests_one_by_one():
    together, singly = Gradient2(), Gradient2()
    together.update(sample(20.0, requests=4))
    together.update(sample(30.0, requests=25))
    for latency in [20.0] * 4 + [30.0] * 25:
        singly.update(sample(latency, requests=1))
    assert together.long_ms == pytest.approx(singly.long_ms)


def test_gradient2_holds_below_half_of_the_limit():
    rule = Gradient2(limit=100.0)
    rule.update(sample(30.0, in_flight=49.0))
    assert rule.limit == 100.0


def test_vegas_starts_with_the_first_latency_and_a_lower_one():
    rule = Vegas()
    for latency in (30.0, 20.0):
        rule.update(sample(latency))
        assert (rule.no_load_ms, rule.limit) == (latency, 20.0)


@pytest.mark.parametrize(
    ("latency_ms", "limit"),
    [
        (30.0, 26.0),  # queue ceil(20 * 0) = 0 <= 1: + 6 log10(20)
        (33.0, 21.0),  # queue ceil(1.82) = 2 < 3: + 1
        (36.0, 20.0),  # queue ceil(3.33) = 4, between 3 and 6
        (45.0, 19.0),  # queue ceil(6.67) = 7 > 6: - 1
    ],
)
def test_vegas_moves_by_its_queue(latency_ms, limit):
    rule = Vegas(no_load_ms=30.0)
    rule.update(sample(latency_ms))
    assert rule.limit == limit


def test_vegas_takes_larger_steps_at_larger_limits():
    rule = Vegas(no_load_ms=30.0, limit=250.0)
    rule.update(sample(30.0, in_flight=250.0))
    assert rule.limit == 262.0  # log10(250) is 2 in whole numbers: + 12


def test_vegas_shrinks_when_a_step_fails_and_holds_when_little_runs():
    rule = Vegas(no_load_ms=30.0)
    rule.update(sample(30.0, in_flight=9.0))
    assert rule.limit == 20.0
    rule.update(sample(30.0, in_flight=9.0, dropped=True))
    assert rule.limit == 19.0


def test_vegas_measures_the_no_load_latency_anew_after_a_jittered_number_of_requests():
    rule = Vegas(no_load_ms=10.0, seed=3)
    before = rule.probe_after
    assert 0.5 * 30 * 20 <= rule.probe_after <= 30 * 20
    rule.update(sample(50.0, requests=int(rule.probe_after) + 1))
    assert (rule.no_load_ms, rule.limit, rule.since_probe) == (50.0, 20.0, 0)
    assert rule.probe_after not in (before, Vegas(seed=4).probe_after)


def test_windows_are_pooled_to_ten_requests():
    pool = Pool()
    few = WindowMetrics(limits=Limits(8), completions=4, tpot_ms_p50=20.0, running=7)
    assert pool.add(few) is None
    assert pool.add(WindowMetrics(limits=Limits(8), running=12, failures=1)) is None
    done = pool.add(WindowMetrics(limits=Limits(8), completions=6, tpot_ms_p50=30.0, running=5))
    assert done == Sample(pytest.approx(26.0), 12, 10, True)
    assert pool == Pool()


def test_a_limit_is_the_whole_number_below():
    tuner = make_tuner("gradient2")
    assert [tell(tuner, 30.0) for _ in range(5)] == [20, 21, 22, 23, 24]


def test_configured_bounds_come_before_the_librarys():
    low = make_tuner("gradient2", TunerConfig.from_dict({"max_batch_size": 12}, warn=False))
    assert low.ask().batch_size == 12
    assert max(tell(low, 30.0) for _ in range(50)) == 12


def test_refusing_bounds_the_queue_to_four_mean_prompts():
    tuner = make_tuner("vegas-refuse")
    assert tuner.ask().max_queued_tokens is None
    tell(tuner, 30.0, arrivals=4, arrived_prompt_tokens=1001)
    assert tuner.ask().max_queued_tokens == 1001
    assert make_tuner("vegas").ask().max_queued_tokens is None
