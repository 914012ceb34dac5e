"""The probe tuner when the score drops: how far it steps back by how much was lost, and how it recovers."""

import pytest
from probe_curves import CURVE, capped, stable_drive

from batchpilot.tuners import Phase


def test_a_twenty_percent_drop_leaves_stable_running(drive):
    driven = stable_drive(drive, fallback_level="none")
    driven.score_of = capped(0.62)  # 0.775 of the best
    driven(1)
    assert driven.phase == Phase.STABLE_RUNNING
    driven(1)
    assert driven.phase == Phase.RE_EVALUATION
    driven(1)
    assert driven.phase == Phase.DYNAMIC_ADJUSTMENT
    assert driven.tuner.status()["best_score"] == pytest.approx(0.62)


def test_a_minor_drop_steps_back_a_tenth(drive):
    driven = stable_drive(drive)
    driven.score_of = lambda size: 0.68 if size == 32 else 0.78  # 15 %
    driven(2)
    assert driven.size == 28  # int(32 * 0.9)
    assert driven.phase == Phase.STABLE_RUNNING


def test_a_minor_step_back_that_does_not_help_is_re_evaluated(drive):
    driven = stable_drive(drive)
    driven.score_of = lambda size: 0.68
    driven(4)
    assert driven.phase == Phase.RE_EVALUATION
    assert driven.size == 32


def test_a_moderate_drop_compares_seven_tenths_with_the_best(drive):
    driven = stable_drive(drive)
    driven.score_of = lambda size: 0.5 if size == 32 else 0.52  # 37.5 %
    driven(2)
    assert driven.phase == Phase.RE_EVALUATION
    assert driven(2) == [22, 32]  # int(32 * 0.7), then the best known size
    assert driven.size == 22  # the better of the two
    assert driven.phase == Phase.DYNAMIC_ADJUSTMENT


def test_a_major_drop_halves_where_it_is_allowed(drive):
    driven = stable_drive(drive, fallback_level="major")
    driven.score_of = lambda size: 0.3  # 62.5 %
    driven(2)
    assert driven(1) == [16]


def test_a_collapse_enters_safe_mode_where_it_is_allowed(drive):
    driven = stable_drive(drive, fallback_level="safe")
    driven.score_of = lambda size: 0.1  # 87.5 %
    driven(2)
    assert driven.phase == Phase.SAFE_FALLBACK
    assert driven.size == 1


def test_a_hiccup_of_one_window_changes_nothing(drive):
    driven = stable_drive(drive)
    driven(1)
    driven.score_of = lambda size: 0.2
    driven(1)
    driven.score_of = capped()
    driven(1)
    assert driven.phase == Phase.STABLE_RUNNING
    assert driven.size in (32, 34)


def test_a_v_shaped_anomaly_is_ignored(drive):
    driven = stable_drive(drive)
    driven(1)
    for score in (0.2, 0.3):  # below half of 0.8; dip below 0.8 of 0.8, then up by 1.5
        driven.score_of = lambda size, score=score: score
        driven(1)
        assert driven.phase == Phase.STABLE_RUNNING
    assert "rising" in driven.tuner.status()["reason"]


def test_an_anomaly_away_from_the_best_size_returns_to_it(drive):
    driven = drive(CURVE.__getitem__)
    driven(10)
    assert driven.size == 34
    driven.score_of = lambda size: 0.3 if size == 34 else CURVE[size]
    assert driven(3) == [34, 34, 32]
    assert driven.phase == Phase.DYNAMIC_ADJUSTMENT


def test_an_anomaly_at_the_best_size_while_adjusting_is_re_evaluated(drive):
    driven = drive(CURVE.__getitem__)
    driven(9)
    driven.score_of = lambda size: 0.3
    driven(2)
    assert driven.phase == Phase.RE_EVALUATION


def test_recovery_climbs_back_while_the_score_rises(drive):
    driven = stable_drive(drive, exploration_interval=10_000)
    driven.score_of = lambda size: 0.70 if size == 32 else 0.765
    driven(2)
    assert driven.size == 28
    scores = iter([0.765, 0.766, 0.78, 0.80, 0.82])
    driven.score_of = lambda size: next(scores)
    # The slope of the last five, the two low ones included, is over 0.01 at the third: 28 -> round(28 * 1.1) = 31.
    assert driven(3) == [28, 28, 28]
    assert driven.size == 31
    assert "recovering" in driven.tuner.status()["reason"]


def test_recovery_can_be_switched_off(drive):
    driven = stable_drive(drive, exploration_interval=10_000, enable_auto_recovery=False)
    driven.score_of = lambda size: 0.70 if size == 32 else 0.765
    driven(2)
    scores = iter([0.765, 0.766, 0.78, 0.80, 0.82])
    driven.score_of = lambda size: next(scores)
    assert driven(5) == [28] * 5
