"""When size and score count as having held still."""

from batchpilot.configs.tuner import TunerConfig
from batchpilot.tuners.probe.stability import StabilityWindow

CONFIG = TunerConfig()


def is_stable(cycles, home=40, noise=0.0, config=CONFIG) -> bool:
    window = StabilityWindow()
    for size, score in cycles:
        window.add(size, score, config)
    return window.is_stable(home, noise, config)


def test_ten_equal_cycles_are_stable_and_nine_are_not():
    assert is_stable([(40, 0.8)] * 10)
    assert not is_stable([(40, 0.8)] * 9)


def test_only_the_last_cycles_count():
    assert is_stable([(10, 0.3)] * 5 + [(40, 0.8)] * 10)


def test_a_size_change_of_a_tenth_is_not_stable():
    # (45 - 40) / 42.5 = 0.118 >= 0.10, and more than the oscillation's 2 * 2.
    assert not is_stable([(40, 0.8)] * 5 + [(45, 0.8)] * 5)


def test_the_oscillation_itself_is_no_change():
    # At size 4 one step each way spans 50 %.
    assert is_stable([(4, 0.8), (5, 0.82), (4, 0.8), (3, 0.7), (4, 0.8)] * 2, home=4)


def test_a_score_fluctuation_of_three_percent_is_not_stable():
    # (0.83 - 0.80) / 0.815 = 0.037 > 0.03
    assert not is_stable([(40, 0.80), (40, 0.83)] * 5)
    # (0.82 - 0.80) / 0.81 = 0.025
    assert is_stable([(40, 0.80), (40, 0.82)] * 5)


def test_fluctuation_within_the_noise_is_stable():
    cycles = [(40, 0.80), (40, 0.88)] * 5
    assert not is_stable(cycles)
    assert is_stable(cycles, noise=0.03)


def test_a_size_that_light_load_never_filled_is_stable_by_its_size_alone():
    assert is_stable([(40, None)] * 10)


def test_a_saved_window_goes_on():
    window = StabilityWindow()
    for _ in range(9):
        window.add(40, 0.8, CONFIG)
    copy = StabilityWindow()
    copy.load_state_dict(window.state_dict())
    copy.add(40, 0.8, CONFIG)
    assert copy.is_stable(40, 0.0, CONFIG)
