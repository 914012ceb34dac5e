"""An estimate that is off by more than a plan is worth: the tuner says so, and the guarded rule stands in."""

from __future__ import annotations

import numpy as np
import pytest
from hostile_windows import details, sane_window

from batchpilot.baselines.guarded import STEP_TARGET_SHARE
from batchpilot.core import SLO
from batchpilot.latency import SaturationParameters
from batchpilot.tuners import make_tuner
from batchpilot.tuners.planning.aiming import LOWEST_SHARE
from batchpilot.tuners.rails.true_estimate import DOUBTED_FROM, TRUSTED_BELOW

LATENCY = SaturationParameters(p_max=20.0, k_b=0.12, k_s=0.005, tau_0=10.0, tau_b=0.02, tau_c=1e-4)
PROMISE = SLO(2000.0, 100.0)
LEANING = ("model-based", "policy-guarded", "guarded-adaptive")


def hear(tuner, windows, scatter, rng):
    """Windows whose steps take what the estimate says, times a factor between 1/scatter and scatter."""
    for _ in range(windows):
        start_ms = hear.clock_ms
        hear.clock_ms += 1000.0
        told = details(hear.clock_ms, rng, hostile=False, most=12)
        batch = rng.integers(1, 60, 20).astype(float)
        tokens, context = 3 * batch, 400 * batch
        factor = scatter ** rng.uniform(-1.0, 1.0, 20)
        steps = np.column_stack(
            (np.full(20, start_ms), batch, tokens, context, factor * LATENCY.predict(batch, tokens, context))
        )
        object.__setattr__(told, "steps", steps)
        tuner.study(told)
        tuner.tell(sane_window(tuner.ask(), start_ms, rng))


hear.clock_ms = 0.0


@pytest.mark.parametrize("name", LEANING)
def test_a_tuner_that_is_far_off_says_so_and_guards(name):
    rng = np.random.default_rng(4)
    tuner = make_tuner(name, slo=PROMISE, track="guarded", latency=LATENCY)
    hear(tuner, 12, 1.05, rng)
    assert tuner.status()["estimate_trusted"]
    assert tuner.status()["estimate_error"] < TRUSTED_BELOW
    hear(tuner, 12, 8.0, rng)
    status, limits = tuner.status(), tuner.ask()
    assert not status["estimate_trusted"]
    assert status["estimate_error"] >= DOUBTED_FROM
    assert "off by" in status["reason"]
    assert (limits.ttft_guard, limits.discipline) == (1.0, "spf")
    assert 0.0 < limits.step_target_ms <= STEP_TARGET_SHARE * PROMISE.tpot_ms


@pytest.mark.parametrize("name", LEANING)
def test_a_doubt_moves_with_the_tuner_and_ends_with_its_cause(name):
    rng = np.random.default_rng(4)
    tuner, other = (make_tuner(name, slo=PROMISE, track="guarded", latency=LATENCY) for _ in range(2))
    hear(tuner, 12, 8.0, rng)
    other.load_state_dict(tuner.state_dict())
    assert not other.status()["estimate_trusted"]
    assert other.ask() == tuner.ask()
    hear(other, 40, 1.02, rng)
    assert other.status()["estimate_trusted"]


@pytest.mark.parametrize("name", [*LEANING, "safe-bandit"])
def test_who_fills_steps_with_room_of_his_own_gets_a_target_without_the_estimates_error(name):
    told = [
        make_tuner(name, slo=PROMISE, track="guarded", latency=LATENCY, error_margin=margin) for margin in (True, False)
    ]
    for tuner in told:
        hear(tuner, 12, 8.0, np.random.default_rng(4))
    with_room, without = (tuner.ask().step_target_ms for tuner in told)
    assert LOWEST_SHARE * PROMISE.tpot_ms <= with_room < 0.95 * without
