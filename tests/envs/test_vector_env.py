import copy
import pickle

import gymnasium as gym
import numba
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from short_scenarios import CHAT, short

from batchpilot import Limits
from batchpilot.envs import ENV_ID, BatchingEnv, BatchingVectorEnv

MIXED = ("few", "chat", "quiet", "drifting", "t4", "unpromised", "closed")


def assert_infos_agree(native, reference):
    """Every value that n single environments tell, the native one tells too, and no other."""
    for key, expected in reference.items():
        if key.startswith("_"):
            np.testing.assert_array_equal(native[key], expected, err_msg=key)
        elif isinstance(expected, dict):
            assert_infos_agree(native[key], expected)
        else:
            mask = reference[f"_{key}"]
            for i in np.flatnonzero(mask):
                np.testing.assert_array_equal(native[key][i], expected[i], err_msg=key)
    for key, mask in native.items():
        if key.startswith("_"):
            assert key in reference or not np.any(mask), key


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("track", ["limits", "guarded"])
def test_rows_equal_single_environments_over_many_episodes(scenarios, mode, track):
    mixed = [scenarios[name] for name in MIXED]
    n, arguments = 5, {"scenario": mixed, "track": track}
    native = BatchingVectorEnv(n, autoreset_mode=mode, **arguments)
    reference = SyncVectorEnv([lambda: BatchingEnv(**arguments)] * n, autoreset_mode=mode)
    observations, infos = native.reset(seed=3)
    expected, expected_infos = reference.reset(seed=3)
    np.testing.assert_array_equal(observations, expected)
    assert_infos_agree(infos, expected_infos)
    native.action_space.seed(0)
    episodes = 0
    for _ in range(120):
        actions = native.action_space.sample()
        *numbers, infos = native.step(actions)
        *expected, expected_infos = reference.step(actions)
        for ours, theirs in zip(numbers, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert_infos_agree(infos, expected_infos)
        episodes += int((numbers[2] | numbers[3]).sum())
    assert episodes >= n


@pytest.mark.parametrize("discipline", ["fcfs", "fair"])
def test_an_episode_is_the_same_whatever_its_row_played_before(discipline):
    arrivals, slos = {"kind": "poisson", "load": 3.0}, {"interactive": {"ttft_ms": 300, "tpot_ms": 50}}
    phases = [{"duration_s": 8, "arrivals": arrivals, "lengths": CHAT, "users": 3}]
    terms = {0: {"weight": 0.1}, 1: {"weight": 5.0}, 2: {"max_running": 2}}
    plain = short("plain", workload={"phases": phases}, slos=slos)
    unequal = short("unequal", workload={"phases": phases}, slos=slos, engine={"tenants": terms})
    base = Limits(12, ttft_guard=1.0, discipline=discipline, refusal_bound=0.0)
    hold = np.full((1, 3), 2)

    def played(*names):
        envs = BatchingVectorEnv(1, [plain, unequal], base=base)
        for name in names:
            envs.reset(seed=3, options={"scenario": name})
            told = [envs.step(hold) for _ in range(8)]
        return [step[:2] for step in told]

    alone = played("plain")
    np.testing.assert_equal(played("plain", "plain"), alone)
    np.testing.assert_equal(played("unequal", "plain"), alone)


def test_the_number_of_threads_changes_no_number(scenarios):
    mixed = [scenarios[name] for name in MIXED]
    results = []
    for threads in {1, 2, numba.get_num_threads()}:
        envs = BatchingVectorEnv(7, mixed, track="guarded", threads=threads)
        envs.reset(seed=1)
        envs.action_space.seed(2)
        results.append([envs.step(envs.action_space.sample())[:4] for _ in range(30)])
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            for one, same in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(one, same)


def test_what_the_rows_return_is_in_the_batched_spaces(scenarios):
    envs = BatchingVectorEnv(4, scenarios["chat"])
    observations, _ = envs.reset(seed=0)
    for _ in range(40):
        assert observations in envs.observation_space
        assert all(row in envs.single_observation_space for row in observations)
        observations, rewards, terminated, truncated, _ = envs.step(envs.action_space.sample())
        assert rewards.shape == terminated.shape == truncated.shape == (4,)
        assert terminated.dtype == truncated.dtype == np.bool_


def test_make_vec_gives_the_native_environment(scenarios):
    envs = gym.make_vec(ENV_ID, num_envs=3, vectorization_mode="vector_entry_point", scenario=scenarios["chat"])
    assert isinstance(envs.unwrapped, BatchingVectorEnv)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert envs.reset(seed=0)[0].shape == (3, *envs.single_observation_space.shape)


def test_next_step_autoreset_ignores_the_action_of_an_ended_row(scenarios):
    envs = BatchingVectorEnv(2, scenarios["closed"])
    envs.reset(seed=0)
    hold = np.full((2, 3), 2)
    ended = np.zeros(2, bool)
    while not ended.any():
        _, _, terminated, truncated, _ = envs.step(hold)
        ended = terminated | truncated
    row = int(np.argmax(ended))
    moving = np.zeros((2, 3), np.int64)
    _, rewards, terminated, truncated, infos = envs.step(moving)
    assert rewards[row] == 0.0
    assert not terminated[row]
    assert not truncated[row]
    assert infos["metrics"]["duration_ms"][row] == 0.0
    assert infos["limits"]["batch_size"][row] == 256


def test_same_step_autoreset_tells_how_the_episode_ended(scenarios):
    envs = BatchingVectorEnv(2, scenarios["closed"], autoreset_mode="SameStep")
    envs.reset(seed=0)
    ended = np.zeros(2, bool)
    while not ended.any():
        observations, _, terminated, truncated, infos = envs.step(np.full((2, 3), 2))
        ended = terminated | truncated
    np.testing.assert_array_equal(infos["_final_obs"], ended)
    row = int(np.argmax(ended))
    assert infos["final_info"]["metrics"]["completions"][row] > 0
    assert infos["metrics"]["duration_ms"][row] == 0.0
    assert np.any(infos["final_obs"][row] != observations[row])


def test_seeds_are_given_per_row(scenarios):
    envs = BatchingVectorEnv(3, scenarios["chat"])
    _, by_list = envs.reset(seed=[7, 8, 7])
    assert by_list["seed"][0] == by_list["seed"][2] != by_list["seed"][1]
    _, counted = envs.reset(seed=7)
    assert list(counted["seed"][:2]) == list(by_list["seed"][:2])
    _, drawn_on = envs.reset()
    assert drawn_on["seed"][0] != counted["seed"][0]


def test_resets_without_a_seed_go_on_from_the_last_one(scenarios):
    drawn = []
    for _ in range(2):
        envs = BatchingVectorEnv(2, scenarios["chat"])
        envs.reset(seed=4)
        drawn.append(envs.reset()[1]["seed"].tolist())
    assert drawn[0] == drawn[1]


def test_infos_of_a_step_stay_as_they_were(scenarios):
    envs = BatchingVectorEnv(2, scenarios["chat"])
    envs.reset(seed=0)
    hold = np.full((2, 3), 2)
    observations, _, _, _, infos = envs.step(hold)
    before = observations.copy(), infos["metrics"]["start_ms"].copy(), infos["limits"]["batch_size"].copy()
    for _ in range(3):
        envs.step(np.zeros((2, 3), np.int64))
    for kept, now in zip(
        before, (observations, infos["metrics"]["start_ms"], infos["limits"]["batch_size"]), strict=True
    ):
        np.testing.assert_array_equal(kept, now)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "num_envs is 0"),
        ({"autoreset_mode": AutoresetMode.DISABLED}, "NextStep and SameStep"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_wrong_vector_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BatchingVectorEnv(**arguments)


def test_wrong_calls_are_refused(scenarios):
    envs = BatchingVectorEnv(2, scenarios["chat"])
    with pytest.raises(RuntimeError, match="reset must be called"):
        envs.step(np.full((2, 3), 2))
    with pytest.raises(ValueError, match="3 seeds were given for 2"):
        envs.reset(seed=[1, 2, 3])
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="actions must be whole numbers"):
        envs.step(np.full((3, 3), 2))


def test_infos_are_dictionaries_however_they_are_looked_at(scenarios):
    envs = BatchingVectorEnv(2, [scenarios["few"]])
    envs.reset(seed=0)

    def metrics():
        return envs.step(np.full((2, 3), 2))[4]["metrics"]

    assert isinstance(metrics(), dict)
    assert "ttft_ms_p50" in metrics()
    assert len(metrics()) == len(list(metrics())) == len(dict(metrics())) == len({**metrics()}) > 80
    assert (
        {*metrics()} == {*metrics().keys()} == {*copy.deepcopy(metrics())} == {*pickle.loads(pickle.dumps(metrics()))}
    )
    assert metrics().get("nothing", 3) == 3
    first = metrics()
    np.testing.assert_equal(first, first.copy())
    assert "ttft_ms_p50" in repr(metrics())
