"""The probe tuner driven by windows from a known score curve: its phases, window by window.

Scores are throughput over 1000 tokens/s alone, and every window counts (no time to settle), so that the arithmetic can
be followed by hand.
"""

import pytest
from probe_curves import CURVE, LIGHT, PROBE, capped, stable_drive

from batchpilot.tuners import Phase


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
