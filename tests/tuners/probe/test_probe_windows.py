"""What windows the probe tuner goes by: load that changes, batches that fill or drain, other sizes, times and mixes."""

from probe_curves import CURVE, LIGHT, stable_drive

from batchpilot.core import Limits
from batchpilot.tuners import Phase, ProbeTuner


def test_a_load_change_is_re_evaluated_within_ten_windows(drive):
    driven = stable_drive(drive)
    driven(10)
    phases = [driven.phase for _ in range(9) if driven(1, arrivals=60)]
    assert Phase.RE_EVALUATION in phases


def test_a_lower_score_under_a_lighter_load_is_no_drop(drive):
    driven = stable_drive(drive)
    driven.score_of = lambda size: 0.1
    sizes = driven(30, **LIGHT)
    assert sizes == [32] * 30
    assert driven.tuner.status()["best_batch_size"] in (32, None)


def test_light_load_is_never_grown_into(drive):
    driven = drive(lambda size: 0.5)
    assert driven(100, **LIGHT, memory_used_mb=10_000.0) == [8] * 100
    status = driven.tuner.status()
    assert status["best_batch_size"] is None
    assert status["is_stabilized"]


def test_the_probe_waits_where_the_load_does_not_fill_a_size_and_goes_on_when_it_does(drive):
    driven = drive(lambda size: size / 300)
    assert driven(2) == [8, 16]
    assert driven(20, **LIGHT) == [32] * 20
    assert driven.phase == Phase.STABLE_RUNNING
    assert driven.tuner.status()["best_batch_size"] == 16
    assert driven(3) == [32, 64, 128]


def test_a_batch_restricted_by_memory_ends_growth(drive):
    driven = drive(lambda size: min(size, 20) / 30)
    driven(2)
    saturated = {"batch_size_mean": 20.0, "running": 20}
    driven(1, **saturated)
    assert driven.phase == Phase.DYNAMIC_ADJUSTMENT
    assert driven.size == 32


def test_a_batch_still_filling_is_waited_for_until_the_timeout(drive):
    driven = drive(lambda size: size / 300, probing_timeout_ms=5000.0)
    driven(1)
    filling = {"batch_size_mean": 1.0, "running": 4}
    assert driven(5, **filling) == [16] * 5
    assert driven.phase == Phase.DYNAMIC_ADJUSTMENT  # the size is not what restricted it, so growth ends


def test_a_draining_batch_is_never_credited_to_the_smaller_limit(drive):
    driven = drive(lambda size: 0.9 if size == 8 else 0.5)
    assert driven(3) == [8, 16, 32]  # 32 is the third attempt and below 0.8 of 0.9: down to 4
    draining = {"batch_size_mean": 32.0, "running": 32}
    assert driven(4, **draining) == [4] * 4
    assert driven.tuner.status()["reason"].endswith("a batch larger than the limit, still draining")
    assert driven(1, **draining) == [4]
    assert driven.size == 12  # given up: between 8 and 16
    assert driven.tuner.status()["best_batch_size"] == 8


def test_windows_at_another_size_are_ignored_and_counted(drive, window):
    driven = drive(CURVE.__getitem__)
    driven(4)
    before = driven.tuner.status()
    for size in (1, 2, 5, 64):
        driven.tuner.tell(window(Limits(size), 1.0, failures=3))
    after = driven.tuner.status()
    assert after["windows_ignored"] == 4
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {"windows_ignored", "windows_heard"}


def test_other_fields_of_the_limits_do_not_matter(window):
    tuner = ProbeTuner(settle_ms=0.0)
    tuner.tell(window(Limits(8, token_budget=77), 0.5))
    assert tuner.ask().batch_size == 16


def test_windows_that_measured_nothing_hold(drive):
    driven = drive(CURVE.__getitem__)
    driven(1)
    assert driven(50, steps=0, generated_tokens=0, busy_ms=0.0, arrivals=0) == [16] * 50
    assert driven.tuner.status()["windows_held"] == 50


def test_time_going_backwards_is_odd_once_and_then_goes_on(drive):
    driven = drive(CURVE.__getitem__)
    driven(2)
    driven.index = 0
    assert driven(3) == [32, 32, 64]
    assert driven.tuner.status()["windows_odd"] == 1


def test_several_windows_can_make_one_decision(drive):
    driven = drive(CURVE.__getitem__, options={"windows_per_decision": 3})
    assert driven(12) == [8] * 3 + [16] * 3 + [32] * 3 + [64] * 3


def test_decisions_are_an_adjustment_interval_apart(drive):
    driven = drive(CURVE.__getitem__, adjustment_interval_ms=100.0)
    short = {"duration_ms": 40.0, "busy_ms": 40.0}
    assert driven(9, **short) == [8] * 3 + [16] * 3 + [32] * 3


def test_after_a_larger_move_the_batch_may_settle(drive):
    driven = drive(CURVE.__getitem__, options={"settle_ms": 1000.0}, initial_batch_size=1)
    # The batch that has only just filled is waited for, and moves by more than one request are; 1 -> 2 is not.
    assert driven(10) == [1, 1, 1, 2, 4, 4, 8, 8, 16, 16]


def test_windows_are_averaged_until_they_hold_the_usual_mix_of_prompts(drive):
    driven = drive(lambda size: 0.5)
    driven(2, prefill_tokens=500)
    # No prompt at all for one window, twice as many in the next: together they are the usual mix.
    assert driven(1, prefill_tokens=0) == [32]
    assert driven.size == 32
    assert driven(1, prefill_tokens=1000) == [32]
    assert driven.size == 64


def test_an_unusual_mix_is_waited_for_until_the_timeout(drive):
    driven = drive(lambda size: 0.5, probing_timeout_ms=5000.0)
    driven(1, prefill_tokens=5000)
    assert driven(6, prefill_tokens=0) == [16] * 5 + [32]
