"""Offline data: what is stored is what the environment played, and can be played again."""

import importlib.util

import numpy as np
import pytest
from typer.testing import CliRunner

from batchpilot.envs import env_id
from batchpilot.runners.main import app

ENV = env_id("guarded", "quick")


def collected(name, *options):
    return CliRunner().invoke(app, ["dataset", name, "--env", ENV, "--episodes", "2", *map(str, options)])


@pytest.fixture
def minari(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return pytest.importorskip("minari")


@pytest.mark.skipif(importlib.util.find_spec("minari") is not None, reason="Minari is installed")
def test_without_minari_the_error_says_how_to_get_it():
    told = collected("batchpilot/x/y-v0")
    assert told.exit_code == 2
    assert "pip install 'minari[hdf5]" in told.output.replace("\n", " ")


@pytest.mark.parametrize("behaviour", ["random", "policy-guarded", "guarded-default"])
def test_a_stored_episode_is_what_its_environment_plays_again(minari, behaviour):
    done = collected("batchpilot/test/one-v0", "--behaviour", behaviour, "--epsilon", 0.2)
    assert done.exit_code == 0, done.output
    found = minari.load_dataset("batchpilot/test/one-v0")
    assert found.total_episodes == 2
    env = found.recover_environment()
    metadata = list(found.storage.get_episode_metadata([0, 1]))
    for episode, told in zip(found.iterate_episodes(), metadata, strict=True):
        options = {name: told["options"][name] for name in ("scenario", "workload_seed")}
        observation, _ = env.reset(options=options)
        assert len(episode.observations) == len(episode.actions) + 1
        for k, action in enumerate(episode.actions):
            np.testing.assert_array_equal(observation, episode.observations[k])
            observation, reward, terminated, truncated, _ = env.step(action)
            assert reward == episode.rewards[k]
            assert (terminated, truncated) == (episode.terminations[k], episode.truncations[k])
        assert terminated or truncated


def test_equal_plans_give_equal_data_and_other_seeds_others(minari):
    for name, seed in (("a", 1), ("b", 1), ("c", 7)):
        assert collected(f"batchpilot/test/{name}-v0", "--seed", seed).exit_code == 0
    a, b, c = (next(minari.load_dataset(f"batchpilot/test/{name}-v0").iterate_episodes()) for name in "abc")
    np.testing.assert_array_equal(a.actions, b.actions)
    np.testing.assert_array_equal(a.rewards, b.rewards)
    assert not np.array_equal(a.observations[1], c.observations[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--behaviour", "static-best"], "knows its run beforehand"),
        (["--behaviour", "policy-garded"], "did you mean 'policy-guarded'"),
        (["--epsilon", 2], "epsilon is 2"),
    ],
)
def test_what_cannot_be_collected_is_refused(minari, options, message):
    told = collected("batchpilot/test/odd-v0", *options)
    assert told.exit_code == 2
    assert message in told.output.replace("\n", " ")
    assert not minari.list_local_datasets()


def test_a_data_set_that_is_there_is_kept(minari):
    assert collected("batchpilot/test/one-v0").exit_code == 0
    told = collected("batchpilot/test/one-v0")
    assert told.exit_code == 2
    assert "already" in told.output
