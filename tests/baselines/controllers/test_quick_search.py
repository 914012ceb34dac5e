"""The climb over powers of two."""

from collections.abc import Callable

import pytest

from batchpilot.configs.tuner import TunerConfig
from batchpilot.core import WindowMetrics
from batchpilot.tuners import make_tuner


def climb(throughput: Callable[[int], float], **config) -> tuple[list[int], dict]:
    tuner = make_tuner("quick", TunerConfig.from_dict(config, warn=False))
    sizes = []
    for _ in range(80):
        size = tuner.ask().batch_size
        sizes.append(size)
        tokens = round(1000 * throughput(size))
        tuner.tell(WindowMetrics(limits=tuner.ask(), steps=10, generated_tokens=tokens, busy_ms=1000.0))
    return list(dict.fromkeys(sizes)), tuner.status() | {"last": sizes[-1]}


def test_it_climbs_up_to_the_peak_and_stays():
    tried, status = climb(lambda size: -abs(size - 64) + 200)
    assert tried == [8, 16, 32, 64, 128]
    assert status["last"] == 64
    assert "found: 64" in status["reason"]


def test_it_turns_round_when_larger_is_no_better():
    tried, status = climb(lambda size: 100.0 / size)
    assert tried == [8, 16, 4, 2, 1]
    assert status["last"] == 1


def test_a_gain_under_two_percent_is_none():
    assert climb(lambda size: 100 + size / 1000)[1]["last"] == 8


@pytest.mark.parametrize(("highest", "last"), [(20, 16), (256, 256)])
def test_it_stays_within_the_bounds(highest, last):
    assert climb(float, max_batch_size=highest)[1]["last"] == last


def test_the_first_window_of_a_candidate_and_idle_ones_do_not_count():
    tuner = make_tuner("quick")

    def tell(tokens: int, steps: int = 10) -> int:
        tuner.tell(WindowMetrics(limits=tuner.ask(), steps=steps, generated_tokens=tokens, busy_ms=1000.0))
        return tuner.ask().batch_size

    assert [tell(0, steps=0) for _ in range(9)] == [8] * 9
    assert [tell(tokens) for tokens in (10**9, 100, 100, 100, 100, 100)] == [8] * 5 + [16]
    assert [tell(tokens) for tokens in (0, 110, 110, 110, 110, 110)][-1] == 32
