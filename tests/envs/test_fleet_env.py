"""A fleet that waits for decisions plays what a fleet under a scaler plays, and rewards what it is worth."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from batchpilot.baselines.static import SERVER_DEFAULT
from batchpilot.configs.fleet_scenario import FleetScenario, fleet_scenario, fleet_scenario_names
from batchpilot.envs.fleet.actions import FIELDS, FleetActions
from batchpilot.envs.fleet.env import FleetEnv
from batchpilot.envs.fleet.observing import FLEET_FEATURES, REPLICA_FEATURES
from batchpilot.envs.fleet.prepared import prepare_fleet
from batchpilot.envs.fleet.rewards import GoodputMinusCost
from batchpilot.envs.fleet.run import POLL_MS, Decision, FleetRun
from batchpilot.fleet.routers import RULES, Router
from batchpilot.fleet.scalers import FleetView

PHASE = {"arrivals": {"kind": "poisson", "load": 0.9}, "lengths": {"kind": "azure-conv", "max_prompt_tokens": 4096}}
SMALL = {
    "name": "small",
    "description": "A short step.",
    "family": "bursty",
    "replicas": {"A100-80GB": 2},
    "most": 4,
    "startup_s": 10.0,
    "interval_s": 15.0,
    "model": "Llama-3-8B",
    "workload": {"phases": [PHASE | {"duration_s": 60.0}]},
}
ROUTER = Router("least-tokens", poll_ms=POLL_MS)


def small(**changes: object) -> FleetScenario:
    return FleetScenario.model_validate(SMALL | changes)


def prepared(seed: int = 0, **changes: object):
    return prepare_fleet(small(**changes), seed, lambda run, _: SERVER_DEFAULT)


class Scripted:
    """A scaler that says what it was told to say, one number an interval."""

    interval_s = 15.0

    def __init__(self, numbers: list[int]) -> None:
        self._left = list(numbers)

    def decide(self, view: FleetView) -> int:
        return self._left.pop(0) if self._left else view.serving + view.starting


FAILURE = [{"at_s": 21.3, "replica": 1, "kind": "slows", "lasting_s": 13.0, "factor": 3.0}]


@pytest.mark.parametrize("failures", [[], FAILURE])
def test_decisions_one_by_one_and_one_long_run_give_the_same_numbers(failures):
    run = FleetRun(prepared(failures=failures), ROUTER)
    orders = [3, 4, 2, 1]
    run.step()
    for wanted in orders:
        run.step(Decision(replicas=wanted))
    while not (run.done or run.over):
        run.step()
    whole = prepared(failures=failures).fleet(ROUTER, Scripted(orders))
    whole.run_until(run.fleet.now_ms)
    stepped, at_once = run.result(), whole.result()
    np.testing.assert_array_equal(stepped.served.finish_code, at_once.served.finish_code)
    np.testing.assert_allclose(stepped.served.ttft_ms, at_once.served.ttft_ms)
    np.testing.assert_allclose(stepped.served.e2e_ms, at_once.served.e2e_ms)
    assert stepped.replica_hours == pytest.approx(at_once.replica_hours)
    assert {span.replica for span in stepped.spans} == {0, 1, 2, 3}


def test_what_the_intervals_bring_adds_up_to_the_run():
    run = FleetRun(prepared(), ROUTER)
    intervals = [run.step(Decision(replicas=3))]
    while not (run.done or run.over):
        intervals.append(run.step())
    result = run.result()
    assert (
        sum(one.total_good_tokens for one in intervals) == result.served.generated_tokens[result.served.slo_met].sum()
    )
    assert sum(one.ended for one in intervals) == len(result.served.requests)
    assert sum(one.good for one in intervals) == result.served.slo_met.sum()
    assert sum(one.usd for one in intervals) == pytest.approx(result.usd, rel=0.01)
    assert sum(one.paid_ms.sum() for one in intervals) / 3.6e6 == pytest.approx(result.replica_hours, rel=0.01)


def test_gymnasiums_contract_is_kept():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(FleetEnv(small(), fields=FIELDS), skip_render_check=True)


def episode(env: FleetEnv, seed: int, action=None):
    env.reset(seed=seed)
    action = env.actions.start(2) if action is None else action
    while True:
        _, _, done, cut, info = env.step(action)
        if done or cut:
            return info["episode"]


def test_standing_still_scores_zero_and_hindsight_is_no_worse():
    found = episode(FleetEnv(small()), 3)
    assert "references" not in found
    assert found["normalised_score"] in (0.0, pytest.approx(0.0, abs=1e-9)) or math.isnan(found["normalised_score"])
    assert found["references"]["best-fixed"] >= found["references"]["as-it-stands"] == pytest.approx(found["r"])
    assert 0 < found["goodput_fraction"] <= 1
    assert found["usd_per_million_tokens"] > 0


def test_a_replica_more_costs_its_share_of_every_interval():
    free, dear = (episode(FleetEnv(small(), reward=GoodputMinusCost(w)), 1) for w in (0.0, 0.5))
    assert free["r"] - dear["r"] == pytest.approx(0.5 * 2 * dear["l"], rel=0.01)


def test_each_field_of_an_action_reaches_its_replica():
    env = FleetEnv(small(), fields=FIELDS)
    env.reset(seed=0)
    replicas, router, weights, limits = 3, [*RULES].index("round-robin"), [4, 3, 3, 2], 2
    env.step(np.array([replicas - 1, router, *weights, limits]))
    fleet = env._run.fleet
    assert [fleet.replicas.views[i].weight for i in range(4)] == [2.0, 1.0, 1.0, 0.5]
    assert fleet.replicas.limits_of(0).batch_size == fleet.replicas.limits_of(2).batch_size == 64
    assert fleet._door.arrays.routing[0].rule == RULES["round-robin"]
    assert int(fleet.replicas.views["on"].sum()) == 3


def test_an_observation_tells_which_replica_starts_and_which_serves():
    env = FleetEnv(small(startup_s=20.0))
    observation, _ = env.reset(seed=0)
    names = [feature.name for feature in REPLICA_FEATURES]
    row = lambda seen, i: dict(zip(names, seen[len(FLEET_FEATURES) :].reshape(4, -1)[i], strict=True))  # noqa: E731
    assert row(observation, 0)["serves"] == 1
    assert row(observation, 2)["exists"] == 0
    action = env.actions.start(3)
    observation, *_ = env.step(action)
    started = row(observation, 2)
    assert (started["exists"], started["serves"], started["started"]) == (1, 0, pytest.approx(0.75))
    observation, *_ = env.step(action)
    assert row(observation, 2)["serves"] == 1
    assert row(observation, 2)["arrivals"] > 0


def test_an_episode_is_drawn_from_its_seed_alone():
    first, again = (episode(FleetEnv(small()), 7) for _ in range(2))
    assert dict(first) == dict(again)
    assert episode(FleetEnv(small()), 8)["r"] != first["r"]
    env = FleetEnv(small())
    env.reset(seed=1, options={"workload_seed": 5})
    assert env.step(env.actions.start(2))[4]["seed"] == 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"scenario": "fleet-stp"}, "fleet scenario"),
        ({"scenario": ["fleet-step", "fleet-mixed"]}, "other rows"),
        ({"fields": ("replica",)}, "field of a fleet's action"),
        ({"fields": ()}, "name at least one"),
        ({"interval_s": 7.0}, "multiple of 5000 ms"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        FleetEnv(**arguments)


def test_an_action_outside_its_space_and_a_bad_reward_are_refused():
    actions = FleetActions(("replicas",), 1, 4, [0, 0, 0, 0])
    with pytest.raises(ValueError, match="action is"):
        actions.decision([4], prepared())
    env = FleetEnv(small(), reward=lambda interval, run: math.nan)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="finite number"):
        env.step(env.actions.start(2))


@pytest.mark.parametrize("name", fleet_scenario_names())
def test_every_catalogued_fleet_scenario_is_named_after_its_file_and_says_what_it_shows(name):
    scenario = fleet_scenario(name)
    assert scenario.name == name
    assert scenario.description.endswith(".")
    assert scenario.each.device == next(iter(scenario.replicas))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"replicas": {"A100-80GB": 5}}, "outside least 1 and most 4"),
        ({"failures": [{"at_s": 1.0, "replica": 2, "kind": "dies"}]}, "does not stand ready"),
        ({"failures": [{"at_s": 1.0, "replica": 0, "kind": "hangs"}]}, "say kind dies"),
        ({"replicas": {"A1000": 2}}, "A1000"),
    ],
)
def test_a_fleet_scenario_that_contradicts_itself_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        small(**changes)
