"""A start better than chance: the policy first learns to move towards settings that would have served more.

Every run of a pool is played under every setting of a coarse lattice of its own, each of which never moves. That tells,
for each moment, what each setting goes on to serve. A move is then worth what the setting it leads to serves over the
next windows, less what the present one does, and the policy is fitted to make worthwhile moves likely. In later rounds
the lattices lie about where the policy stays in a run by then, so that it learns most about where it will be. The
counterfactual is known for every move, so the gradient has none of the noise of exploration; what it leaves out, that a
move has a past and a future of other moves, PPO learns afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from batchpilot.agents.evaluation import Decide, play
from batchpilot.agents.training.config import TrainingConfig, WarmStart
from batchpilot.agents.training.env import Normaliser
from batchpilot.agents.training.policy import Normalisation, deterministic
from batchpilot.core.actions import ActionTable
from batchpilot.core.extras import needing
from batchpilot.core.features import FEATURE_NAMES
from batchpilot.envs.scenarios import PreparedRun

with needing("training", "rl"):
    import torch
    from stable_baselines3 import PPO


REACH = 8
"""Notches by which what later rounds try may be away from where the policy is."""


@dataclass(frozen=True, eq=False)
class Lessons:
    """Moments and what each move of each limit would be worth in them.

    Attributes:
        observations: raw, stacked, shape (n, k * F).
        values: gain in goodput share over the horizon by field and move, shape (n, fields, moves).
        low: smallest value that each feature had in all that was played, shape (F,).
        high: largest.
    """

    observations: NDArray[np.float32]
    values: NDArray[np.float32]
    low: NDArray[np.float32]
    high: NDArray[np.float32]

    def and_also(self, other: Lessons) -> Lessons:
        """Both together."""
        return Lessons(
            np.concatenate([self.observations, other.observations]),
            np.concatenate([self.values, other.values]),
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )


def warm_start(
    agent: PPO, runs: Sequence[PreparedRun], config: TrainingConfig, normalisation: Normalisation, seed: int
) -> Lessons | None:
    """Fit an agent's policy to the moves that hindsight recommends; its value network is left alone.

    Args:
        agent: untrained.
        runs: what the lessons are taken from.
        config: the training file; its `warm_start` says how long.
        normalisation: of the observations.
        seed: of the lattices, the moments and the batches.

    Returns:
        What was taught; None where the training file has no warm start.
    """
    settings = config.warm_start
    if settings is None:
        return None
    rng = np.random.default_rng(seed)
    table = config.env_kwargs.table()
    notches = [len(grid.values) for grid in table.grids]
    ends = [len(runs) * part // settings.rounds for part in range(settings.rounds + 1)]
    lessons: Lessons | None = None
    for begin, end in pairwise(ends):
        some = runs[begin:end]
        if lessons is None:
            lattices = [[lattice(count, settings.levels, rng) for count in notches] for _ in some]
        else:
            lattices = [
                [
                    lattice_about(int(notch), count, settings.levels, rng)
                    for notch, count in zip(where, notches, strict=True)
                ]
                for where in _usual_positions(agent, some, table, config, normalisation)
            ]
        new = learn_from_hindsight(some, lattices, table, config, settings, rng)
        lessons = new if lessons is None else lessons.and_also(new)
        steps = settings.steps if end == len(runs) else settings.steps // 2
        _fit(agent, lessons, steps, config, settings, normalisation, rng)
    return lessons


def _usual_positions(
    agent: PPO, runs: Sequence[PreparedRun], table: ActionTable, config: TrainingConfig, normalisation: Normalisation
) -> list[NDArray[np.float64]]:
    """Where an agent usually is in each run: the median notch of each limit."""
    played = play(
        runs,
        table,
        lambda n: deterministic(agent, normalisation, config, n),
        interval_ms=config.env_kwargs.decision_interval_ms,
    )
    return [np.median(one.positions, axis=0) for one in played]


def _fit(
    agent: PPO,
    lessons: Lessons,
    steps: int,
    config: TrainingConfig,
    settings: WarmStart,
    normalisation: Normalisation,
    rng: np.random.Generator,
) -> None:
    """Make worthwhile moves likely."""
    normalise = Normaliser(normalisation.mean, normalisation.std, config.clip_obs)
    observations = torch.as_tensor(normalise(lessons.observations))
    values = torch.as_tensor(lessons.values)
    policy = agent.policy
    network = [*policy.mlp_extractor.policy_net.parameters(), *policy.action_net.parameters()]
    optimiser = torch.optim.Adam(network, lr=settings.learning_rate)
    shape = (settings.batch_size, values.shape[1], values.shape[2])
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * (1.0 - step / steps)
        batch = torch.as_tensor(rng.integers(0, len(values), settings.batch_size))
        logits = policy.action_net(policy.mlp_extractor.forward_actor(observations[batch])).reshape(shape)
        likely = torch.softmax(logits, dim=-1)
        worth = (likely * values[batch]).sum(dim=(1, 2)).mean()
        entropy = -(likely * torch.log_softmax(logits, dim=-1)).sum(dim=(1, 2)).mean()
        optimiser.zero_grad()
        (-worth - settings.entropy * entropy).backward()
        optimiser.step()


def learn_from_hindsight(
    runs: Sequence[PreparedRun],
    lattices: Sequence[Sequence[NDArray[np.int64]]],
    table: ActionTable,
    config: TrainingConfig,
    settings: WarmStart,
    rng: np.random.Generator,
) -> Lessons:
    """Play runs under every setting of their lattices and work out what moves would have been worth.

    Args:
        runs: what to play.
        lattices: of each run, the notches of each limit, in order.
        table: relative moves.
        config: stack and decision interval.
        settings: horizon, and number of moments in all rounds.
        rng: draws the moments.
    """
    kept = max(1, settings.moments // (settings.runs * settings.levels ** len(table.grids)))
    seen, worth = [], []
    low = np.full(len(FEATURE_NAMES), np.inf, np.float32)
    high = -low
    for run, axes in zip(runs, lattices, strict=True):
        positions = [np.array(position) for position in product(*axes)]
        served, observed = _play_everywhere(run, table, positions, config)
        latest = observed[..., -len(FEATURE_NAMES) :]
        low, high = np.minimum(low, latest.min(axis=(0, 1))), np.maximum(high, latest.max(axis=(0, 1)))
        ahead = _served_ahead(served, settings.horizon).reshape(*(len(axis) for axis in axes), -1)
        for number, position in enumerate(positions):
            moments = rng.integers(0, observed.shape[1], kept)
            seen.append(observed[number, moments])
            worth.append(_values(ahead, axes, position, table, moments) - _cost_of_moving(table, settings))
    return Lessons(np.concatenate(seen), np.concatenate(worth).astype(np.float32), low, high)


def lattice(notches: int, levels: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Notches of a grid, one drawn from each of equal parts of it.

    What lies between is interpolated, so that the best of a fixed lattice would always be one of its own settings.

    Args:
        notches: of the grid.
        levels: most of them to take, >= 2.
        rng: where in its part each lies.
    """
    parts = min(levels, notches)
    return np.unique(((np.arange(parts) + rng.random(parts)) * notches / parts).astype(np.int64))


