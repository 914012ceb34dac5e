"""The probe tuner driven by windows from a known score curve: its phases, window by window.

Scores are throughput over 1000 tokens/s alone, and every window counts (no time to settle), so that the arithmetic can
be followed by hand.
"""

import pytest

from batchpilot.configs import ConfigError
from batchpilot.core import Limits
from batchpilot.tuners import NotObeyedError, Phase, ProbeTuner
from batchpilot.tuners.probe.phases import TRANSITIONS

CURVE = {
    1: 0.2,
    2: 0.35,
    4: 0.5,
    8: 0.6,
    16: 0.7,
    32: 0.75,
    64: 0.55,
    48: 0.70,
    40: 0.73,
    44: 0.71,
    42: 0.72,
    43: 0.715,
}
CURVE |= {34: 0.745, 30: 0.74}
PROBE = [8, 16, 32, 64, 48, 40, 44, 42, 43]
LIGHT = {"batch_size_mean": 0.5, "running": 0, "queue": 0, "oldest_wait_ms": 0.0}


def capped(score_at_best: float = 0.8, best: int = 32):
    """A curve with one peak, 1 % lower for every size away from it, but never below half."""
    return lambda size: max(score_at_best - 0.01 * abs(size - best), score_at_best / 2)


def stable_drive(drive, **keys):
    """A dynamic tuner running stably at 32, where the score is 0.8."""
    driven = drive(capped(), **keys)
    driven.until_stable()
    assert driven.size == 32
    return driven


def test_dynamic_probes_then_oscillates_then_runs_stably(drive):
    driven = drive(CURVE.__getitem__)
    assert driven(9) == PROBE
    assert driven.phase == Phase.DYNAMIC_ADJUSTMENT
    # Ten cycles around the best size 32, two up and two down: 5 % of 32.
    assert driven(10) == [32, 34, 32, 30, 32, 34, 32, 30, 32, 34]
    assert driven.phase == Phase.STABLE_RUNNING
    assert driven.size == 32
    assert driven.tuner.status()["best_batch_size"] == 32
    assert driven.tuner.status()["best_score"] == pytest.approx(0.75)


def test_hybrid_probes_then_locks(drive):
    driven = drive(CURVE.__getitem__, strategy="hybrid")
    assert driven(9) == PROBE
    assert driven.phase == Phase.STABLE_RUNNING
    assert driven(200) == [32] * 200


def test_hybrid_stays_locked_when_score_and_load_change(drive):
    driven = drive(CURVE.__getitem__, strategy="hybrid")
    driven(30)
    driven.score_of = lambda size: 0.1
    assert driven(50, arrivals=500) == [32] * 50


def test_a_manual_trigger_makes_hybrid_probe_again(drive):
    driven = drive(CURVE.__getitem__, strategy="hybrid")
    driven(30)
    driven.tuner.trigger_probe()
    assert driven.phase == Phase.INITIAL_PROBING
    assert driven(9) == PROBE
    assert driven(5) == [32] * 5


def test_stable_running_explores_five_percent_above_every_hundred_batches(drive):
    driven = drive(CURVE.__getitem__)
    driven(19)
    # 50 steps a window: due after two; no gain at 34. The trial took 50 steps, so the next is due after 500.
    assert driven(4) == [32, 32, 34, 32]
    assert driven(11) == [32] * 9 + [34, 32]
    assert driven.phase == Phase.STABLE_RUNNING


def test_an_exploration_that_leads_goes_back_to_adjustment(drive):
    driven = stable_drive(drive)
    driven.score_of = capped(best=36)
    driven.until_stable()
    driven(20)
    assert driven.tuner.status()["best_batch_size"] > 32
    driven.until_stable()
    assert driven.size >= 34


def test_growth_by_a_fifth_while_memory_is_spare(drive):
    # The probe meets the cap of its attempts at 16; memory is spare and nothing larger is known: up a fifth.
    driven = drive(lambda size: 0.5 + size / 1000, max_probing_attempts=2)
    assert driven(2) == [8, 16]
    assert driven(4, memory_used_mb=50_000.0) == [16, 19, 23, 28]  # 16 + 3, 19 + 4, 23 + 5


def test_a_confirmed_drop_at_the_best_size_tries_three_tenths_less(drive):
    # At the best size 32 the score falls from 0.75 to 0.70, below 0.95 * 0.75: measured again, then 32 - 10 is tried.
    driven = drive(CURVE.__getitem__)
    driven(9)
    driven.score_of = {32: 0.70, 22: 0.60}.__getitem__
    assert driven(2) == [32, 32]
    assert driven.phase == Phase.RE_EVALUATION
    assert driven(2) == [22, 32]
    assert driven.size == 32
    assert driven.tuner.status()["best_score"] == pytest.approx(0.70)


