"""One exploration: a study with at most one running trial of ours, asked and told in step with the windows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.pruners import BasePruner, NopPruner
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from batchpilot.core.limits import Limits
from batchpilot.tuners.bayesian.prior import Prior
from batchpilot.tuners.bayesian.samplers import SAMPLERS, make_sampler
from batchpilot.tuners.bayesian.space import SearchSpace
from batchpilot.tuners.bayesian.studies import (
    FINISHED,
    MAXIMISED,
    best_trial,
    claim,
    conclude,
    merit,
    open_study,
    violation,
)

LIMITS = "limits"
"""The trial attribute that says in plain words what its notches stand for."""


class Exploration:
    """Proposes limits and remembers what they were worth.

    Each trial is proposed by a sampler seeded anew from `seed` and the number of the trial, so that an exploration that
    was moved or resumed goes on as it would have. CMA-ES alone keeps more than that: where trials were moved as plain
    data, it starts a new population.

    Args:
        space: what may be set.
        sampler: one of `SAMPLERS`.
        name: the study's.
        storage: where it lives.
        seed: numbers >= 0 that seed its draws.
        startup_trials: random trials before the sampler's model is believed.
        pruner: stops hopeless trials, where the sampler learns from them; None for none.
        prior: what is believed of settings; None for nothing.
        directions: "maximize" or "minimize", one an objective; with several no trial is pruned, and none is the best.

    Attributes:
        params: parameters of the running trial; None between trials.
    """

    def __init__(
        self,
        space: SearchSpace,
        sampler: str,
        *,
        name: str,
        storage: BaseStorage,
        seed: tuple[int, ...],
        startup_trials: int,
        pruner: BasePruner | None,
        prior: Prior | None = None,
        directions: Sequence[str] = MAXIMISED,
    ) -> None:
        self._prior = prior
        self._space, self._sampler, self._seed, self._startup_trials = space, sampler, seed, startup_trials
        self._study = open_study(
            name, storage, pruner if pruner and SAMPLERS[sampler].learns_from_pruned else NopPruner(), directions
        )
        self._trial: Trial | None = None

    @property
    def study(self) -> Study:
        """The Optuna study, to look at."""
        return self._study

    @property
    def params(self) -> dict[str, Any] | None:
        """Parameters of the running trial; None between trials."""
        return None if self._trial is None else dict(self._trial.params)

    @property
    def reported(self) -> list[list[float]]:
        """Step and value of what the running trial has reported so far; empty between trials."""
        if self._trial is None:
            return []
        known = self._study.get_trials(deepcopy=False)[self._trial.number].intermediate_values
        return [[step, value] for step, value in known.items()]

    def resume(self, params: Mapping[str, Any], reported: Iterable[Sequence[float]], tpot_target_ms: float) -> None:
        """Go on with a trial that ran elsewhere, also with one whose parameters were tried before.

        Args:
            params: its parameters.
            reported: step and value of what it has reported.
            tpot_target_ms: what `step_target_ms` is a multiple of.
        """
        self._study.enqueue_trial(dict(params))
        self.ask(tpot_target_ms)
        for step, value in reported:
            self._running().report(value, int(step))

    @property
    def told(self) -> int:
        """Trials that are complete or pruned, those of other processes included."""
        return len(self._finished())

    def suggest(self, params: Mapping[str, Any]) -> None:
        """Try these parameters next, unless they were tried.

        Args:
            params: a value for each of the space's parameters.
        """
        self._study.enqueue_trial(dict(params), skip_if_exists=True)

    @property
    def prior(self) -> Prior | None:
        """What is believed of settings; None for nothing."""
        return self._prior

    def believe(self, prior: Prior) -> None:
        """Go on with a prior, and try its best guesses next.

        Args:
            prior: what is believed.
        """
        self._prior = prior
        for params in prior.guesses():
            self.suggest(params)

    def ask(self, tpot_target_ms: float) -> Limits:
        """Begin a trial.

        Args:
            tpot_target_ms: what `step_target_ms` is a multiple of.

        Returns:
            The limits to try.
        """
        number = len(self._study.get_trials(deepcopy=False))
        seed = int(np.random.SeedSequence([*self._seed, number]).generate_state(1)[0])
        self._study.sampler = make_sampler(
            self._sampler, seed, self._startup_trials, prior=self._prior, space=self._space
        )
        self._trial = self._study.ask(self._space.distributions)
        claim(self._trial)
        limits = self._space.limits(self._trial.params, tpot_target_ms)
        self._trial.set_user_attr(LIMITS, limits.to_dict())
        return limits

    def is_hopeless(self, value: float, step: int) -> bool:
        """Hear how the running trial goes.

        Args:
            value: the last window's.
            step: how many windows were measured.

        Returns:
            Whether to end it now.
        """
        trial = self._running()
        trial.report(value, step)
        return bool(trial.should_prune())

    def tell(self, value: float | Sequence[float] | None, constraints: Mapping[str, float]) -> None:
        """End the running trial.

        Args:
            value: what it was worth, in each objective where there are several; None when it was hopeless.
            constraints: by name; above 0 is violated.
        """
        conclude(self._study, self._running(), value, constraints)
        self._trial = None

    def abandon(self) -> None:
        """End the running trial, if there is one, as worth nothing to know."""
        if self._trial is not None:
            self._study.tell(self._trial, state=TrialState.FAIL)
            self._trial = None

    def trials(self) -> list[FrozenTrial]:
        """Every trial, finished or not, those of other processes included."""
        return list(self._study.get_trials(deepcopy=False))

    def best(self) -> FrozenTrial | None:
        """The best complete trial; None without one."""
        return best_trial(self._finished())

    def believed_best(self) -> FrozenTrial | None:
        """The complete trial whose setting is believed to be the best; without a prior the best complete trial.

        Of many noisy values the largest is luck. A prior knows which of them it can be.
        """
        complete = [trial for trial in self._finished() if trial.state is TrialState.COMPLETE]
        if self._prior is None or not complete:
            return best_trial(complete)
        told = [(trial.params, merit(trial, self._prior.scale)) for trial in complete]
        mean = self._prior.posterior(told).mean
        places = self._prior.nearest([trial.params for trial in complete])
        believed = dict(zip((trial.number for trial in complete), mean[places], strict=True))
        return max(complete, key=lambda trial: (-violation(trial), believed[trial.number]))

    def best_value(self) -> float | None:
        """The value of the best complete trial; None without one."""
        best = self.best()
        return None if best is None else best.value

    def limits_of(self, trial: FrozenTrial, tpot_target_ms: float) -> Limits:
        """The limits of a trial under the TPOT target of today.

        Args:
            trial: one of this study's.
            tpot_target_ms: what `step_target_ms` is a multiple of.
        """
        return self._space.limits(trial.params, tpot_target_ms)

    def to_list(self) -> list[dict[str, Any]]:
        """The finished trials as plain data."""
        return [
            {
                "state": trial.state.name,
                "params": dict(trial.params),
                "value": trial.value,
                "reported": [[step, value] for step, value in trial.intermediate_values.items()],
                "constraints": dict(trial.constraints),
                "limits": trial.user_attrs.get(LIMITS),
            }
            for trial in self._finished()
        ]

    def extend(self, trials: list[dict[str, Any]]) -> None:
        """Add finished trials from plain data.

        Args:
            trials: what `to_list` returned.

        Raises:
            KeyError: a field is missing.
            ValueError: a value does not fit the search space.
        """
        for data in trials:
            self._study.add_trial(
                create_trial(
                    state=TrialState[data["state"]],
                    value=data["value"],
                    params=data["params"],
                    distributions=self._space.distributions,
                    intermediate_values={int(step): value for step, value in data["reported"]},
                    constraints=data["constraints"],
                    user_attrs={LIMITS: data["limits"]},
                )
            )

    def _finished(self) -> list[FrozenTrial]:
        return list(self._study.get_trials(deepcopy=False, states=FINISHED))

    def _running(self) -> Trial:
        if self._trial is None:
            raise RuntimeError("no trial is running; ask for one first")
        return self._trial
