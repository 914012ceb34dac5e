"""The batch-service environment against the problem it is made of."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from batchpilot.baselines.dispatch.batch_service import BatchServiceProblem, control_limit_policy
from batchpilot.baselines.dispatch.smdp import evaluate, optimal_policy
from batchpilot.envs.batch_service import DEFAULT_PROBLEM, BatchServiceEnv

PROBLEM = BatchServiceProblem(
    100.0, [6.0 + size for size in range(1, 9)], 40, [0.5 + 0.1 * size for size in range(1, 9)], energy_weight=0.3
)


def play(policy, decisions: int, seed: int = 0, **changes) -> list[tuple[float, dict]]:
    env = BatchServiceEnv(PROBLEM, decisions=decisions, **changes)
    queue, _ = env.reset(seed=seed)
    steps, truncated = [], False
    while not truncated:
        queue, reward, _, truncated, info = env.step(policy.size(queue))
        steps.append((reward, info))
    return steps


def test_it_keeps_gymnasiums_contract():
    check_env(BatchServiceEnv(PROBLEM), skip_render_check=True)


def test_gymnasium_makes_it_by_name():
    assert gymnasium.make("batchpilot/BatchService-v0", problem=PROBLEM).unwrapped.problem is PROBLEM


@pytest.mark.parametrize("policy", [control_limit_policy(PROBLEM), optimal_policy(PROBLEM)])
def test_cost_over_time_is_the_policys_mean_cost(policy):
    steps = play(policy, 40_000)
    mean = sum(info["cost"] for _, info in steps) / sum(info["sojourn_ms"] for _, info in steps)
    assert mean == pytest.approx(evaluate(PROBLEM, policy), rel=0.02)


def test_only_a_policy_better_than_the_reference_collects_more_than_nothing():
    best, greedy = optimal_policy(PROBLEM), control_limit_policy(PROBLEM)
    assert np.mean([reward for reward, _ in play(best, 40_000)]) > 0
    cost = evaluate(PROBLEM, best)
    assert np.mean([reward for reward, _ in play(greedy, 40_000, reference_cost=cost)]) < 0


def test_more_than_wait_are_all_that_wait():
    env = BatchServiceEnv(PROBLEM)
    env.reset(seed=0, options={"queue": 3})
    asked_for_all = env.step(8)
    env.reset(seed=0, options={"queue": 3})
    assert env.step(3) == asked_for_all


def test_waiting_ends_with_the_next_arrival_and_piles_up_to_overflow():
    env = BatchServiceEnv(PROBLEM)
    queue, _ = env.reset(seed=0)
    assert [queue, *(env.step(0)[0] for _ in range(41))] == list(range(42))


def test_in_overflow_the_largest_batch_is_served_whatever_the_action():
    steps = []
    for action in range(9):
        env = BatchServiceEnv(PROBLEM)
        env.reset(seed=0, options={"queue": 41})
        steps.append(env.step(action))
    assert all(step == steps[8] for step in steps)
    assert steps[0][0] < 41


@pytest.mark.parametrize("options", [{"decisions": 0}, {"reference_cost": 0.0}])
def test_arguments_out_of_bounds_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        BatchServiceEnv(PROBLEM, **options)


def test_actions_and_queues_out_of_bounds_are_refused():
    env = BatchServiceEnv(PROBLEM)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action is 9"):
        env.step(9)
    with pytest.raises(ValueError, match="queue is 99"):
        env.reset(options={"queue": 99})


def test_the_environment_is_made_by_its_id_alone():
    env = gymnasium.make("batchpilot/BatchService-v0")
    queue, _ = env.reset(seed=3)
    assert env.observation_space.contains(queue)
    env.step(env.action_space.sample())
    assert env.unwrapped.problem == DEFAULT_PROBLEM
