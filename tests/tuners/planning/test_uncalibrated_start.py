"""A tuner that begins with a first guess of its engine does as well as one that was told."""

from dataclasses import replace

import pytest

from batchpilot.baselines import SERVER_DEFAULT
from batchpilot.configs.scenario import scenario
from batchpilot.core.slo import SLO
from batchpilot.engines.simulated.simulation import run_engine
from batchpilot.envs.backends import SimulatedBackend
from batchpilot.tuners import make_tuner
from batchpilot.tuners.planning.estimating import FIRST_GUESS


def goodput(run, slo, latency):
    tuner = make_tuner("guarded-adaptive", base=SERVER_DEFAULT, slo=slo, track="guarded", latency=latency)
    engine = SimulatedBackend().start(run, record_steps=True)
    return run_engine(engine, tuner, window_ms=run.window_ms, horizon_ms=run.horizon_ms).goodput_fraction


@pytest.mark.parametrize("tpot_ms", [40.0, 50.0])
@pytest.mark.parametrize("device", ["A100-80GB", "H100-80GB"])
def test_a_first_guess_in_which_a_lone_request_is_too_slow_costs_next_to_nothing(device, tpot_ms):
    assert float(FIRST_GUESS.predict(1, 1)) > tpot_ms  # the step target is missed by a lone request, as is believed
    slo = SLO(2000.0, tpot_ms)
    run = SimulatedBackend().prepare(scenario("overload-2-h100").model_copy(update={"device": device}), 0)
    run = replace(run, requests=run.requests.with_slos(slo))
    guessed = replace(run, engine=replace(run.engine, estimate=FIRST_GUESS))
    calibrated = goodput(run, slo, run.engine.believed_latency())
    assert calibrated > 0.5
    assert goodput(guessed, slo, None) == pytest.approx(calibrated, abs=0.02)
