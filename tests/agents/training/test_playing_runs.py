import numpy as np
import pytest

from batchpilot.agents.evaluation import play
from batchpilot.agents.training.config import EnvKwargs
from batchpilot.configs.scenario import scenario
from batchpilot.core.actions import ActionTable
from batchpilot.core.limits import Limits
from batchpilot.engines.simulated.engine import SimulatedEngine
from batchpilot.engines.simulated.simulation import run_engine
from batchpilot.envs.scenarios import prepare

FIELDS = ("batch_size", "token_budget")


@pytest.fixture(scope="module")
def runs():
    return [
        prepare(scenario(name), seed) for name, seed in (("quick-chat", 1), ("closed-loop-8", 2), ("quick-burst", 3))
    ]


def alone(run, limits):
    engine = SimulatedEngine(run.engine, run.requests)
    return run_engine(engine, limits, window_ms=run.window_ms, horizon_ms=run.horizon_ms).goodput_fraction


def test_runs_played_together_give_what_each_gives_alone(runs):
    base = Limits(64, 512)
    played = play(runs, ActionTable(FIELDS, base))
    assert [one.goodput_fraction for one in played] == pytest.approx([alone(run, base) for run in runs], rel=1e-12)


def test_a_start_takes_the_place_of_the_base(runs):
    table = ActionTable(FIELDS, Limits(256, 2048))
    starts = np.array([ActionTable(FIELDS, Limits(8, 256)).start(100.0)] * len(runs))
    played = play(runs, table, starts=starts)
    assert [one.goodput_fraction for one in played] == pytest.approx([alone(run, Limits(8, 256)) for run in runs])


def test_a_policy_is_asked_once_a_decision_for_every_run(runs):
    asked = []

    def hold(n):
        def decide(observations):
            asked.append(observations.shape[0])
            return np.full((n, 2), 2)

        return decide

    played = play(runs, ActionTable(FIELDS, Limits(64, 512)), hold)
    assert set(asked) == {3}
    assert len(asked) == max(len(one.good_tokens) for one in played)


def test_an_interval_divides_the_windows(runs):
    table = EnvKwargs().table()
    usual, twice = (play(runs[:1], table, interval_ms=interval)[0] for interval in (None, 500.0))
    assert len(twice.good_tokens) > 1.8 * len(usual.good_tokens)
    assert twice.good_tokens.sum() == pytest.approx(usual.good_tokens.sum(), rel=0.05)
