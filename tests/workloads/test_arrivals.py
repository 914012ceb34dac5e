import numpy as np
import pytest

from batchpilot.workloads import diurnal, gamma, mmpp, poisson

HOUR_MS = 3_600_000.0
FACTORS, DWELL_S = [0.5, 3.0], [40.0, 10.0]

PROCESSES = {
    "poisson": lambda rate, duration, rng: poisson(rate, duration, rng),
    "gamma": lambda rate, duration, rng: gamma(rate, 3.0, duration, rng),
    "mmpp": lambda rate, duration, rng: mmpp(FACTORS, DWELL_S, rate, duration, rng),
    "diurnal": lambda rate, duration, rng: diurnal(rate, 0.8, 600.0, duration, rng),
}


def rng(seed=0):
    return np.random.default_rng(seed)


def dispersion(arrival_ms, window_ms, duration_ms):
    """Index of dispersion of counts: variance over mean, 1 for a Poisson process."""
    counts, _ = np.histogram(arrival_ms, bins=np.arange(0.0, duration_ms + 1, window_ms))
    return counts.var() / counts.mean()


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_mean_rate_is_the_one_asked_for(process):
    counts = [len(process(5.0, HOUR_MS, rng(seed))) for seed in range(40)]
    assert np.mean(counts) == pytest.approx(5.0 * 3600, rel=0.05)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_arrivals_ascend_within_the_duration(process):
    arrival_ms = process(20.0, 60_000.0, rng())
    assert (np.diff(arrival_ms) >= 0).all()
    assert arrival_ms[0] >= 0
    assert arrival_ms[-1] < 60_000.0


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_a_seed_fixes_every_arrival(process):
    assert np.array_equal(process(5.0, 60_000.0, rng(7)), process(5.0, 60_000.0, rng(7)))
    assert not np.array_equal(process(5.0, 60_000.0, rng(7)), process(5.0, 60_000.0, rng(8)))


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_a_very_short_duration_may_hold_no_arrival(process):
    assert len(process(0.001, 1.0, rng())) == 0


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("rate", [0.0, -1.0, np.nan, np.inf])
def test_a_rate_that_is_not_positive_is_refused(process, rate):
    with pytest.raises(ValueError, match=r"rate_per_s is .*above 0"):
        process(rate, 1000.0, rng())


def test_poisson_counts_vary_as_much_as_their_mean():
    assert dispersion(poisson(5.0, HOUR_MS, rng()), 10_000.0, HOUR_MS) == pytest.approx(1.0, abs=0.3)


def test_gamma_gaps_have_the_coefficient_of_variation_asked_for():
    for cv in (0.3, 1.0, 3.0):
        gaps = np.diff(gamma(10.0, cv, HOUR_MS, rng()))
        assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.1)


def test_gamma_above_one_is_bursty_and_below_one_regular():
    assert dispersion(gamma(5.0, 3.0, HOUR_MS, rng()), 10_000.0, HOUR_MS) > 3.0
    assert dispersion(gamma(5.0, 0.3, HOUR_MS, rng()), 10_000.0, HOUR_MS) < 0.5


def test_mmpp_is_bursty_over_the_dwell_time():
    assert dispersion(mmpp(FACTORS, DWELL_S, 5.0, HOUR_MS, rng()), 10_000.0, HOUR_MS) > 3.0


def test_mmpp_with_equal_factors_is_a_poisson_process():
    arrival_ms = mmpp([1.0, 1.0, 1.0], [5.0, 10.0, 20.0], 5.0, HOUR_MS, rng())
    assert dispersion(arrival_ms, 10_000.0, HOUR_MS) == pytest.approx(1.0, abs=0.3)


def test_mmpp_state_of_factor_zero_is_silent():
    arrival_ms = mmpp([0.0, 1.0], [30.0, 30.0], 20.0, HOUR_MS, rng())
    counts, _ = np.histogram(arrival_ms, bins=np.arange(0.0, HOUR_MS + 1, 5000.0))
    assert 0.3 < np.mean(counts == 0) < 0.6


def test_mmpp_visits_every_one_of_three_states():
    arrival_ms = mmpp([0.0, 1.0, 10.0], [60.0, 60.0, 60.0], 20.0, 4 * HOUR_MS, rng())
    counts, _ = np.histogram(arrival_ms, bins=np.arange(0.0, 4 * HOUR_MS + 1, 5000.0))
    shares = np.histogram(counts, bins=[0, 1, 100, 10_000])[0] / len(counts)
    assert (shares > 0.2).all()


@pytest.mark.parametrize(
    ("factors", "dwell_s", "message"),
    [
        ([1.0], [1.0], "two or more"),
        ([1.0, 2.0], [1.0], "one of each"),
        ([0.0, 0.0], [1.0, 1.0], "not all 0"),
        ([1.0, -1.0], [1.0, 1.0], ">= 0"),
        ([1.0, 2.0], [1.0, 0.0], "above 0 s"),
    ],
)
def test_mmpp_refuses_states_that_make_no_process(factors, dwell_s, message):
    with pytest.raises(ValueError, match=message):
        mmpp(factors, dwell_s, 1.0, 1000.0, rng())


def test_diurnal_follows_its_sine():
    arrival_ms = diurnal(20.0, 0.8, 600.0, HOUR_MS, rng())
    phase = arrival_ms % 600_000.0 / 600_000.0
    day, night = np.mean(phase < 0.5), np.mean(phase >= 0.5)
    # Integrating the sine over half a period: (1 +- 2 * 0.8 / pi) / 2.
    assert day == pytest.approx(0.5 + 0.8 / np.pi, abs=0.01)
    assert night == pytest.approx(0.5 - 0.8 / np.pi, abs=0.01)


def test_diurnal_amplitude_above_one_is_refused():
    with pytest.raises(ValueError, match=r"amplitude is 1\.5"):
        diurnal(1.0, 1.5, 10.0, 1000.0, rng())
