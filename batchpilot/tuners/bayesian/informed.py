"""Samplers with a prior: Optuna's TPE among the prior's pseudo-observations, and a Gaussian process around its mean.

Pseudo-observations live in a copy of the study that is made for one proposal; the study itself holds measured trials
alone. Each is what the prior expects after the trials so far, and each trial that is told takes the place of one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import NopPruner
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from batchpilot.tuners.bayesian.prior import Prior
from batchpilot.tuners.bayesian.space import SearchSpace
from batchpilot.tuners.bayesian.studies import FINISHED, merit, quiet

PSEUDO_OBSERVATIONS = 120
"""Before the first trial. TPE looks closely only where it has many; among 40 it proposed much that was bad."""

REFINED = 2
"""So many of the best trials have their neighbours among the candidates: the twin was not asked for every setting."""


class InformedSampler(BaseSampler):  # type: ignore[misc, unused-ignore]
    """Proposes with a prior in mind.

    Args:
        prior: what is believed.
        space: what may be set.
        inner: who proposes among the prior's pseudo-observations; None for the candidate with the largest expected
            improvement.
        seed: of the draws, >= 0.
    """

    def __init__(self, prior: Prior, space: SearchSpace, inner: BaseSampler | None, seed: int) -> None:
        self._prior, self._space, self._inner = prior, space, inner
        self._rng = np.random.default_rng(seed)
        self._random = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters are proposed together.

        Args:
            study: unused.
            trial: unused.
        """
        return self._space.distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The next parameters.

        Args:
            study: whose trials are known.
            trial: being begun.
            search_space: what to propose.
        """
        finished = study.get_trials(deepcopy=False, states=FINISHED)
        told = [(one.params, merit(one, self._prior.scale)) for one in finished if one.state is TrialState.COMPLETE]
        if self._inner is not None:
            return self._among_pseudo_observations(finished, self._prior.posterior(told).mean, search_space)
        best = sorted(told, key=lambda one: -one[1])[:REFINED]
        prior = self._prior.extended([near for params, _ in best for near in self._space.nearby(params)])
        gains = prior.posterior(told).improvement(max((value for _, value in told), default=-math.inf))
        tried = [one.params for one in study.get_trials(deepcopy=False) if one.state is not TrialState.WAITING]
        new = [place for place, params in enumerate(prior.params) if params not in tried]
        return dict(prior.params[max(new or range(len(gains)), key=lambda place: gains[place])])

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter outside the space of the prior, at random.

        Args:
            study: unused.
            trial: being begun.
            param_name: the parameter.
            param_distribution: what it may be.
        """
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _among_pseudo_observations(
        self, finished: Sequence[FrozenTrial], mean: np.ndarray[Any, Any], space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        with quiet():
            study = optuna.create_study(direction="maximize", sampler=self._inner, pruner=NopPruner())
        kept = dict.fromkeys((name for one in finished for name in one.constraints), 0.0)
        for place in self._chosen(mean, PSEUDO_OBSERVATIONS - len(finished)):
            params = dict(self._prior.params[place])
            study.add_trial(
                create_trial(value=float(mean[place]), params=params, distributions=space, constraints=kept)
            )
        study.add_trials(list(finished))
        return dict(study.ask(space).params)

    def _chosen(self, mean: np.ndarray[Any, Any], count: int) -> list[int]:
        """Half of them the best, the others any: a sampler learns from both."""
        order = np.argsort(-mean, kind="stable")
        best, others = order[: max(count, 0) // 2], order[max(count, 0) // 2 :]
        drawn = self._rng.permutation(others)[: max(count, 0) - len(best)]
        return [int(place) for place in (*best, *drawn)]
