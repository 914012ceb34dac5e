"""The batch-service queue: formulas of queueing theory, brute force, and a stream of requests."""

import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchpilot.baselines.dispatch.batch_service import (
    BatchServiceProblem,
    DispatchPolicy,
    control_limit_policy,
    dispatch_policy,
)
from batchpilot.baselines.dispatch.simulation import _serve_stream, simulate_policy
from batchpilot.baselines.dispatch.smdp import _mean_cost_and_bias, evaluate, optimal_policy


def affine(rate: float, fixed: float = 10.0, each: float = 1.0, largest: int = 8, **changes) -> BatchServiceProblem:
    service = [fixed + each * size for size in range(1, largest + 1)]
    return BatchServiceProblem(rate, service, **{"max_queue": 60, **changes})


problems = st.builds(
    affine,
    rate=st.floats(5.0, 300.0),
    fixed=st.floats(0.1, 20.0),
    each=st.floats(0.1, 5.0),
    largest=st.integers(1, 5),
    max_queue=st.integers(8, 25),
    energy_weight=st.just(0.0) | st.floats(0.0, 1.0),
)


@pytest.mark.parametrize("load", [0.1, 0.6, 0.9])
def test_single_service_is_the_md1_queue(load):
    problem = BatchServiceProblem(100.0 * load, [10.0], max_queue=250)
    mean_ms = 10.0 + load * 10.0 / (2 * (1 - load))  # Pollaczek-Khinchine for deterministic service
    assert evaluate(problem, control_limit_policy(problem)) == pytest.approx(mean_ms, rel=1e-9)


def test_waiting_for_two_that_are_served_at_once_costs_half_a_gap():
    problem = BatchServiceProblem(1.0, [1e-6, 1e-6], max_queue=10)
    assert evaluate(problem, control_limit_policy(problem, 2)) == pytest.approx(500.0, rel=1e-6)


@pytest.mark.parametrize("energy_weight", [0.0, 0.5])
@pytest.mark.parametrize("rate", [20.0, 80.0, 140.0])
def test_no_policy_of_a_tiny_queue_beats_the_optimum(rate, energy_weight):
    problem = BatchServiceProblem(rate, [9.0, 11.0], 4, [0.1, 0.11], energy_weight=energy_weight)
    choices = [range(min(state, 2) + 1) for state in range(problem.states - 1)] + [[2]]
    costs = [evaluate(problem, dispatch_policy(problem, table)) for table in product(*choices)]
    assert evaluate(problem, optimal_policy(problem)) == pytest.approx(min(costs), rel=1e-12)


def relative_value_iteration(problem: BatchServiceProblem, rounds: int = 20_000) -> float:
    """The paper's own way: uniformise, then iterate; a twin of the policy iteration that shares no line with it."""
    step = 0.999 * problem.sojourn_ms.min()
    value = np.zeros(problem.states)
    for _ in range(rounds):
        q = np.full((problem.states, problem.max_batch + 1), np.inf)
        for state in range(problem.states):
            least = problem.max_batch if state > problem.max_queue else 0
            for size in range(least, min(problem.waiting(state), problem.max_batch) + 1):
                onward = problem.transitions[size, problem.waiting(state) - size] @ value
                time = problem.sojourn_ms[size]
                q[state, size] = problem.costs[state, size] / time + step / time * (onward - value[state])
        updated = value + q.min(axis=1)
        span = np.ptp(updated - value)
        mean = (updated - value)[0]
        value = updated - updated[0]
        if span < 1e-9 * mean:
            return mean
    raise AssertionError("value iteration has not converged")


def test_policy_iteration_finds_what_the_papers_value_iteration_finds():
    problem = affine(120.0, largest=3, max_queue=12, energy_j=[0.2, 0.25, 0.3], energy_weight=0.2)
    assert evaluate(problem, optimal_policy(problem)) == pytest.approx(relative_value_iteration(problem), rel=1e-7)


@settings(max_examples=40, deadline=None)
@given(problems, st.data())
def test_the_optimum_costs_no_more_than_any_policy_and_moves_are_allowed(problem, data):
    best = optimal_policy(problem)
    most = [min(state, problem.max_batch) for state in range(problem.states - 1)]
    table = [*data.draw(st.tuples(*(st.integers(0, size) for size in most))), problem.max_batch]
    cost = evaluate(problem, best)
    assert cost <= evaluate(problem, dispatch_policy(problem, table)) * (1 + 1e-9)
    assert np.array_equal(dispatch_policy(problem, best.dispatch).dispatch, best.dispatch)


@pytest.mark.parametrize("last", [0, 1])
def test_a_policy_that_hardly_ever_gets_where_it_then_stays_costs_what_it_costs_there(last):
    """One service in 1e12 brings it to nine waiting, where it waits for more: from then on it never leaves."""
    problem = affine(5.0, fixed=1.0, each=4.0, largest=2, max_queue=10)
    stuck = dispatch_policy(problem, [0, 1, 0, 2, 0, 2, 0, 2, 0, 0, last, 2])
    never_better = [0, 1, 2, 2, 2, 2, 2, 2, 0, 0, last, 2]
    assert evaluate(problem, stuck) == pytest.approx(evaluate(problem, dispatch_policy(problem, never_better)))
    assert evaluate(problem, stuck) > 100 * evaluate(problem, optimal_policy(problem))


