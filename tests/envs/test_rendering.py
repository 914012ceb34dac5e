import numpy as np
import pytest

from batchpilot.envs import BatchingEnv, BatchingVectorEnv
from batchpilot.envs.rendering import _spark


def played(env, steps=8):
    env.reset(seed=0)
    for _ in range(steps):
        env.step(env.action_space.sample())
    return env


def test_the_panel_names_limits_latency_and_goodput(scenarios):
    env = BatchingEnv(scenarios["chat"], render_mode="ansi")
    env.reset(seed=0)
    env.step(env.table.hold(env.table.start(100.0)))
    panel = env.render()
    lines = panel.splitlines()
    assert lines[0].startswith("chat")
    assert "batch_size 256" in panel
    for word in ("queue", "TTFT p95", "TPOT p95", "goodput", "refused"):
        assert word in panel
    assert max(map(len, lines)) <= 120


def test_the_panel_of_a_fresh_episode_says_so(scenarios):
    env = BatchingEnv(scenarios["chat"], render_mode="ansi")
    env.reset(seed=0)
    assert env.render() == "chat: nothing has run yet\n"


def test_a_new_episode_forgets_the_last_ones_windows(scenarios):
    env = played(BatchingEnv(scenarios["chat"], render_mode="ansi"))
    env.reset()
    assert "nothing has run yet" in env.render()


@pytest.mark.parametrize("steps", [0, 1, 8])
def test_the_chart_is_an_image_that_shows_the_episode(scenarios, steps):
    image = played(BatchingEnv(scenarios["chat"], render_mode="rgb_array"), steps).render()
    assert image.shape == (800, 900, 3)
    assert image.dtype == np.uint8
    assert image.max() == 255
    assert image.min() < 100


def test_the_chart_is_in_colour_once_something_has_run(scenarios):
    env = BatchingEnv(scenarios["chat"], render_mode="rgb_array")
    spread = [np.ptp(played(env, steps).render().astype(int), axis=2) for steps in (0, 3)]
    assert spread[0].max() < 20  # greys
    assert (spread[1] > 60).sum() > 200


def test_the_same_episode_gives_the_same_chart(scenarios):
    first, second = (played(BatchingEnv(scenarios["chat"], render_mode="rgb_array"), 0).render() for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_without_a_render_mode_nothing_is_rendered(scenarios):
    assert played(BatchingEnv(scenarios["chat"]), 1).render() is None


def test_each_row_of_a_vector_environment_has_its_own_panel(scenarios):
    envs = BatchingVectorEnv(2, [scenarios["chat"], scenarios["few"]], render_mode="ansi")
    single = [BatchingEnv([scenarios["chat"], scenarios["few"]], render_mode="ansi") for _ in range(2)]
    envs.reset(seed=0)
    for i, env in enumerate(single):
        env.reset(seed=i)
    for _ in range(5):
        actions = envs.action_space.sample()
        envs.step(actions)
        for env, action in zip(single, actions, strict=True):
            env.step(action)
    assert envs.render() == tuple(env.render() for env in single)


def test_a_sparkline_goes_from_nothing_to_the_top():
    assert _spark([0.0, 4.0, 8.0]) == "▁▅█"
    assert _spark([float("nan"), 1.0, float("inf")], top=2.0) == " ▅█"
    assert _spark([0.0, 0.0]) == "▁▁"
    assert _spark([]) == ""
