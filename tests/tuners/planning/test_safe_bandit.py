"""The safe bandit: what it may try, when it believes what it saw, and that it gives back what no longer pays."""

import json
from itertools import count

import numpy as np
import pytest

from batchpilot.baselines import StaticTuner
from batchpilot.configs.scenario import scenario
from batchpilot.core import SLO, Limits, WindowMetrics
from batchpilot.engines.simulated.engine import SimulatedEngine
from batchpilot.engines.simulated.simulation import run_engine
from batchpilot.envs.scenarios import prepare
from batchpilot.tuners import make_tuner
from batchpilot.tuners.planning.bandit import SafeBandit
from batchpilot.tuners.planning.trials import MOST_PAIRS, Trial

FROZEN = Limits(64, 1024, 8000)
SECONDS = count()


class Foreseen:
    """Stands in for a twin: what it foresees of limits is told by a function."""

    blind = ""

    def __init__(self, worth):
        self._worth = worth

    def hear(self, details):
        pass

    def look(self, metrics, futures, rng):
        return 1000.0

    def values(self, candidates):
        rows = zip(candidates.batch_size, candidates.token_budget, candidates.max_queued_tokens, strict=True)
        return np.array([[self._worth(*row)] * 8 for row in rows])


def bandit(worth=lambda *_: 100.0, frozen=None, **options):
    tuner = SafeBandit(frozen or StaticTuner(FROZEN, "frozen"), "limits", **options)
    tuner._foresight = Foreseen(worth)
    return tuner


def a_window(limits, arrivals, tokens_per_s):
    start_ms = 1000.0 * next(SECONDS)
    return WindowMetrics(
        limits=limits, start_ms=start_ms, duration_ms=1000.0, arrivals=arrivals, goodput_tokens_per_s=tokens_per_s
    )


def serve(tuner, windows, tokens):
    """Windows of a server that serves `tokens(limits)` for each of ten arrivals; the limits of each."""
    seen = []
    for _ in range(windows):
        limits = tuner.ask()
        seen.append(limits)
        tuner.tell(a_window(limits, 10, 10.0 * tokens(limits)))
    return seen


def test_turns_alternate_so_that_a_trend_favours_nobody():
    trial = Trial(("batch_size", 2.0))
    turns = []
    for k in range(8):
        turns.append(trial.is_challengers_turn)
        trial.hear(100.0 + k)  # the server gets better by itself
    assert turns == [False, True, True, False, False, True, True, False]
    assert np.mean(trial.gains) == pytest.approx(0.0, abs=1e-3)
    assert trial.verdict is not True


@pytest.mark.parametrize(("gain", "wins"), [(0.1, True), (-0.1, False), (0.0, False)])
def test_a_trial_ends_as_soon_as_it_is_sure(gain, wins):
    trial = Trial(("batch_size", 2.0))
    while trial.verdict is None:
        trial.hear(100.0 * (1.0 + gain * trial.is_challengers_turn))
    assert trial.verdict is wins
    assert len(trial.gains) == (1 if gain < -0.05 else 4)


def test_a_trial_that_never_gets_sure_ends_too():
    trial, rng = Trial(("batch_size", 2.0)), np.random.default_rng(0)
    while trial.verdict is None:
        trial.hear(100.0 * (1.02 if trial.is_challengers_turn else 1.0) * rng.choice([0.5, 1.5]))
    assert len(trial.gains) <= MOST_PAIRS


def test_nothing_is_tried_that_is_foreseen_to_lose_more_than_the_bound():
    def worth(batch_size, token_budget, queued):
        return 97.0 if batch_size != 64 else 99.5 if token_budget != 1024 else 100.0

    seen = serve(bandit(worth), 600, lambda limits: 100.0)
    assert {limits.batch_size for limits in seen} == {64}
    assert {limits.token_budget for limits in seen} >= {512, 2048}
    none = bandit(lambda *limits: 100.0 if limits == (64, 1024, 8000) else 90.0)
    assert set(serve(none, 100, lambda limits: 100.0)) == {FROZEN}
    assert "loss above 1%" in none.status()["reason"]
    bold = bandit(worth, largest_loss=0.05)
    assert {limits.batch_size for limits in serve(bold, 2000, lambda limits: 100.0)} > {64}


