"""A copied or pickled environment goes on exactly as the original."""

import copy
import pickle

import gymnasium
import numpy as np
import pytest

from batchpilot.envs import BatchingEnv, BatchingVectorEnv


def make_single():
    return BatchingEnv("quick-chat", render_mode="ansi")


def make_vector():
    return BatchingVectorEnv(3, "quick", autoreset_mode="SameStep")


def make_short_episodes():
    return BatchingVectorEnv(2, "quick-chat", actions="discrete", decision_interval_ms=20_000.0, seeds=[1, 2])


def own_reward(metrics):
    return -metrics["queue"]


def make_box():
    return BatchingEnv("quick-chat", track="guarded", actions="box", reward=own_reward)


def make_queue():
    return gymnasium.make("batchpilot/BatchService-v0")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
@pytest.mark.parametrize("make", [make_single, make_vector, make_short_episodes, make_box, make_queue])
def test_a_copied_environment_goes_on_exactly_as_the_original(make, copied):
    original = make()
    original.reset(seed=1)
    original.action_space.seed(1)
    for _ in range(10):
        original.step(original.action_space.sample())
    other = copied(original)
    for _ in range(20):
        action = original.action_space.sample()
        np.testing.assert_equal(other.step(action), original.step(action))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_the_copy_of_an_episode_under_way_ends_with_the_same_account(copied):
    original = BatchingEnv("quick-chat", decision_interval_ms=10_000.0)
    original.reset(seed=2)
    hold = np.array([2, 2, 2])
    original.step(hold)
    other, ends = copied(original), []
    for env in (original, other):
        ended = False
        while not ended:
            *_, terminated, truncated, info = env.step(hold)
            ended = terminated or truncated
        ends.append(info["episode"])
    assert ends[0] == ends[1]
    assert ends[0]["l"] > 2
    assert ends[0]["references"] == ends[1]["references"]
