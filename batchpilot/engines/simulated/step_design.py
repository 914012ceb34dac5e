"""Which workloads to run on an engine so that its steps identify the latency model, and the steps they take."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.limits import Limits
from batchpilot.engines.scheduler.executor import Executor
from batchpilot.latency.fitting.observations import Observations
from batchpilot.workloads.table import RequestTable

LONGEST_OUTPUT = 32
PROMPT_STEPS = 32
"""Prompt tokens that a trial has at most, in terms of the geometric mean of its own and the largest step: contexts must
grow where steps are small, too, and yet no trial may take most of the time."""

LONGEST_PROMPT_STEPS = 2
"""Tokens of a prompt at most, in terms of the largest step: what attention takes grows with their square."""

_SHARE_OF_CACHE = 0.9
_SHORTEST_PROMPT = 8
_SMALLEST_BUDGET = 16
_BUDGETS = 16
"""Largest over smallest token budget."""
_SPREAD = 8
"""Longest over shortest prompt, of trials alike and within a trial: an engine may handle requests of like contexts in
one go, and real traffic has few of those."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A small workload and the limits it runs under.

    Attributes:
        requests: what `limits.batch_size` clients send, each its next request when its last one ends.
        limits: batch size and token budget.
    """

    requests: RequestTable
    limits: Limits


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredTrial:
    """One run of a trial.

    Attributes:
        trial: its place in the design.
        repeat: how often it had been run before.
        steps: what its steps took, in their order.
    """

    trial: int
    repeat: int
    steps: Observations


def design_trials(
    largest_batch: int,
    largest_step: int,
    *,
    kv_capacity_tokens: int,
    max_model_len: int | None = None,
    trials: int = 24,
    seed: int = 0,
) -> tuple[Trial, ...]:
    """Trials whose token budgets, contexts and outputs cover their ranges evenly on a logarithmic scale.

    Batch sizes do so by their square root: every trial also ends with few requests. Within a trial prompts differ and
    outputs end one after the other, so that decode, prefill and mixed steps of many contexts come from a few requests.
    The points are a scrambled Halton sequence: the first few already cover all.

    Args:
        largest_batch: most requests in a step, >= 1.
        largest_step: most tokens in a step, >= largest_batch.
        kv_capacity_tokens: KV tokens of the engine.
        max_model_len: longest prompt plus output, None for no bound.
        trials: how many, >= 1.
        seed: of the points and lengths.

    Raises:
        ValueError: an argument is outside its bound, or the KV cache does not hold the largest batch.
    """
    if not (1 <= largest_batch <= largest_step and trials >= 1):
        raise ValueError(
            f"largest_batch {largest_batch}, largest_step {largest_step}, trials {trials}; need 1 <= largest_batch <= "
            "largest_step and trials >= 1"
        )
    bound = max_model_len or kv_capacity_tokens
    room = min(bound, int(_SHARE_OF_CACHE * kv_capacity_tokens / largest_batch))
    if room < _SHORTEST_PROMPT + 2:
        raise ValueError(
            f"a batch of {largest_batch} requests leaves {room} tokens for each (KV cache of {kv_capacity_tokens}, "
            f"longest request {bound}); lower the largest batch"
        )
    from scipy.stats import qmc

    rng = np.random.default_rng(seed)
    points = qmc.Halton(4, seed=rng).random(trials)
    return tuple(_trial(point, largest_batch, largest_step, kv_capacity_tokens, bound, rng) for point in points)


def measure_trials(
    engine_for: Callable[[RequestTable], Executor], trials: Sequence[Trial], *, repeats: int = 3, seed: int = 0
) -> Iterator[MeasuredTrial]:
    """Run every trial several times, each round in a random order of its own, after one unmeasured trial.

    Args:
        engine_for: an engine that records its steps and has not run yet, on the requests given.
        trials: the design.
        repeats: rounds, >= 1.
        seed: of the orders.

    Yields:
        A run at a time, `repeats * len(trials)` in all; without its steps if one of them failed.

    Raises:
        ValueError: fewer than one round.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; it must be >= 1")
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(trials)) for _ in range(repeats)]
    _run(engine_for, trials[orders[0][0]])
    for repeat, order in enumerate(orders):
        for k in order:
            yield MeasuredTrial(int(k), repeat, _run(engine_for, trials[k]))


def steps_of(log: NDArray[np.float64]) -> Observations:
    """The steps of an engine as observations.

    Args:
        log: rows of (start_ms, B, S, C, T_ms), as `Executor.step_log` returns them.
    """
    _, B, S, C, T = log.T
    return Observations(B, S, C, T)


def _trial(
    point: NDArray[np.float64],
    largest_batch: int,
    largest_step: int,
    kv_capacity_tokens: int,
    bound: int,
    rng: np.random.Generator,
) -> Trial:
    batch = int((1.0 + point[0] * (math.sqrt(largest_batch + 1) - 1.0)) ** 2)
    smallest = min(max(largest_step // _BUDGETS, _SMALLEST_BUDGET), largest_step)
    budget = max(batch, _between(smallest, largest_step, point[1]))
    n = batch + max(2, batch // 2)
    room = min(bound, int(_SHARE_OF_CACHE * kv_capacity_tokens / batch))
    output = _between(1, min(LONGEST_OUTPUT, room - _SHORTEST_PROMPT), point[3])
    affordable = int(PROMPT_STEPS * math.sqrt(budget * largest_step)) // n
    longest = max(min(room - output, affordable, LONGEST_PROMPT_STEPS * largest_step), _SHORTEST_PROMPT)
    prompt = _between(max(longest // _SPREAD, _SHORTEST_PROMPT), longest, point[2])
    requests = RequestTable.from_arrays(
        np.zeros(n),
        [_between(max(prompt // _SPREAD, _SHORTEST_PROMPT), prompt, level) for level in rng.random(n)],
        rng.integers((output + 1) // 2, output + 1, n),
        concurrency=batch,
    )
    return Trial(requests, Limits(batch, token_budget=budget))


def _between(low: int, high: int, level: float) -> int:
    """A whole number from `low` to `high`, evenly on a logarithmic scale for levels in [0, 1)."""
    return int(low * ((high + 1) / low) ** level)


def _run(engine_for: Callable[[RequestTable], Executor], trial: Trial) -> Observations:
    engine = engine_for(trial.requests)
    engine.set_limits(trial.limits)
    engine.run_until(math.inf)
    steps = steps_of(engine.step_log())
    return steps[:0] if engine.close_window().failures else steps
