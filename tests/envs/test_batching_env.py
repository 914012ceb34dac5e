import math
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchpilot.core import TRACKS, Limits
from batchpilot.core.features import window_features
from batchpilot.engines import SimulatedEngine, run_engine
from batchpilot.envs import ENV_ID, BatchingEnv, prepare, register_envs

METRICS_OF_REFUSALS = ("refused_on_arrival", "refused_by_guard")


def play(env, actions, **reset):
    """Observations, rewards and infos of an episode, the first observation included."""
    observation, info = env.reset(**reset)
    steps = [(observation, 0.0, info)]
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        steps.append((observation, reward, info))
        if terminated or truncated:
            break
    return steps


def sampled(env, n, seed=0):
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(n)]


@pytest.mark.parametrize("action_mode", ["relative", "absolute"])
@pytest.mark.parametrize("track", list(TRACKS))
def test_gymnasiums_checker_finds_nothing_to_warn_of(scenarios, track, action_mode):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(ENV_ID, scenario=scenarios["chat"], track=track, action_mode=action_mode)
        check_env(env.unwrapped, skip_render_check=True)


def test_every_render_mode_passes_gymnasiums_checker(scenarios):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(ENV_ID, scenario=scenarios["chat"], render_mode="ansi").unwrapped)


def test_registering_again_changes_nothing():
    before = gym.spec(ENV_ID)
    register_envs()
    assert gym.spec(ENV_ID) is before
    assert before.vector_entry_point is not None


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["chat", "few", "drifting", "t4", "unpromised", "static", "closed"]),
    track=st.sampled_from(sorted(TRACKS)),
    mode=st.sampled_from(["relative", "absolute"]),
    reward=st.sampled_from(["goodput", "score"]),
    seed=st.integers(0, 2**32),
)
def test_what_the_env_returns_is_always_in_its_spaces(scenarios, name, track, mode, reward, seed):
    env = BatchingEnv(scenarios[name], track=track, action_mode=mode, reward=reward)
    for observation, value, _ in play(env, sampled(env, 200, seed), seed=seed):
        assert observation in env.observation_space
        assert np.isfinite(value)
        assert value >= 0


def test_a_seed_fixes_the_episode_and_all_that_follow(scenarios):
    first, second = (BatchingEnv([scenarios["chat"], scenarios["t4"]]) for _ in range(2))
    other = BatchingEnv([scenarios["chat"], scenarios["t4"]])
    for episode in range(4):
        seed = 5 if episode == 0 else None
        ours, theirs, others = (
            play(env, sampled(env, 5), seed=value) for env, value in ((first, seed), (second, seed), (other, episode))
        )
        assert [info for *_, info in ours] == [info for *_, info in theirs]
        assert ours[0][2]["seed"] != others[0][2]["seed"]
        for (observation, reward, _), (same, equal, _) in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(observation, same)
            assert reward == equal


def test_episodes_draw_every_scenario_and_only_the_given_seeds(scenarios):
    env = BatchingEnv([scenarios["chat"], scenarios["few"]], seeds=[3, 8])
    drawn = set()
    for episode in range(24):
        _, info = env.reset(seed=0 if episode == 0 else None)
        drawn.add((info["scenario"], info["seed"]))
    assert drawn == {("chat", 3), ("chat", 8), ("few", 3), ("few", 8)}


@pytest.mark.parametrize("name", ["chat", "drifting", "t4", "closed"])
def test_windows_equal_those_of_run_engine_under_the_same_limits(scenarios, name):
    base = Limits(batch_size=64, token_budget=1024, max_queued_tokens=4096)
    env = BatchingEnv(scenarios[name], base=base)
    hold = env.table.hold(env.table.start(100.0))
    _, info = env.reset(seed=11)
    run = prepare(scenarios[name], info["seed"])
    engine = SimulatedEngine(run.engine, run.requests)
    expected = run_engine(engine, base, window_ms=run.window_ms, horizon_ms=run.horizon_ms).windows
    ended, steps = False, 0
    while not ended:
        observation, reward, terminated, truncated, info = env.step(hold)
        window = expected[steps]
        known = {key: value for key, value in window.to_dict().items() if key != "limits" and not math.isnan(value)}
        assert info["metrics"] == known
        assert info["limits"] == {"batch_size": 64, "token_budget": 1024, "max_queued_tokens": 4096}
        np.testing.assert_array_equal(observation, window_features(window))
        assert reward == window.goodput_tokens_per_s / window.peak_tokens_per_s
        ended, steps = terminated or truncated, steps + 1
    assert sum(window.arrivals for window in expected[steps:]) == 0


def test_an_episode_terminates_when_every_request_has_ended(scenarios):
    env = BatchingEnv(scenarios["closed"])
    env.reset(seed=0)
    hold = env.table.hold(env.table.start(100.0))
    ended = [env.step(hold)[2:4]]
    while not any(ended[-1]):
        ended.append(env.step(hold)[2:4])
    assert ended[-1] == (True, False)
    assert len(ended) > 1


