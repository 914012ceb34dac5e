"""What an environment's episodes are made of; the single and the vector environment share it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from batchpilot.baselines.static import SERVER_DEFAULT
from batchpilot.configs.scenario import Scenario, scenario_names, suite, suites
from batchpilot.configs.scenario import scenario as catalogued
from batchpilot.configs.seeds import suite_seeds
from batchpilot.core.actions import ActionTable
from batchpilot.core.features import FEATURE_HIGH, FEATURE_LOW
from batchpilot.core.limit_arrays import limit_numbers
from batchpilot.core.limits import TRACKS, Limits
from batchpilot.core.names import lookup, unknown_name
from batchpilot.envs.action_forms import ACTION_FORMS
from batchpilot.envs.backends import SIMULATED, make_backend
from batchpilot.envs.episode import NORMALISED, REFERENCES, Asked, episode, references_of, track_of
from batchpilot.envs.rewards import Reward, make_reward
from batchpilot.envs.scenarios import PreparedRun

ScenarioLike = str | Scenario | Sequence[str | Scenario]

REMEMBERED_RUNS = 256
"""Prepared runs kept where seeds come from a list; a run of a few thousand requests takes some hundred kilobytes."""

REMEMBERED_SETTINGS = 1024
"""Positions of which is remembered what they mean."""

OWN_SEEDS = "suite"
"""Stands for the seeds of a suite's own block."""

EPISODE = "episode"
"""Where `info` tells of an episode."""

_OPTIONS = ("scenario", "workload_seed")

_NOT_SIMULATED = "references are known of simulated runs only; read them with backend 'simulated'"

_REMEMBERING = ("_remembered", "_settings", "_references", "_given")


class Setting(NamedTuple):
    """A position of an action table.

    Attributes:
        limits: what it means.
        numbers: these as numbers, shape (1, fields of `LimitArrays`).
        told: these by name, without those that are off; to be copied, not changed.
    """

    limits: Limits
    numbers: NDArray[np.float64]
    told: dict[str, Any]


