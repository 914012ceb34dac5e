"""The probe tuner after failed steps and where memory is short: it halves, probes again, or waits in the safe state."""

from probe_curves import CURVE, capped, stable_drive

from batchpilot.tuners import Phase


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