def test_a_drop_above_the_best_size_shrinks_to_the_best(drive):
    driven = drive(CURVE.__getitem__)
    driven(10)
    driven.score_of = {34: 0.60, 32: 0.75}.__getitem__
    assert driven(3) == [34, 34, 32]
    assert driven.phase == Phase.DYNAMIC_ADJUSTMENT


def test_a_batch_whose_steps_stay_long_is_too_large(drive):
    # 40 ms a request: beyond 25 requests a step takes over 1000 ms, though the score still rises with the size.
    driven = drive(lambda size: size / 300, initial_batch_size=16)
    sizes = []
    now_ms = 0.0
    for _ in range(80):
        step_ms = 40.0 * driven.size
        steps = max(1, round(1000.0 / step_ms))
        sizes += driven(1, start_ms=now_ms, steps=steps, busy_ms=steps * step_ms, duration_ms=steps * step_ms)
        now_ms += steps * step_ms
    assert max(sizes) > 25
    assert max(sizes[-30:]) <= 25


def test_one_long_step_shrinks_nothing(drive):
    driven = stable_drive(drive)
    driven(1, steps=1, busy_ms=5_000.0, duration_ms=5_000.0, generated_tokens=4_000)
    assert driven.size == 32


def test_memory_over_its_limit_shrinks_the_batch(drive):
    # 75,000 MB and 500 MB a request: (100,000 - 512) * 0.9 = 89,539 MB allow 29 requests.
    driven = drive(lambda size: size / 300)

    def told(fixed_mb: float) -> int:
        need = fixed_mb + 500.0 * driven.size
        return driven(1, memory_used_mb=need, memory_peak_mb=need)[0]

    assert max([told(75_000.0) for _ in range(30)]) == 29
    assert driven.size == 29
    told(77_000.0)  # longer contexts: 91,500 MB, above 0.9
    assert driven.size == 20  # 29 - round(29 * 0.3)


def test_memory_that_no_batch_size_changes_does_not_shrink_it(drive):
    # A server that reserves 95 % of its memory at start would otherwise end at a batch of one.
    driven = drive(capped())
    reserved = {"memory_used_mb": 95_000.0, "memory_peak_mb": 95_000.0}
    driven(60, **reserved)
    assert driven(20, **reserved).count(32) > 10


def test_the_probe_stops_growing_where_the_memory_estimate_is_unsafe(drive):
    # 40,000 MB and 1000 MB a request: (100,000 - 512) * 0.9 = 89,539 MB allow 49 requests.
    driven = drive(lambda size: size / 300)
    sizes = []
    for _ in range(40):
        size = driven.size
        need = 40_000.0 + 1000.0 * size
        sizes += driven(1, memory_used_mb=need, memory_peak_mb=need)
    assert max(sizes) <= 49
    assert max(sizes) >= 46


def test_out_of_memory_halves_and_probes_again(drive):
    driven = drive(lambda size: size / 300)
    driven(3)
    assert driven.size == 64
    driven(1, failures=1)
    assert driven.size == 32
    assert driven.phase == Phase.INITIAL_PROBING
    assert driven.tuner.status()["consecutive_failures"] == 1
    # The failed size stays out of reach: growth is capped half-way between 32 and 64.
    assert driven(3) == [32, 48, 48]
    assert max(driven(100)) <= 48
    assert driven.tuner.status()["consecutive_failures"] == 0


def test_out_of_memory_never_goes_below_the_minimum(drive):
    driven = drive(lambda size: 0.5, min_batch_size=4, initial_batch_size=4, max_consecutive_failures=5)
    assert driven(4, failures=1) == [4, 4, 4, 4]


def test_a_failed_window_that_measured_nothing_counts_as_a_failure(drive):
    driven = drive(lambda size: 0.5)
    driven(1, failures=1, steps=0, generated_tokens=0, busy_ms=0.0, utilisation=float("nan"))
    assert driven.size == 4


def test_hybrid_halves_its_locked_size_after_out_of_memory(drive):
    driven = drive(CURVE.__getitem__, strategy="hybrid")
    driven(20)
    driven(1, failures=1)
    assert driven.size == 16
    assert driven.phase == Phase.INITIAL_PROBING


def test_three_failures_in_a_row_reset_to_the_safe_state(drive):
    driven = stable_drive(drive)
    assert driven(3, failures=1) == [32, 16, 8]
    status = driven.tuner.status()
    assert driven.size == 1
    assert driven.phase == Phase.SAFE_FALLBACK
    assert (status["best_batch_size"], status["best_score"], status["consecutive_failures"]) == (None, 0.0, 0)
    # One healthy window, and the probe begins again from the minimum.
    driven(1)
    assert driven.phase == Phase.INITIAL_PROBING
    assert driven(2) == [1, 2]