class Task:
    """The decision problem: which runs there are, what actions mean, what is rewarded.

    Args:
        scenario: a scenario, its name, a suite's name, or several of them; each episode draws one. A suite's scenarios
            that need a trace file are left out.
        track: the limits that actions move, one of `TRACKS`.
        fields: these limits instead of a track's.
        action_mode: "relative" or "absolute".
        actions: the form they take, one of `ACTION_FORMS`.
        reward: one of `REWARDS`, or a function as `rewards.Reward` says.
        base: the limits at the start of an episode, moved to the nearest notches; None for what servers ship.
        table: what actions mean, in place of track, fields, action mode and base.
        decision_interval_ms: engine time of one step; None takes the scenario's.
        seeds: workload seeds to draw from, whose runs are prepared once; "suite" for those of a suite's own block; None
            draws a new one every episode.
        episode_key: where info tells of an episode at its end; None for nowhere.
        references: whether it tells the references each time, rather than when they are asked for.
        backend: what executes the steps, one of `envs.backends.BACKENDS`.
        backend_options: of the torch backend, see `envs.torch_backend.TorchOptions`.

    Attributes:
        backend: what executes the steps.
        scenarios: what episodes are drawn from.
        table: what actions mean.
        form: how they are written.
        reward: rewards of many windows.
        observation_space: of one environment.
        action_space: of one environment.

    Raises:
        ValueError: an unknown name, no scenario, a scenario without its trace file, or an interval or seeds that are
            no good.
    """

    def __init__(
        self,
        scenario: ScenarioLike,
        *,
        track: str = "limits",
        fields: Sequence[str] | None = None,
        action_mode: str = "relative",
        actions: str = "multi-discrete",
        reward: str | Reward = "goodput",
        base: Limits | None = None,
        table: ActionTable | None = None,
        decision_interval_ms: float | None = None,
        seeds: Sequence[int] | str | None = None,
        episode_key: str | None = EPISODE,
        references: bool = False,
        backend: str = SIMULATED,
        backend_options: Mapping[str, Any] | None = None,
    ) -> None:
        if decision_interval_ms is not None and not 0 < decision_interval_ms < np.inf:
            raise ValueError(f"decision_interval_ms is {decision_interval_ms}; it must be above 0 ms, or None")
        if seeds is not None and len(seeds) == 0:
            raise ValueError("seeds is empty; give workload seeds, or None to draw new ones")
        self.scenarios = _resolve(scenario)
        moved = lookup(TRACKS, track, "track") if fields is None else tuple(fields)
        self.table = table or ActionTable(moved, base or SERVER_DEFAULT, action_mode)
        self.form = lookup(ACTION_FORMS, actions, "form of actions")(self.table)
        self.reward: Reward = make_reward(reward)
        self.observation_space = spaces.Box(FEATURE_LOW, FEATURE_HIGH, dtype=np.float32)
        self.action_space = self.form.space
        self._decision_interval_ms = decision_interval_ms
        self._seeds = _resolve_seeds(seeds, scenario)
        self.episode_key = episode_key
        self._simulated, self._references_at_once = backend == SIMULATED, references
        if references and backend != SIMULATED:
            raise ValueError(_NOT_SIMULATED)
        self.backend = make_backend(backend, backend_options)
        self._remember()

    def __getstate__(self) -> dict[str, Any]:
        """All but what is remembered, which is prepared again when it is wanted."""
        return {name: value for name, value in self.__dict__.items() if name not in _REMEMBERING}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Go on from a copy."""
        self.__dict__.update(state)
        self._remember()

    def _remember(self) -> None:
        self._given: dict[tuple[int, int], PreparedRun] = {}
        self._remembered = lru_cache(REMEMBERED_RUNS)(self._prepared)
        self._settings = lru_cache(REMEMBERED_SETTINGS)(self._setting)
        self._references = lru_cache(REMEMBERED_RUNS)(self._found_references)

    def remember(self, runs: Iterable[PreparedRun]) -> None:
        """Take runs as they are where they are drawn, rather than prepare them.

        Args:
            runs: of the task's scenarios.

        Raises:
            KeyError: a scenario that is not the task's.
        """
        numbers = {scenario.name: number for number, scenario in enumerate(self.scenarios)}
        self._given.update({(numbers[run.scenario.name], run.seed): run for run in runs})

    def draw(self, rng: np.random.Generator, options: Mapping[str, Any] | None = None) -> PreparedRun:
        """The run of the next episode.

        Args:
            rng: where scenario and workload seed are drawn from; nothing else is.
            options: "scenario" (one of the task's, by name) and "workload_seed" take the place of the draws, so that a
                leaderboard's very run can be played.

        Raises:
            ValueError: an unknown option, or a scenario that is not the task's.
        """
        options = options or {}
        for name in options:
            lookup(dict.fromkeys(_OPTIONS), name, "reset option")
        index = int(rng.integers(len(self.scenarios)))
        if "scenario" in options:
            by_name = {scenario.name: number for number, scenario in enumerate(self.scenarios)}
            index = lookup(by_name, options["scenario"], "scenario of this environment")
        if "workload_seed" in options:
            return self._remembered(index, int(options["workload_seed"]))
        if self._seeds is None:
            return self._prepared(index, int(rng.integers(2**31)))
        seed = self._seeds[int(rng.integers(len(self._seeds)))]
        return (self._remembered if len(self._seeds) <= REMEMBERED_RUNS else self._prepared)(index, seed)

    def interval_ms(self, run: PreparedRun) -> float:
        """Engine time of one step.

        Args:
            run: the episode's run.
        """
        return run.window_ms if self._decision_interval_ms is None else self._decision_interval_ms

    def setting(self, position: tuple[int, ...], tpot_target_ms: float) -> Setting:
        """What a position of the table means.

        Args:
            position: notches, one a field.
            tpot_target_ms: the server's TPOT target.
        """
        return self._settings(position, tpot_target_ms)

    def _setting(self, position: tuple[int, ...], tpot_target_ms: float) -> Setting:
        limits = self.table.to_limits(np.array(position), tpot_target_ms)
        told = limits.in_force()
        return Setting(limits, np.array([limit_numbers(limits)], np.float64), told)

    def indices(self, actions: Any, rows: tuple[int, ...] = ()) -> NDArray[np.int64]:
        """One index a limit, refusing what the action space does not hold.

        Args:
            actions: of the task's form.
            rows: () for one environment, (n,) for many.

        Returns:
            Shape (*rows, fields).

        Raises:
            ValueError: a wrong shape, type or value.
        """
        return self.form.indices(np.asarray(actions), rows)

    def masks(self, positions: ArrayLike) -> NDArray[np.bool_]:
        """Which actions lead somewhere that no smaller move leads.

        Args:
            positions: notches, shape (..., fields).

        Raises:
            ValueError: actions of this form cannot be masked.
        """
        return self.form.masks(self.table.told_apart(positions))

    def episode(self, run: PreparedRun, rewards: float, decisions: int, good_tokens: float) -> Asked:
        """What info tells when an episode ends, see `envs.episode`.

        Args:
            run: what was played.
            rewards: their sum.
            decisions: steps taken.
            good_tokens: output tokens served within SLO.
        """
        told = episode(run, rewards, decisions, good_tokens, lambda: dict(self._references(run)))
        if self._references_at_once:
            _ = told[REFERENCES]
            if math.isnan(told[NORMALISED]):
                del told[NORMALISED]
        return told

    def _found_references(self, run: PreparedRun) -> dict[str, float]:
        if not self._simulated:
            raise ValueError(_NOT_SIMULATED)
        return references_of(run, track_of(self.table))

    def _prepared(self, index: int, seed: int) -> PreparedRun:
        return self._given.get((index, seed)) or self.backend.prepare(self.scenarios[index], seed)


def _resolve_seeds(given: Sequence[int] | str | None, scenario: ScenarioLike) -> Sequence[int] | None:
    """Seeds to draw from; a suite's own block stays the range that it is."""
    if given is None or isinstance(given, range):
        return given
    if not isinstance(given, str):
        return tuple(int(seed) for seed in given)
    if given != OWN_SEEDS or not isinstance(scenario, str) or scenario not in suites():
        raise ValueError(
            f"seeds is {given!r} with scenario {scenario!r}; give numbers, None, or {OWN_SEEDS!r} with a suite's name"
        )
    return suite_seeds(scenario)


def _resolve(given: ScenarioLike) -> tuple[Scenario, ...]:
    """Scenarios from names, suites and scenarios."""
    several = [given] if isinstance(given, str | Scenario) else list(given)
    found = [scenario for one in several for scenario in _one_or_suite(one)]
    if not found:
        raise ValueError(f"no scenario to draw from in {given!r}")
    return tuple(found)


def _one_or_suite(given: str | Scenario) -> list[Scenario]:
    if isinstance(given, str) and given in suites():
        return [scenario for scenario in suite(given) if not scenario.needs_trace]
    if isinstance(given, str) and given not in scenario_names():
        raise ValueError(unknown_name(given, [*suites(), *scenario_names()], "scenario or suite"))
    scenario = catalogued(given) if isinstance(given, str) else given
    if scenario.needs_trace:
        raise ValueError(f"scenario {scenario.name!r} needs a trace file; give scenario.with_trace(file=...)")
    return [scenario]
