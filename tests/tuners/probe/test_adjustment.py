"""One adjustment step for a given situation, with the arithmetic written out."""

import pytest

from batchpilot.configs.tuner import TunerConfig
from batchpilot.tuners.probe.adjustment import Situation, adjust

CONFIG = TunerConfig()
AT_BEST = Situation(
    size=40,
    score=0.80,
    best_size=40,
    best_score=0.80,
    noise=0.0,
    utilisation=1.0,
    memory_fraction=0.8,
    size_restricts=True,
    flat_above=False,
    highest=256,
    cycle=0,
)


def next_size(config: TunerConfig = CONFIG, **changes) -> int:
    return adjust(AT_BEST._replace(**changes), config).size


def test_grows_by_a_fifth_on_a_better_score():
    assert next_size(score=0.85) == 48  # 0.85 > 0.80 * 1.05 = 0.84; 40 + round(40 * 0.2)


def test_a_gain_within_eps_is_no_gain():
    assert next_size(score=0.839) == 42  # oscillation: 40 + round(40 * 0.05)


def test_grows_on_low_utilisation():
    assert next_size(utilisation=0.49) == 48


def test_grows_on_spare_memory():
    assert next_size(memory_fraction=0.69) == 48


def test_does_not_grow_into_spare_memory_where_larger_sizes_gained_nothing():
    assert next_size(memory_fraction=0.1, flat_above=True) == 42


def test_does_not_grow_where_the_load_does_not_fill_the_batch():
    assert next_size(score=0.95, utilisation=0.2, memory_fraction=0.1, size_restricts=False) == 40


def test_grows_to_at_most_twice_the_best():
    config = TunerConfig.from_dict({"growth_coefficient": 0.5}, warn=False)
    assert next_size(config, size=70, score=0.95) == 80  # 70 + 35 = 105, cut at 2 * 40


def test_grows_to_at_most_the_highest_allowed():
    assert next_size(score=0.95, highest=44) == 44


def test_growth_is_at_least_one():
    assert next_size(size=1, best_size=1, score=0.95) == 2  # round(0.2) = 0


def test_shrinks_by_three_tenths_on_a_lower_score():
    assert next_size(score=0.75) == 28  # 0.75 < 0.80 * 0.95 = 0.76; 40 - round(40 * 0.3)


def test_shrinking_above_the_best_stops_at_the_best():
    assert next_size(size=48, score=0.70) == 40  # 48 - 14 = 34, but 40 is known to be best


def test_a_lower_score_below_the_best_goes_back_to_the_best():
    assert next_size(size=36, score=0.70) == 40


def test_shrinking_wins_over_spare_memory_and_utilisation():
    assert next_size(score=0.70, memory_fraction=0.1, utilisation=0.1) == 28


def test_never_shrinks_below_the_minimum():
    config = TunerConfig(min_batch_size=4)
    assert next_size(config, size=4, best_size=4, score=0.1) == 4
    assert next_size(config, size=5, best_size=5, score=0.1) == 4


def test_a_drop_within_the_noise_is_no_drop():
    assert next_size(score=0.75, noise=0.05) == 42  # three standard deviations are 15 %, the drop is 6 %


@pytest.mark.parametrize(("cycle", "expected"), [(0, 42), (1, 40), (2, 38), (3, 40), (4, 42)])
def test_oscillates_above_home_below_home(cycle, expected):
    assert next_size(cycle=cycle) == expected


@pytest.mark.parametrize(("cycle", "expected"), [(0, 5), (2, 3)])
def test_oscillation_is_at_least_one_at_small_sizes(cycle, expected):
    assert next_size(size=4, best_size=4, cycle=cycle) == expected  # 5 % of 4 rounds to nothing


def test_oscillation_can_be_switched_off():
    assert next_size(TunerConfig(enable_oscillation=False), size=42) == 40