def test_a_success_between_failures_starts_the_count_again(drive):
    driven = stable_drive(drive)
    for _ in range(4):
        driven(1, failures=1)
        driven(1)
    assert driven.phase != Phase.SAFE_FALLBACK


def test_the_safe_state_waits_longer_each_time(drive):
    driven = drive(capped())
    healthy = []
    for _ in range(3):
        driven(3, failures=1)
        healthy.append(next(count for count in range(1, 10) if driven(1) and driven.phase != Phase.SAFE_FALLBACK))
    assert healthy == [1, 2, 4]


def test_a_probe_without_an_acceptable_size_falls_back_and_probes_again(drive):
    driven = drive(lambda size: 0.005)  # 5 tokens/s < 10
    driven(6)  # 8 to 256
    assert driven.phase == Phase.SAFE_FALLBACK
    assert driven.size == 1
    driven(1)
    assert driven.phase == Phase.INITIAL_PROBING


def test_a_first_size_whose_steps_take_too_long_is_left_downwards(drive):
    # 900 ms a request: 8 and 6 exceed the 5000 ms that are acceptable, 4 and 5 do not; 5 has 50 tokens/s, 4 has 40.
    driven = drive(lambda size: 0.0)
    sizes = []
    for turn in range(4):
        size = driven.size
        took = {"start_ms": 30_000.0 * turn, "steps": 4, "busy_ms": 3600.0 * size, "duration_ms": 3600.0 * size}
        sizes += driven(1, **took, generated_tokens=36 * size * size)
    assert sizes == [8, 4, 6, 5]
    assert driven.tuner.status()["best_batch_size"] == 5


def test_a_load_that_changes_while_the_probe_runs_cuts_no_measurement_short(drive):
    driven = drive(lambda size: 0.5, stabilization_cycles=100)
    driven(10, **LIGHT, prefill_tokens=500)
    driven(5, **LIGHT, prefill_tokens=500, arrivals=500)
    assert driven.phase == Phase.INITIAL_PROBING
    # A window without a prompt, where the load has as many as usual, is averaged with the next whatever arrives.
    assert driven(3, prefill_tokens=0, arrivals=500)[-1] == 8


def test_an_unacceptable_size_is_never_best(drive):
    driven = drive(lambda size: 0.9 if size > 16 else 0.5)
    sizes = []
    for _ in range(30):
        slow = {"utilisation": 0.05} if driven.size > 16 else {}
        sizes += driven(1, **slow)
    assert 32 in sizes
    assert driven.tuner.status()["best_batch_size"] <= 16


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


def test_a_tuner_keeps_the_other_limits_of_its_base():
    tuner = ProbeTuner(base=Limits(256, token_budget=2048, max_queued_tokens=9))
    assert tuner.ask() == Limits(8, token_budget=2048, max_queued_tokens=9)


def test_a_size_set_by_hand_is_where_dynamic_goes_on(drive):
    driven = stable_drive(drive)
    driven.tuner.set_batch_size(20)
    assert driven.size == 20
    assert driven.phase == Phase.DYNAMIC_ADJUSTMENT
    assert driven(2)[0] == 20


def test_a_size_set_by_hand_is_locked_by_hybrid(drive):
    driven = drive(CURVE.__getitem__, strategy="hybrid")
    driven.tuner.set_batch_size(32)
    assert driven(50) == [32] * 50


@pytest.mark.parametrize("size", [0, -1, 257, 2.5, True, "8", None])
def test_a_size_out_of_bounds_is_refused_by_name(drive, size):
    driven = drive(CURVE.__getitem__)
    with pytest.raises(ValueError, match="batch_size"):
        driven.tuner.set_batch_size(size)
    assert driven.size == 8


@pytest.mark.filterwarnings("ignore::batchpilot.configs.ConfigWarning")
def test_a_configuration_change_moves_the_size_into_its_bounds(drive):
    driven = stable_drive(drive)
    config = driven.tuner.update_config({"max_batch_size": 20})
    assert config.max_batch_size == driven.tuner.config.max_batch_size == 20
    assert driven.size == 20
    assert max(driven(50)) <= 20


def test_a_configuration_change_is_refused_as_a_whole(drive):
    driven = stable_drive(drive)
    before = driven.tuner.config
    with pytest.raises(ConfigError, match="min_batch_size"):
        driven.tuner.update_config({"growth_coefficient": 0.5, "min_batch_size": 300})
    assert driven.tuner.config == before