def lattice_about(notch: int, notches: int, levels: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Notches on both sides of one, as far as `REACH`, one drawn from each of equal parts.

    Args:
        notch: the middle, which is not among them unless an end of the grid is.
        notches: of the grid.
        levels: most of them to take, >= 2.
        rng: where in its part each lies.
    """
    parts = levels // 2
    away = 1 + ((np.arange(parts) + rng.random((2, parts))) * REACH / parts).astype(np.int64)
    return np.unique(np.clip(np.concatenate([notch - away[0], notch + away[1]]), 0, notches - 1))


def _play_everywhere(
    run: PreparedRun, table: ActionTable, positions: Sequence[NDArray[np.int64]], config: TrainingConfig
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Share of the offered tokens served by window, shape (positions, windows), and stacked observations, likewise."""
    seen: list[NDArray[np.float32]] = []
    there = np.array(positions)

    def stay_there(n: int) -> Decide:
        def decide(observations: NDArray[np.float32]) -> NDArray[np.int64]:
            seen.append(observations)
            return table.hold(there)

        return decide

    results = play(
        [run] * len(positions),
        table,
        stay_there,
        starts=there,
        interval_ms=config.env_kwargs.decision_interval_ms,
    )
    windows = max(len(result.good_tokens) for result in results)
    served = np.zeros((len(positions), windows))
    for row, result in zip(served, results, strict=True):
        row[: len(result.good_tokens)] = result.good_tokens / max(result.offered_tokens / windows, 1.0)
    return served, _stacked(np.array(seen[:windows]).transpose(1, 0, 2), config.frame_stack)


def _stacked(observed: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Each window with the k - 1 before it, oldest first; zeros before the first."""
    positions, windows, _ = observed.shape
    stacked = np.zeros((positions, windows, k * len(FEATURE_NAMES)), np.float32)
    for age in range(k):
        start = (k - 1 - age) * len(FEATURE_NAMES)
        stacked[:, age:, start : start + len(FEATURE_NAMES)] = observed[:, : windows - age]
    return stacked


def _served_ahead(served: NDArray[np.float64], horizon: int) -> NDArray[np.float64]:
    """Mean over the windows from each moment on, as many as the horizon or as there are."""
    total = np.concatenate([np.zeros((len(served), 1)), served.cumsum(axis=1)], axis=1)
    windows = served.shape[1]
    first = np.arange(windows)
    last = np.minimum(first + horizon, windows)
    ahead: NDArray[np.float64] = (total[:, last] - total[:, first]) / horizon
    return ahead


def _values(
    ahead: NDArray[np.float64],
    axes: Sequence[NDArray[np.int64]],
    position: NDArray[np.int64],
    table: ActionTable,
    moments: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Worth of every move of every limit in some moments, other limits staying, shape (moments, fields, moves)."""
    places = tuple(int(np.searchsorted(axis, notch)) for axis, notch in zip(axes, position, strict=True))
    values = np.zeros((len(moments), len(axes), len(table.moves)))
    for field, axis in enumerate(axes):
        along: tuple[int | slice, ...] = (*places[:field], slice(None), *places[field + 1 :])
        line = ahead[along][:, moments]
        reached = np.clip(position[field] + np.array(table.moves), axis[0], axis[-1])
        for k, moment in enumerate(line.T):
            values[k, field] = np.interp(reached, axis, moment) - moment[places[field]]
    return values


def _cost_of_moving(table: ActionTable, settings: WarmStart) -> NDArray[np.float64]:
    """What a move must be worth to be made."""
    return np.where(np.array(table.moves) == 0, 0.0, settings.least_gain)
