import pytest

from batchpilot.agents.training.config import (
    EnvKwargs,
    TrainingConfig,
    load_ppo_config,
    load_training_config,
    training_names,
)
from batchpilot.agents.training.pool import training_pool, validation_pools
from batchpilot.configs.errors import ConfigError
from batchpilot.configs.scenario import suite
from batchpilot.configs.seeds import suite_seeds
from batchpilot.envs.registration import BATCH_SERVICE_ID

GENERALISTS = ("guarded", "limits")


def written(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text("batchpilot/Batching-v0:\n" + text)
    return path


def test_the_shipped_files_load():
    assert set(training_names()) == {*GENERALISTS, "batch-service"}
    assert load_ppo_config("batch-service", BATCH_SERVICE_ID).n_timesteps > 0
    with pytest.raises(ConfigError, match="guarded"):
        load_training_config("gaurded")


@pytest.mark.parametrize("name", GENERALISTS)
def test_training_validation_and_held_out_share_no_device_and_no_seed(name):
    config = load_training_config(name).changed(pool=4)
    held_out = {scenario.device for scenario in suite("held-out")}
    trained_on = set(config.randomisation.devices)
    judged_on = {scenario.device for pool in validation_pools(config) for scenario in pool.scenarios}
    assert not trained_on & judged_on
    assert not held_out & (trained_on | judged_on)
    assert all(seed in suite_seeds("train") for seed in training_pool(config, 0, 0).seeds)
    assert all(seed in suite_seeds("validation") for pool in validation_pools(config) for seed in pool.seeds)


@pytest.mark.parametrize("name", GENERALISTS)
def test_an_episode_starts_from_the_base(name):
    table = load_training_config(name).env_kwargs.table()
    limits = table.to_limits(table.start(80.0), 80.0)
    assert limits.batch_size == 256
    assert limits.token_budget == 512
    assert limits.step_target_ms in (None, 80.0)


def test_segments_and_seeds_draw_different_runs():
    config = load_training_config("guarded").changed(pool=2)
    first, again, later = (training_pool(config, 0, segment) for segment in (0, 0, 1))
    assert first.scenarios == again.scenarios
    assert first.seeds == again.seeds
    assert first.scenarios != later.scenarios != training_pool(config, 1, 1).scenarios


def test_a_learning_rate_falls_linearly_when_asked():
    config = load_training_config("guarded")
    falling = config.changed(learning_rate="lin_4e-4")
    assert falling.learning_rate_at(0.0) == pytest.approx(4e-4)
    assert falling.learning_rate_at(0.75) == pytest.approx(1e-4)
    assert config.changed(learning_rate=0.001).learning_rate_at(0.75) == 0.001


def test_bounds_cut_the_grid():
    bounded = EnvKwargs.model_validate(
        {"fields": ["token_budget"], "bounds": {"token_budget": {"low": 128, "high": 512}}}
    )
    (grid,) = bounded.table().grids
    assert (grid.values[0], grid.values[-1]) == (128, 512)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("  n_timestep: 5\n", "n_timesteps"),
        ("  n_timesteps: 5\n", "neither of randomisation and scenarios"),
        ("  n_timesteps: 5\n  scenarios: [quick]\n  learning_rate: slow\n", "learning_rate is 'slow'"),
        ("  n_timesteps: 5\n  scenarios: [quick]\n  env_kwargs: {track: limit}\n", "limits"),
        ("  n_timesteps: 5\n  scenarios: [quick]\n  env_kwargs: {fields: [batch]}\n", "batch_size"),
        ("  n_timesteps: 5\n  scenarios: [quick]\n  env_kwargs: {moves: [1, 2]}\n", "hold 0"),
    ],
)
def test_a_mistake_in_a_file_is_told_with_its_place(tmp_path, text, told):
    with pytest.raises(ConfigError, match=told) as error:
        load_training_config(written(tmp_path, text))
    assert "mine.yaml" in str(error.value)


def test_another_environments_file_is_refused(tmp_path):
    path = tmp_path / "other.yaml"
    path.write_text("CartPole-v1: {n_timesteps: 5}\n")
    with pytest.raises(ConfigError, match=r"found CartPole-v1 .*other.yaml"):
        load_training_config(path)


def test_a_device_in_training_and_validation_is_refused():
    config = load_training_config("guarded")
    with pytest.raises(ConfigError, match="A10 in training and in validation"):
        config.changed(validation={"devices": ["A10"]})
    with pytest.raises(ConfigError, match="n_steps"):
        config.changed(n_steps=0)
    assert isinstance(config.changed(seeds=[3]), TrainingConfig)