@settings(max_examples=20, deadline=None)
@given(problems, st.integers(1, 5))
def test_the_cost_of_a_control_limit_is_that_of_the_equations_of_policy_iteration(problem, limit):
    policy = control_limit_policy(problem, min(limit, problem.max_batch))
    assert evaluate(problem, policy) == pytest.approx(_mean_cost_and_bias(problem, policy)[0], rel=1e-6)


@given(problems)
def test_every_decision_leads_somewhere(problem):
    assert problem.transitions.sum(axis=2) == pytest.approx(1.0, abs=1e-9)
    assert np.all(problem.transitions >= 0)


@pytest.mark.parametrize("rate", [20.0, 100.0, 300.0, 600.0])
def test_constant_service_times_have_a_control_limit(rate):
    """Deb and Serfozo (1973): with a service time that ignores the size, serve all that fits from some queue on."""
    problem = BatchServiceProblem(rate, [10.0] * 8, max_queue=60, energy_j=[0.5] * 8, energy_weight=1.0)
    best = optimal_policy(problem)
    assert np.array_equal(best.dispatch, control_limit_policy(problem, best.control_limit).dispatch)


def test_without_a_gain_from_batching_requests_are_served_one_by_one_at_once():
    problem = affine(80.0, fixed=0.0, each=10.0, largest=4)
    dispatch = optimal_policy(problem).dispatch
    assert np.array_equal(dispatch[:50], [0, *[1] * 49])  # further on it flees from overflow


def test_a_price_on_energy_raises_the_control_limit():
    energy = [1.0 + 0.1 * size for size in range(1, 9)]
    limits = [
        optimal_policy(affine(100.0, energy_j=energy, energy_weight=weight)).control_limit
        for weight in (0.0, 0.05, 0.2, 0.5)
    ]
    assert limits == sorted(limits)
    assert limits[-1] > limits[0]


@pytest.mark.parametrize("limit", [1, 4])
def test_a_stream_meets_the_mean_cost_that_was_computed(limit):
    problem = affine(200.0, energy_j=[0.1] * 8, energy_weight=0.3, max_queue=100)
    policy = control_limit_policy(problem, limit)
    result = simulate_policy(problem, policy, requests=200_000, seed=3)
    assert abs(result.mean_cost - evaluate(problem, policy)) < 4 * result.standard_error_ms


def test_a_stream_is_served_in_order_by_the_table():
    finish = np.empty(5)
    arrival = np.array([1.0, 2.0, 3.0, 20.0, 21.0])
    batches, end, energy = _serve_stream(
        arrival, np.array([0, 0, 2, 2]), np.array([0.0, 5.0, 8.0]), np.array([0.0, 1.0, 3.0]), finish
    )
    # Two at 2 ms; the third waits for the fourth at 20 ms; the fifth is the last and goes alone.
    assert finish.tolist() == [10.0, 10.0, 28.0, 28.0, 33.0]
    assert (batches, end, energy) == (3, 33.0, 7.0)


def test_equal_seeds_give_every_policy_the_same_arrivals():
    problem = affine(50.0)
    results = [simulate_policy(problem, control_limit_policy(problem), requests=1000, seed=4) for _ in range(2)]
    assert np.array_equal(results[0].latency_ms, results[1].latency_ms)


def test_a_policy_knows_its_control_limit():
    assert DispatchPolicy(np.array([0, 0, 2, 3])).control_limit == 2
    assert DispatchPolicy(np.array([0, 0, 2, 3])).has_control_limit
    assert not DispatchPolicy(np.array([0, 1, 0, 3])).has_control_limit
    assert DispatchPolicy(np.zeros(4, np.int64)).control_limit is None
    assert DispatchPolicy(np.array([0, 1, 2, 3])).size(99) == 3


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"service_ms": []}, "service_ms"),
        ({"service_ms": [1.0, 0.0]}, "service_ms"),
        ({"energy_j": [1.0]}, "energy_j"),
        ({"arrival_rate_per_s": 0.0}, "arrival_rate_per_s"),
        ({"max_queue": 1}, "max_queue"),
        ({"latency_weight": float("nan")}, "latency_weight"),
        ({"overflow_cost": -1.0}, "overflow_cost"),
    ],
)
def test_problems_out_of_bounds_are_refused_by_name(changes, named):
    with pytest.raises(ValueError, match=named):
        BatchServiceProblem(**{"arrival_rate_per_s": 1.0, "service_ms": [1.0, 2.0], **changes})


def test_policies_that_cannot_be_played_are_refused():
    problem = affine(10.0, largest=2, max_queue=4)
    with pytest.raises(ValueError, match=r"dispatch\[1\] is 2"):
        dispatch_policy(problem, [0, 2, 2, 2, 2, 2])
    with pytest.raises(ValueError, match="6 whole numbers"):
        dispatch_policy(problem, [0, 1])
    with pytest.raises(ValueError, match=r"dispatch\[5\] is 1; it must be 2 to 2"):
        dispatch_policy(problem, [0, 0, 0, 0, 0, 1])
    with pytest.raises(ValueError, match="6 whole numbers"):
        evaluate(problem, DispatchPolicy(np.array([0, 1, 1])))
    with pytest.raises(ValueError, match="limit"):
        control_limit_policy(problem, 0)


def test_the_documented_example_is_true():
    text = (Path(__file__).parents[3] / "docs/controllers.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(compile(code, "docs/controllers.md", "exec"), names)
    problem, best = names["problem"], names["best"]
    greedy = control_limit_policy(problem)
    assert best.control_limit > greedy.control_limit == 1
    assert evaluate(problem, best) < evaluate(problem, greedy)
