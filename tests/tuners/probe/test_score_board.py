"""The score's arithmetic, its reference, and which size is best."""

import pytest

from batchpilot.configs.tuner import TunerConfig
from batchpilot.core import Limits
from batchpilot.tuners.probe.sample import read
from batchpilot.tuners.probe.score import ScoreBoard

LIMITS = Limits(batch_size=8)


def told(board: ScoreBoard, size: int, sample) -> float:
    score = board.score(sample)
    board.record(size, sample)
    return score


def test_the_score_weighs_throughput_utilisation_and_memory(window):
    sample = read(window(LIMITS, 0.4, utilisation=0.9, memory_used_mb=60.0, memory_peak_mb=80.0, memory_total_mb=100.0))
    # 0.5 * 400/1000 + 0.3 * 0.9 + 0.2 * (1 - 20/80)
    assert ScoreBoard(TunerConfig()).score(sample) == pytest.approx(0.2 + 0.27 + 0.15)


def test_an_unknown_peak_gives_way_to_the_largest_throughput_seen(window, config):
    board = ScoreBoard(config())
    assert told(board, 1, read(window(LIMITS, 0.2, peak_tokens_per_s=0.0))) == pytest.approx(1.0)
    assert told(board, 2, read(window(LIMITS, 0.4, peak_tokens_per_s=0.0))) == pytest.approx(1.0)
    assert board.mean(1) == pytest.approx(0.5)
    assert board.best_size == 2


def test_a_peak_that_was_exceeded_still_tells_sizes_apart(window, config):
    board = ScoreBoard(config())
    told(board, 8, read(window(LIMITS, 0.6, peak_tokens_per_s=500.0)))
    told(board, 16, read(window(LIMITS, 0.8, peak_tokens_per_s=500.0)))
    assert board.best_size == 16
    assert board.mean(8) == pytest.approx(0.75)


def test_repeated_scores_are_averaged_and_teach_the_noise(window, config):
    board = ScoreBoard(config())
    assert board.noise == 0.0
    told(board, 8, read(window(LIMITS, 0.50)))
    told(board, 8, read(window(LIMITS, 0.55)))
    assert board.mean(8) == pytest.approx(0.525)
    assert board.noise == pytest.approx((0.1**2 / 2) ** 0.5)  # a residual of 10 % against a mean of one


def test_a_challenger_within_the_noise_does_not_take_over(window, config):
    board = ScoreBoard(config())
    for score in (0.50, 0.55, 0.50, 0.55):
        told(board, 8, read(window(LIMITS, score)))
    told(board, 9, read(window(LIMITS, 0.54)))
    assert board.best_size == 8


def test_without_noise_any_lead_counts(window, config):
    board = ScoreBoard(config())
    told(board, 8, read(window(LIMITS, 0.50)))
    told(board, 9, read(window(LIMITS, 0.51)))
    assert board.best_size == 9


def test_a_best_size_that_falls_is_overtaken(window, config):
    board = ScoreBoard(config())
    told(board, 8, read(window(LIMITS, 0.50)))
    told(board, 16, read(window(LIMITS, 0.60)))
    for _ in range(6):
        told(board, 16, read(window(LIMITS, 0.30)))
    assert board.best_size == 8


def test_a_rejected_size_scores_nothing(window, config):
    board = ScoreBoard(config())
    told(board, 8, read(window(LIMITS, 0.50)))
    board.reject(16)
    assert board.scores([8, 16, 32]) == {8: 0.5, 16: 0.0}
    assert board.best_size == 8


def test_forgetting_leaves_nothing_best(window, config):
    board = ScoreBoard(config())
    told(board, 8, read(window(LIMITS, 0.50)))
    board.forget()
    assert board.best_size is None
    assert board.best_score == 0.0


def test_each_window_is_held_against_the_peak_of_its_own_work(window, config):
    # Twice the prompts, half the tokens, half the peak: the same score.
    board = ScoreBoard(config())
    told(board, 8, read(window(LIMITS, 0.6, peak_tokens_per_s=1000.0)))
    told(board, 8, read(window(LIMITS, 0.3, peak_tokens_per_s=500.0)))
    assert board.mean(8) == pytest.approx(0.6)
    assert board.noise == pytest.approx(0.0)


def test_a_peak_that_becomes_known_forgets_scores_in_tokens(window, config):
    board = ScoreBoard(config())
    told(board, 8, read(window(LIMITS, 0.6, peak_tokens_per_s=0.0)))
    assert told(board, 16, read(window(LIMITS, 0.3, peak_tokens_per_s=600.0))) == pytest.approx(0.5)
    assert 8 not in board
    assert board.best_size == 16
