"""One agent a replica keeps PettingZoo's contract and plays the very fleet of `FleetEnv`."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pettingzoo")

from pettingzoo.test import parallel_api_test, parallel_seed_test

from batchpilot.configs.fleet_scenario import FleetScenario
from batchpilot.envs.fleet.env import FleetEnv
from batchpilot.envs.fleet.observing import FLEET_FEATURES, REPLICA_FEATURES
from batchpilot.envs.fleet.parallel import FleetParallelEnv

PHASE = {"arrivals": {"kind": "poisson", "load": 0.9}, "lengths": {"kind": "azure-conv", "max_prompt_tokens": 4096}}
SMALL = {
    "name": "small",
    "description": "A short run.",
    "family": "stationary",
    "replicas": {"A100-80GB": 2},
    "most": 4,
    "startup_s": 10.0,
    "interval_s": 15.0,
    "model": "Llama-3-8B",
    "workload": {"phases": [PHASE | {"duration_s": 45.0}]},
}
SMALL_FLEET = FleetScenario.model_validate(SMALL)


def test_pettingzoos_contract_is_kept():
    env = FleetParallelEnv(SMALL_FLEET)
    parallel_api_test(env, num_cycles=30)
    parallel_seed_test(lambda: FleetParallelEnv(SMALL_FLEET), num_cycles=3)
    seen, _ = env.reset(seed=5)
    assert env.agents == env.possible_agents == [f"replica_{k}" for k in range(4)]
    assert all(env.observation_space(agent).contains(seen[agent]) for agent in env.agents)
    again, _ = FleetParallelEnv(SMALL_FLEET).reset(seed=5)
    assert all(np.array_equal(seen[agent], again[agent]) for agent in env.agents)


def episode(env, votes, batch=4, weights=3):
    totals = dict.fromkeys(env.possible_agents, 0.0)
    while True:
        actions = {agent: np.array([vote, weights, batch]) for agent, vote in zip(env.agents, votes, strict=True)}
        seen, rewards, done, cut, infos = env.step(actions)
        for agent, reward in rewards.items():
            totals[agent] += reward
        if any(done.values()) or any(cut.values()):
            return seen, totals, infos


@pytest.mark.parametrize("count", [2, 3])
def test_votes_are_the_replicas_that_the_single_environment_asks_for(count):
    many, single = FleetParallelEnv(SMALL_FLEET), FleetEnv(SMALL_FLEET)
    many.reset(options={"workload_seed": 4})
    single.reset(options={"workload_seed": 4})
    _, totals, infos = episode(many, [1] * count + [0] * (4 - count))
    ended = False
    while not ended:
        *_, done, cut, info = single.step(single.actions.start(count))
        ended = done or cut
    one, other = infos["replica_0"]["episode"], info["episode"]
    assert one["goodput_fraction"] == other["goodput_fraction"]
    assert one["replica_hours"] == other["replica_hours"]
    assert sum(totals.values()) == pytest.approx(one["r"]) == pytest.approx(other["r"])
    assert many.agents == []


def test_an_agent_without_a_replica_earns_and_pays_nothing():
    env = FleetParallelEnv(SMALL_FLEET)
    env.reset(seed=0)
    seen, totals, _ = episode(env, [1, 1, 0, 0])
    assert totals["replica_2"] == totals["replica_3"] == 0.0
    assert totals["replica_0"] > 0
    own = seen["replica_3"][len(FLEET_FEATURES) :]
    assert own.shape == (len(REPLICA_FEATURES),)
    assert own[0] == 0


def test_a_reward_of_ones_own_goes_to_everybody():
    env = FleetParallelEnv(SMALL_FLEET, reward=lambda interval, prepared: 2.0)
    env.reset(seed=0)
    _, totals, infos = episode(env, [1, 1, 0, 0])
    assert set(totals.values()) == {2.0 * infos["replica_0"]["episode"]["l"]}


def test_an_action_that_is_missing_or_outside_its_space_is_refused():
    env = FleetParallelEnv(SMALL_FLEET)
    with pytest.raises(RuntimeError, match="reset"):
        env.step({})
    env.reset(seed=0)
    with pytest.raises(ValueError, match="replica_0 has no action"):
        env.step({})
    with pytest.raises(ValueError, match="action of replica_0"):
        env.step({agent: np.array([2, 0, 0]) for agent in env.agents})
