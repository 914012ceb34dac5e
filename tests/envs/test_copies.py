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


def make_queue():
    return gymnasium.make("batchpilot/BatchService-v0")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
@pytest.mark.parametrize("make", [make_single, make_vector, make_queue])
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
