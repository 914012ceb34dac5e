import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from batchpilot.core import Limits
from batchpilot.envs import BatchingVectorEnv

HERE = {"scenario": "closed-loop-8", "seeds": range(4)}


@pytest.fixture
def make():
    pytest.importorskip("stable_baselines3")
    from batchpilot.agents.sb3 import BatchingVecEnv

    return BatchingVecEnv


@pytest.mark.skipif(importlib.util.find_spec("stable_baselines3") is not None, reason="stable-baselines3 is installed")
def test_without_stable_baselines3_the_error_names_the_extra():
    with pytest.raises(ImportError, match=r"batchpilot\[rl\]"):
        importlib.import_module("batchpilot.agents.sb3")


def test_importing_agents_needs_no_heavy_library():
    code = "import sys, batchpilot.agents; print(*{'torch', 'stable_baselines3'} & set(sys.modules))"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.split() == []


def test_rows_give_the_numbers_of_the_vector_environment(make):
    adapted, native = make(3, **HERE), BatchingVectorEnv(3, autoreset_mode="SameStep", **HERE)
    adapted.seed(5)
    np.testing.assert_array_equal(adapted.reset(), native.reset(seed=5)[0])
    rng = np.random.default_rng(0)
    for _ in range(30):
        actions = rng.integers(0, 5, (3, 3))
        observations, rewards, dones, infos = adapted.step(actions)
        expected, expected_rewards, terminated, truncated, told = native.step(actions)
        np.testing.assert_array_equal(observations, expected)
        np.testing.assert_array_equal(rewards, expected_rewards.astype(np.float32))
        np.testing.assert_array_equal(dones, terminated | truncated)
        for i in np.flatnonzero(dones):
            np.testing.assert_array_equal(infos[i]["terminal_observation"], told["final_obs"][i])
            assert infos[i]["TimeLimit.truncated"] == truncated[i]
            assert infos[i]["scenario"] == "closed-loop-8"


def test_a_run_cut_off_by_its_horizon_says_so(make):
    envs = make(1, scenario="quick-chat", track="batch", base=Limits(batch_size=1), decision_interval_ms=30_000.0)
    envs.reset()
    infos = [{}]
    while not infos[0]:
        *_, infos = envs.step(np.array([[2]]))
    assert infos[0]["TimeLimit.truncated"] is True


def test_seeds_count_once(make):
    envs = make(2, scenario="quick-chat")
    drawn = []
    for seed in (1, None, 1):
        if seed is not None:
            envs.seed(seed)
        envs.reset()
        drawn.append([info["seed"] for info in envs.reset_infos])
    assert drawn[0] == drawn[2] != drawn[1]


def test_rows_share_one_environment(make):
    envs = make(2, **HERE)
    assert envs.get_attr("num_envs") == [2, 2]
    assert envs.env_is_wrapped(object) == [False, False]
    assert envs.get_images() == [None, None]
    with pytest.raises(ValueError, match="share one environment"):
        envs.set_attr("render_mode", "ansi", indices=[0])
    envs.set_options([{"workload_seed": 1}, {"workload_seed": 2}])
    with pytest.raises(ValueError, match="same options"):
        envs.reset()


def test_ppo_learns_on_it(make):
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecMonitor

    envs = VecMonitor(make(4, **HERE))
    agent = PPO("MlpPolicy", envs, n_steps=16, batch_size=32, n_epochs=1, seed=0, device="cpu").learn(512)
    assert agent.num_timesteps == 512
    assert len(agent.ep_info_buffer) > 0
    actions, _ = agent.predict(envs.reset(), deterministic=True)
    assert actions.shape == (4, 3)


def test_agents_read_returns_and_shares_from_the_episodes_that_end(make):
    from stable_baselines3 import PPO

    envs = make(2, **HERE)
    agent = PPO("MlpPolicy", envs, n_steps=32, batch_size=32, n_epochs=1, seed=0, device="cpu").learn(256)
    assert len(agent.ep_info_buffer) > 0
    for told in agent.ep_info_buffer:
        assert told["l"] > 0
        assert 0 <= told["goodput_fraction"] <= 1


def test_every_row_has_the_mask_of_its_own_position(make):
    envs = make(3, scenario="quick-chat", base=Limits(1))
    envs.reset()
    envs.step(np.array([[4, 2, 2], [2, 2, 2], [2, 2, 2]]))
    assert envs.has_attr("action_masks")
    masks = np.stack(envs.env_method("action_masks"))
    np.testing.assert_array_equal(masks, envs.envs.action_masks())
    assert masks[0].sum() > masks[1].sum()
    np.testing.assert_array_equal(masks[1], masks[2])
    assert len(envs.env_method("action_masks", indices=[1])) == 1
