"""Studies that begin with a prior."""

import numpy as np
import pytest

pytest.importorskip("optuna")

from batchpilot.baselines import SERVER_DEFAULT
from batchpilot.configs.scenario import scenario
from batchpilot.configs.tuner import TunerConfig
from batchpilot.core import Limits
from batchpilot.engines import SimulatedEngine, run_engine
from batchpilot.envs.scenarios import prepare
from batchpilot.tuners import make_tuner
from batchpilot.tuners.bayesian.exploring import Exploration
from batchpilot.tuners.bayesian.prior import Prior
from batchpilot.tuners.bayesian.space import SearchSpace
from batchpilot.tuners.bayesian.studies import TrialState, open_storage

NAME = "batch_size_notch"


def value(notch, best):
    return float(np.exp(-abs(notch - best) / 8))


def explore(sampler, best_of_twin, trials, best=10, prior=True, noise=0.01):
    space = SearchSpace("batch", Limits(256))
    notches = range(space.distributions[NAME].high + 1)
    params = [{NAME: notch} for notch in notches]
    expected = np.array([[value(notch, best_of_twin + shift) for notch in notches] for shift in (-2, 0, 2)])
    exploration = Exploration(
        space, sampler, name="study", storage=open_storage(None), seed=(3, 0), startup_trials=4, pruner=None
    )
    if prior:
        exploration.believe(Prior(params, expected, noise))
    for _ in range(trials):
        exploration.ask(100.0)
        exploration.tell(value(exploration.params[NAME], best), {"failures": 0.0})
    return exploration


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "random"])
def test_first_trials_are_the_best_guesses(sampler):
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    tried = [trial.params[NAME] for trial in explore(sampler, best_of_twin=20, trials=3).trials()]
    assert tried == [20, 18, 22]


def test_the_process_around_the_prior_finds_what_a_wrong_twin_did_not_know():
    found = explore("gp", best_of_twin=24, trials=10, best=10)
    assert found.best().params[NAME] == 10
    assert len({trial.params[NAME] for trial in found.trials()}) == 10


def test_pseudo_observations_stay_out_of_the_study_and_draw_trials_near_the_twins_best():
    found = explore("tpe", best_of_twin=20, trials=12, best=20)
    assert found.told == len(found.trials()) == 12
    cold = explore("tpe", best_of_twin=20, trials=12, best=20, prior=False)
    distance = [np.mean([abs(one.params[NAME] - 20) for one in study.trials()]) for study in (found, cold)]
    assert distance[0] < distance[1]


def test_the_largest_of_noisy_values_is_not_believed_to_be_the_best():
    found = explore("gp", best_of_twin=10, trials=6, noise=0.3)
    assert found.believed_best().params[NAME] == 10
    found.suggest({NAME: 30})
    found.ask(100.0)
    found.tell(1.1, {"failures": 0.0})
    assert found.best().params[NAME] == 30
    assert found.believed_best().params[NAME] == 10


def test_an_infeasible_trial_counts_as_bad():
    found = explore("gp", best_of_twin=10, trials=3)
    found.suggest({NAME: 14})
    found.ask(100.0)
    found.tell(2.0, {"failures": 1.0})
    assert found.best().params[NAME] != 14
    found.ask(100.0)
    assert abs(found.params[NAME] - 14) > 1


def play(seed, **options):
    run = prepare(scenario("quick-chat"), seed)
    tuner = make_tuner(
        "optuna-gp",
        TunerConfig(strategy="hybrid"),
        base=SERVER_DEFAULT,
        latency=run.engine.latency,
        seed=seed,
        trials=3,
        windows_per_trial=4,
        **options,
    )
    engine = SimulatedEngine(run.engine, run.requests, record_steps=True)
    run_engine(engine, tuner, window_ms=run.window_ms, horizon_ms=16_000.0)
    return tuner


def test_an_online_study_asks_the_twin_once_it_has_heard_requests():
    tuner = play(0, twin=True)
    prior = tuner._exploration.prior
    assert tuner.needs_details
    assert prior.params[0] == tuner._exploration.trials()[0].params
    states = [trial.state for trial in tuner._exploration.trials()]
    assert states[:2] == [TrialState.COMPLETE, TrialState.COMPLETE]
    assert tuner._exploration.trials()[1].params == prior.guesses()[0]
    assert play(0, twin=True).ask() == tuner.ask()


def test_a_twin_needs_a_latency_and_tokens_to_count():
    with pytest.raises(ValueError, match="no latency"):
        make_tuner("optuna-gp", twin=True)
    latency = prepare(scenario("quick-chat"), 0).engine.latency
    with pytest.raises(ValueError, match="score"):
        make_tuner("optuna-gp", latency=latency, twin=True, objective="score")
    assert not make_tuner("optuna-tpe", latency=latency).needs_details


def test_settings_that_the_twin_was_not_asked_for_are_tried_beside_the_best():
    space = SearchSpace("batch", Limits(256))
    asked = [{NAME: notch} for notch in range(0, 33, 4)]
    expected = np.array([[value(one[NAME], 20 + shift) for one in asked] for shift in (-2, 0, 2)])
    exploration = Exploration(
        space, "gp", name="study", storage=open_storage(None), seed=(3, 0), startup_trials=4, pruner=None
    )
    exploration.believe(Prior(asked, expected))
    for _ in range(10):
        exploration.ask(100.0)
        exploration.tell(value(exploration.params[NAME], 22), {"failures": 0.0})
    assert exploration.best().params[NAME] == 22