def test_what_serves_more_takes_over_and_is_given_back_when_that_is_over():
    tuner = bandit()
    serve(tuner, 1500, lambda limits: 120.0 if limits.token_budget < 1024 else 100.0)
    assert tuner.status()["factors"]["token_budget"] < 1.0
    held = tuner.ask().token_budget
    serve(tuner, 1500, lambda limits: 120.0 if limits.token_budget >= 1024 else 100.0)
    assert tuner.status()["factors"]["token_budget"] >= 1.0 > held / 1024


def test_no_setpoint_goes_further_than_four_times_the_frozen_one():
    tuner = bandit()
    seen = serve(tuner, 3000, lambda limits: float(limits.batch_size))
    assert max(limits.batch_size for limits in seen) == 256


def test_the_frozen_strategy_hears_its_own_limits_and_odd_windows_count_for_nobody():
    class Listening(StaticTuner):
        def tell(self, metrics):
            assert metrics.limits == self.ask()

    tuner = bandit(frozen=Listening(FROZEN, "frozen"))
    for _ in range(50):
        tuner.tell(a_window(Limits(7), 100, 1.0))
        tuner.tell(a_window(tuner.ask(), 100, float("nan")))
    assert tuner.status()["trials"] == 0
    serve(tuner, 50, lambda limits: 100.0)
    assert tuner.status()["trials"] > 0


def test_moving_the_roll_out_of_what_is_learned_moves_the_frozen_strategys_too():
    tuner = make_tuner("safe-bandit", track="guarded", around="guarded-adaptive")
    tuner.move_latency_to("shadow")
    assert tuner._estimate.status() == tuner._frozen._estimate.status()
    assert "shadow" in str(tuner._frozen._estimate.status())


@pytest.mark.parametrize("loss", [-0.1, 1.5])
def test_a_bound_that_is_none_is_refused(loss):
    with pytest.raises(ValueError, match=rf"largest_loss is {loss}; it must be from 0 to 1"):
        make_tuner("safe-bandit", largest_loss=loss)


def test_an_unknown_strategy_is_refused_by_name():
    with pytest.raises(ValueError, match="guarded-adaptive"):
        make_tuner("safe-bandit", track="guarded", around="guarded-adaptve")
    assert make_tuner("safe-bandit", track="batch").status()["phase"] == "HOLDING"


def test_on_an_engine_it_tries_loses_little_and_a_copy_goes_on_alike():
    prepared = prepare(scenario("quick-burst"), 0)
    slo = SLO(float(prepared.requests.ttft_target_ms.min()), float(prepared.requests.tpot_target_ms.min()))

    def run(name, **options):
        tuner = make_tuner(name, track="guarded", slo=slo, latency=prepared.engine.believed_latency(), **options)
        engine = SimulatedEngine(prepared.engine, prepared.requests, record_steps=True)
        return tuner, run_engine(engine, tuner, window_ms=prepared.window_ms, horizon_ms=prepared.horizon_ms)

    tuner, result = run("safe-bandit", around="guarded-adaptive")
    _, frozen = run("guarded-adaptive")
    assert tuner.status()["trials"] > 0
    assert result.goodput_fraction > frozen.goodput_fraction - 0.03
    again, same = run("safe-bandit", around="guarded-adaptive")
    assert [window.limits for window in result.windows] == [window.limits for window in same.windows]
    copy = make_tuner("safe-bandit", track="guarded", slo=slo, around="guarded-adaptive")
    copy.load_state_dict(json.loads(json.dumps(tuner.state_dict(), allow_nan=False)))
    assert copy.ask() == again.ask()
    with pytest.raises(ValueError, match="incomplete"):
        copy.load_state_dict({"tuner": "safe-bandit"})