@pytest.mark.filterwarnings("ignore::batchpilot.configs.ConfigWarning")
def test_changed_bounds_restart_a_probe_under_way(drive):
    driven = drive(lambda size: size / 300)
    driven(3)
    driven.tuner.update_config({"min_batch_size": 3, "initial_batch_size": 4, "max_batch_size": 10})
    assert driven(4) == [4, 8, 10, 10]


def test_changed_weights_forget_the_scores(drive):
    driven = stable_drive(drive)
    weights = {"throughput_weight": 0.4, "gpu_utilization_weight": 0.4, "memory_efficiency_weight": 0.2}
    driven.tuner.update_config(weights)
    assert driven.tuner.status()["best_batch_size"] is None
    driven(1)
    assert driven.tuner.status()["best_score"] == pytest.approx(0.4 * 0.8 + 0.4 + 0.2)


def test_strategy_static_holds_the_fixed_size(drive):
    driven = stable_drive(drive)
    driven.tuner.update_config({"strategy": "static", "fixed_batch_size": 12})
    assert driven.tuner.name == "static"
    assert driven(30) == [12] * 30


def test_a_disabled_tuner_holds(drive):
    assert drive(CURVE.__getitem__, enabled=False)(30) == [8] * 30


@pytest.mark.parametrize(
    "keys", [{"enabled": False}, {"strategy": "static"}, {"strategy": "static", "fixed_batch_size": 16}]
)
def test_nothing_moves_the_size_of_a_tuner_that_is_disabled_or_static(drive, keys):
    driven = drive(CURVE.__getitem__, **keys)
    size = driven.size
    orders = [
        driven.tuner.trigger_probe,
        driven.tuner.reset_to_safe_state,
        lambda: driven.tuner.set_batch_size(32),
    ]
    for order in orders:
        with pytest.raises(NotObeyedError, match=r"disabled|static"):
            order()
        assert driven(4, failures=1) + driven(4) == [size] * 8
    driven(5, failures=1)
    assert "stays" in driven.tuner.status()["reason"]


def test_a_tuner_that_is_disabled_holds_where_it_is_whatever_comes(drive):
    driven = stable_drive(drive)
    driven.tuner.update_config({"enabled": False})
    driven.tuner.reset()
    assert driven(10, failures=1) + driven(10) == [32] * 20
    driven.tuner.update_config({"enabled": True})
    driven(1, failures=1)
    assert driven.size == 16


def test_a_reset_to_the_safe_state_waits_at_the_minimum_for_a_healthy_window(drive):
    driven = stable_drive(drive)
    driven.tuner.reset_to_safe_state()
    status = driven.tuner.status()
    assert (driven.size, status["phase"], status["best_batch_size"]) == (1, "SAFE_FALLBACK", None)
    assert driven(3) == [1, 1, 2]


def test_dynamic_can_be_made_hybrid_while_running(drive):
    driven = stable_drive(drive)
    driven.tuner.update_config({"strategy": "hybrid"})
    driven.score_of = lambda size: 0.1
    assert len(set(driven(50))) == 1


def test_reset_starts_over(drive):
    driven = stable_drive(drive)
    driven.tuner.reset(seed=3)
    driven.score_of, driven.index = CURVE.__getitem__, 0
    assert driven(9) == PROBE
    assert driven.tuner.status()["windows_heard"] == 9


def test_status_holds_every_key_of_the_api(drive):
    driven = stable_drive(drive)
    status = driven.tuner.status()
    assert status["enabled"] is True
    assert status["phase"] == "STABLE_RUNNING"
    assert status["current_batch_size"] == 32
    assert status["best_batch_size"] == 32
    assert status["best_score"] == pytest.approx(0.8)
    assert status["is_stabilized"] is True
    assert status["consecutive_failures"] == 0
    assert status["throughput"] == pytest.approx(800, abs=40)
    assert status["gpu_utilization"] == 1.0
    assert status["memory_utilization"] == pytest.approx(0.8)
    assert status["processing_time_ms"] == pytest.approx(20.0)
    assert "stable at 32" in status["reason"]


def test_every_transition_taken_is_in_the_table(drive):
    driven = stable_drive(drive, fallback_level="safe")
    taken = set()
    events = [{}] * 10 + [{"failures": 1}] * 3 + [{}] * 60 + [{"arrivals": 90}] * 12 + [{"generated_tokens": 20}] * 3
    for changes in (events + [{}] * 60) * 3:
        before = Phase(driven.phase)
        driven(1, **changes)
        taken.add((before, Phase(driven.phase)))
    assert all(after is before or after in TRANSITIONS[before] for before, after in taken)
    assert len({after for _, after in taken}) == len(Phase)


@pytest.mark.parametrize("options", [{"windows_per_decision": 0}, {"settle_ms": -1.0}, {"settle_ms": float("nan")}])
def test_options_out_of_bounds_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ProbeTuner(**options)
