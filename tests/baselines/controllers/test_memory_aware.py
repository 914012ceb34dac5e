"""Both parts of memory-aware, SLA-constrained batching, worked out by hand."""

import math
from statistics import NormalDist

from hypothesis import given
from hypothesis import strategies as st

from batchpilot.baselines.controllers.memory_aware import MemoryAwareRule, largest_fitting
from batchpilot.core import SLO, Limits, WindowMetrics
from batchpilot.tuners import make_tuner


def window(size: float = 100.0, step_ms: float = 40.0, **changes) -> WindowMetrics:
    return WindowMetrics(limits=Limits(8), steps=10, batch_size_mean=size, step_ms_mean=step_ms, **changes)


def rule() -> MemoryAwareRule:
    return MemoryAwareRule(Limits(8), 1, 256, tpot_ms=50.0)


def test_without_spread_as_many_fit_as_the_capacity_holds():
    assert [largest_fitting(capacity, 100.0, 0.0) for capacity in (0, 99, 100, 1000, 1099)] == [0, 0, 1, 10, 10]


@given(st.floats(0, 1e7), st.floats(1, 1e4), st.floats(0, 1e4))
def test_the_batch_fits_with_the_chosen_probability_and_one_more_does_not(capacity, mean, deviation):
    z = NormalDist().inv_cdf(0.95)

    def need(size: float) -> float:
        return size * mean + z * deviation * math.sqrt(size)

    size = largest_fitting(capacity, mean, deviation)
    assert need(size) <= capacity * (1 + 1e-9)
    assert need(size + 1) > capacity * (1 - 1e-9)


def test_the_search_goes_down_from_the_mean_size_when_steps_are_slow():
    search = rule()
    assert search.fast_enough(window(size=100.0, step_ms=53.0)) == 50  # [1 - 4 -> 1, 100]
    assert (search.search_low, search.search_high) == (1.0, 100.0)


def test_the_search_goes_up_to_the_mean_size_when_steps_are_fast():
    search = rule()
    search.search_high = 200.0
    assert search.fast_enough(window(size=100.0, step_ms=47.0)) == 152  # [100, 200 + 4]


def test_the_search_closes_in_around_the_size_that_meets_the_target():
    search = rule()
    assert search.fast_enough(window(size=60.0, step_ms=51.0)) == 60
    assert (search.search_low, search.search_high) == (52.0, 68.0)


def test_the_search_never_closes_for_good():
    search = rule()
    search.search_low, search.search_high = 90.0, 95.0
    search.fast_enough(window(size=80.0, step_ms=90.0))
    assert (search.search_low, search.search_high) == (86.0, 106.0)  # at least 16 above the old low


def test_without_steps_or_target_the_search_stays():
    search = MemoryAwareRule(Limits(8), 1, 256)
    assert search.fast_enough(window(tpot_target_ms=math.inf)) == 128
    assert rule().fast_enough(WindowMetrics(limits=Limits(8))) == 128


def test_memory_takes_mean_and_scatter_from_the_windows():
    memory = rule()
    for tokens in (1000, 3000):
        memory.hear_lengths(window(arrivals=10, arrived_prompt_tokens=tokens, completions=10, generated_tokens=500))
    # With fading weights 0.99 and 1: the mean prompt, and how far 10 at 100 and 10 at 300 scatter about it.
    prompt = (0.99 * 1000 + 3000) / 19.9
    scatter = (0.99 * 10 * (100 - prompt) ** 2 + 10 * (300 - prompt) ** 2) / 1
    expected = largest_fitting(100_000, prompt + 50.0, math.sqrt(scatter + 50.0**2))
    assert memory.fitting(100_000) == expected
    assert memory.fitting(0) is None


def test_the_smaller_of_both_parts_is_asked_for():
    tuner = make_tuner("memory-aware", slo=SLO(2000.0, 50.0))
    assert tuner.ask().batch_size == 128
    told = {"arrivals": 20, "arrived_prompt_tokens": 2000, "completions": 20, "generated_tokens": 2000}
    fast = {"steps": 10, "batch_size_mean": 100.0, "step_ms_mean": 30.0}
    tuner.tell(WindowMetrics(limits=tuner.ask(), kv_capacity_tokens=2000, **told, **fast))
    assert tuner.ask().batch_size == largest_fitting(2000, 200.0, 100.0)
    tuner.tell(WindowMetrics(limits=tuner.ask(), kv_capacity_tokens=10**9, **told, **fast))
    assert tuner.ask().batch_size == (100 + 256) // 2