def test_an_episode_is_truncated_at_the_horizon(scenarios):
    env = BatchingEnv(scenarios["chat"], base=Limits(batch_size=1), track="batch")
    env.reset(seed=0)
    ended, steps = (False, False), 0
    while not any(ended):
        *_, terminated, truncated, info = env.step(np.array([2]))
        ended, steps = (terminated, truncated), steps + 1
    assert ended == (False, True)
    metrics = info["metrics"]
    assert metrics["start_ms"] < 36_000 <= metrics["start_ms"] + metrics["duration_ms"]
    assert steps == 36


def test_a_shorter_decision_interval_makes_more_steps_of_the_same_time(scenarios):
    env = BatchingEnv(scenarios["chat"], decision_interval_ms=200.0)
    env.reset(seed=0)
    *_, info = env.step(np.array([2, 2, 2]))
    assert 200.0 <= info["metrics"]["duration_ms"] < 1000.0


def test_a_relative_action_moves_the_limits_in_force(scenarios):
    env = BatchingEnv(scenarios["chat"], track="limits")
    env.reset(seed=0)
    *_, info = env.step(np.array([0, 1, 2]))
    assert info["limits"] == {"batch_size": 128, "token_budget": 1722}


def test_an_absolute_action_sets_the_limits_in_force(scenarios):
    env = BatchingEnv(scenarios["chat"], fields=["batch_size", "discipline"], action_mode="absolute")
    env.reset(seed=0)
    *_, info = env.step(np.array([7, 2]))
    assert info["limits"] == {"batch_size": 8, "token_budget": 2048, "discipline": "spf"}


def test_limits_reach_the_scheduler(scenarios):
    env = BatchingEnv(scenarios["chat"], track="guarded", action_mode="absolute")
    env.reset(seed=0)
    refused = dict.fromkeys(METRICS_OF_REFUSALS, 0)
    for _ in range(6):
        *_, info = env.step(np.array([3, 8, 0, 8, 8, 2]))
        assert info["metrics"]["batch_size_mean"] <= 4
        assert info["metrics"]["tokens_per_step_mean"] <= 256
        for name in refused:
            refused[name] += info["metrics"][name]
    assert refused["refused_on_arrival"] > 0


def test_reset_options_play_a_leaderboards_very_run(scenarios):
    env = BatchingEnv([scenarios["chat"], scenarios["few"]])
    _, info = env.reset(seed=0, options={"scenario": "few", "workload_seed": 42})
    assert (info["scenario"], info["seed"]) == ("few", 42)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scenario": "quick-chatt"}, "did you mean 'quick-chat'"),
        ({"scenario": "trace-replay"}, "needs a trace file"),
        ({"scenario": []}, "no scenario"),
        ({"track": "limit"}, "unknown track"),
        ({"fields": ["max_wait_ms"]}, "unknown tunable limit"),
        ({"reward": "throughput"}, "unknown reward"),
        ({"backend_options": {"model": "x"}}, "which has none"),
        ({"backend": "toch"}, "unknown backend"),
        ({"seeds": []}, "seeds is empty"),
        ({"decision_interval_ms": 0.0}, "above 0 ms"),
        ({"render_mode": "human"}, "unknown render mode"),
    ],
)
def test_wrong_arguments_are_refused_with_a_reason(arguments, message):
    with pytest.raises(ValueError, match=message):
        BatchingEnv(**arguments)


def test_actions_outside_the_space_are_refused(scenarios):
    env = BatchingEnv(scenarios["chat"])
    with pytest.raises(RuntimeError, match="reset must be called"):
        env.step(np.array([2, 2, 2]))
    env.reset(seed=0)
    for action in (np.array([2, 2]), np.array([2, 2, 5]), np.array([-1, 2, 2]), np.array([2.0, 2.0, 2.0])):
        with pytest.raises(ValueError, match="actions must be whole numbers"):
            env.step(action)


def test_unknown_reset_options_are_refused(scenarios):
    env = BatchingEnv(scenarios["chat"])
    with pytest.raises(ValueError, match="unknown reset option"):
        env.reset(options={"sed": 1})
    with pytest.raises(ValueError, match="scenario of this environment"):
        env.reset(options={"scenario": "quick-code"})


def test_a_suites_name_stands_for_its_scenarios_without_those_that_need_a_trace():
    names = {scenario.name for scenario in BatchingEnv("standard").task.scenarios}
    assert "closed-loop-8" in names
    assert "trace-replay" not in names


def test_a_run_that_is_given_is_played_as_it_is(scenarios):
    env = BatchingEnv([scenarios["chat"], scenarios["few"]], seeds=[5])
    runs = [prepare(scenarios[name], 5) for name in ("chat", "few")]
    env.task.remember(runs)
    assert all(any(env.task.draw(np.random.default_rng(k)) is one for one in runs) for k in range(5))
    with pytest.raises(KeyError, match="quiet"):
        env.task.remember([prepare(scenarios["quiet"], 5)])
