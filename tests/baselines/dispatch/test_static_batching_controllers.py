"""CORK and the online optimum: the fit of service times, and what each makes of it."""

from dataclasses import replace

import pytest

from batchpilot.baselines.dispatch.batch_service import BatchServiceProblem
from batchpilot.baselines.dispatch.cork import corked_ms, first_service_times
from batchpilot.baselines.dispatch.service_times import ServiceTimes
from batchpilot.baselines.dispatch.smdp import optimal_policy
from batchpilot.core import SLO, Limits, WindowMetrics
from batchpilot.tuners import make_tuner


def served(limits: Limits, size: int, start_s: float = 0.0, queue: int = 0, arrivals: int = 10) -> WindowMetrics:
    """One window of one batch of `size`, whose duration is 100 ms + 20 ms a request, over 10 steps."""
    return WindowMetrics(
        limits=limits,
        start_ms=1000.0 * start_s,
        duration_ms=1000.0,
        busy_ms=100.0 + 20.0 * size,
        steps=10,
        batch_size_mean=float(size),
        completions=size,
        queue=queue,
        arrivals=arrivals,
    )


def test_the_fit_finds_slope_and_constant():
    times = ServiceTimes(0.0, 0.0)
    for second, size in enumerate((4, 4, 1, 2, 5)):
        times.add(served(Limits(8), size, second))
    assert len(times.samples) == 3
    assert (times.a_ms, times.b_ms) == pytest.approx((20.0, 100.0))


def test_windows_without_a_completion_are_pooled():
    times = ServiceTimes(0.0, 0.0, warm_up=[])
    half = WindowMetrics(limits=Limits(8), duration_ms=1000.0, busy_ms=900.0, steps=30, batch_size_mean=4.0, arrivals=6)
    rest = WindowMetrics(
        limits=Limits(8), duration_ms=1000.0, busy_ms=300.0, steps=10, batch_size_mean=4.0, completions=4, queue=3
    )
    for _ in range(3):
        times.add(half)
        times.add(rest)
    assert times.samples == [[4.0, 1200.0, 3000.0, 6, 2000.0, 1.0]]
    assert (times.gap_ms, times.mean_wait_ms) == pytest.approx((2000 / 6, 500.0))


def test_cork_sheds_by_what_all_that_wait_add_to_one_batch():
    tuner = make_tuner("cork-shed", slo=SLO(1000.0, 100.0))
    for second in range(12):
        tuner.tell(served(tuner.ask(), max(1, second % 7), second, queue=45))
    # 20 ms a request: with 45 that wait, 44 others add 880 ms of the 1000.
    assert tuner.ask().ttft_guard == pytest.approx(0.12, abs=1e-3)
    tuner.tell(served(tuner.ask(), 5, 12, queue=1))
    assert tuner.ask().ttft_guard == 1.0


def test_a_batch_is_never_smaller_than_a_request():
    times = ServiceTimes(0.0, 0.0, warm_up=[])
    for second in range(4):
        times.add(replace(served(Limits(8), 4, second), batch_size_mean=5e-324))
    assert [(sample[0], sample[5]) for sample in times.samples] == [(1.0, 4.0), (1.0, 4.0)]


def test_only_fifty_samples_are_kept_and_fitted_every_five_seconds():
    times = ServiceTimes(0.0, 0.0)
    fits = [times.add(served(Limits(8), 1 + second % 7, second)) for second in range(60)]
    assert len(times.samples) == 50
    assert fits[:5] == [False, False, True, True, True]
    assert [second for second, fit in enumerate(fits) if fit][3:6] == [9, 14, 19]


def test_the_present_is_the_last_fifty_batches_but_five_looks_at_least():
    times = ServiceTimes(0.0, 0.0, warm_up=[])
    for second in range(30):
        times.add(served(Limits(8), 1, second, queue=50, arrivals=10))
    for second in range(30, 36):
        many = WindowMetrics(
            **{**served(Limits(8), 1, second, queue=2, arrivals=10).to_dict(), "limits": Limits(8), "completions": 20}
        )
        times.add(many)
    assert times.mean_wait_ms == pytest.approx(200.0)  # 5 looks hold 100 batches: the queue of 50 is forgotten


@pytest.mark.parametrize(
    ("wait_ms", "slope_ms", "gap_ms", "expected"),
    [
        (0.0, 5.0, 100.0, 0.0),
        (100.0, 5.0, 200.0, 89.0),  # alone: 95 - 1 - 5, and the next would come too late
        (100.0, 4.0, 20.0, 3 * 20.0 + 95.0 / 4 - 5.0),  # 95 / 25 = 3.8: the 4th still comes, the 5th would not
    ],
)
def test_a_batch_is_corked_as_long_as_the_next_request_comes_in_time(wait_ms, slope_ms, gap_ms, expected):
    assert corked_ms(wait_ms, slope_ms, gap_ms) == pytest.approx(expected)


def test_bentos_guess_before_the_first_fit():
    assert (first_service_times(3000.0).a_ms, first_service_times(3000.0).b_ms) == pytest.approx((200.0, 100.0))
    assert (first_service_times(None).a_ms, first_service_times(None).b_ms) == (2000.0, 1000.0)


def test_cork_warms_up_with_one_two_and_three_then_corks():
    tuner = make_tuner("cork", slo=SLO(3000.0, 100.0))
    sizes = [tuner.ask().batch_size]
    for second in range(5):
        tuner.tell(served(tuner.ask(), sizes[-1], second, queue=2))
        sizes.append(tuner.ask().batch_size)
    assert sizes == [1, 1, 1, 2, 3, 100]
    # Batches of 1, 2 and 3, a mean wait of 2000 / 10 ms, a gap of 100 ms: the oldest waited 200 + 1 / 2 * 100 ms.
    assert tuner.ask().max_wait_ms == pytest.approx(corked_ms(250.0, 20.0, 100.0))
    assert tuner.ask().ttft_guard is None


def test_shedding_is_a_guard_of_one():
    assert make_tuner("cork-shed").ask().ttft_guard == 1.0


def test_the_online_optimum_sets_the_control_limit_of_the_fitted_queue():
    tuner = make_tuner("smdp")
    assert (tuner.ask().batch_size, tuner.ask().max_wait_ms) == (32, 0.0)
    for second, size in enumerate((3, 5, 8, 2, 6, 4, 7, 1, 5, 9)):
        tuner.tell(served(tuner.ask(), size, second, arrivals=30))
    problem = BatchServiceProblem(30.0, [100.0 + 20.0 * n for n in range(1, 33)], max_queue=64)
    policy = optimal_policy(problem)
    assert policy.control_limit > 1
    assert tuner.ask().max_wait_ms == pytest.approx((policy.control_limit - 1) * 1000 / 30)
    assert tuner.ask().batch_size == policy.dispatch.max()
