"""Samplers: who proposes the next trial. `SAMPLERS` names them; Optuna is imported when one is made.

TPE and GP know constraints; CMA-ES and random search do not, and for them a constraint only decides which trial may be
called the best. GP and CMA-ES learn from whole trials only, so with them none is pruned.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from batchpilot.core.extras import needing
from batchpilot.core.names import lookup

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from batchpilot.tuners.bayesian.prior import Prior
    from batchpilot.tuners.bayesian.space import SearchSpace

STARTUP_TRIALS = 8
"""Random trials before a model is believed, where nothing else is said."""

GP_SAMPLES, GP_SEARCHES, GP_TOLERANCE = 256, 2, 1e-2
"""How hard the Gaussian process is searched for the next trial, a fifth of Optuna's own effort: limits lie on grids
whose neighbouring notches are a fifth apart."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """One sampler.

    Attributes:
        build: makes it from a seed and the number of random trials at the start.
        needs: packages besides Optuna.
        learns_from_pruned: whether a trial that was stopped early tells it anything.
    """

    build: Callable[[int, int], BaseSampler]
    needs: tuple[str, ...] = ()
    learns_from_pruned: bool = True


def _random(seed: int, startup_trials: int) -> BaseSampler:
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


def _tpe(seed: int, startup_trials: int) -> BaseSampler:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, n_startup_trials=startup_trials)


def _gp(seed: int, startup_trials: int) -> BaseSampler:
    # Optuna imports these in the first tell that needs them, which is to take no seconds more than the others.
    import scipy.optimize
    import scipy.stats  # noqa: F401
    import torch  # noqa: F401
    from optuna.samplers import GPSampler

    sampler = GPSampler(seed=seed, n_startup_trials=startup_trials, warn_independent_sampling=False)
    # Optuna searches its model for seconds, which an offline study has and a server has not.
    sampler._n_preliminary_samples, sampler._n_local_search, sampler._tol = GP_SAMPLES, GP_SEARCHES, GP_TOLERANCE
    return sampler


def _cmaes(seed: int, startup_trials: int) -> BaseSampler:
    from optuna.samplers import CmaEsSampler

    # It would say so after every trial; that constraints only choose the best here is said above.
    warnings.filterwarnings("ignore", message="Constraints have been set, but CmaEsSampler")
    # It has no notion of a choice without order, the discipline; that one is left to TPE.
    return CmaEsSampler(seed=seed, independent_sampler=_tpe(seed, startup_trials), warn_independent_sampling=False)


SAMPLERS: dict[str, Sampler] = {
    "tpe": Sampler(_tpe),
    "gp": Sampler(_gp, needs=("torch", "scipy"), learns_from_pruned=False),
    "cmaes": Sampler(_cmaes, needs=("cmaes",), learns_from_pruned=False),
    "random": Sampler(_random),
}
"""Tree-structured Parzen estimator; Gaussian process; covariance matrix adaptation; the yardstick."""


def make_sampler(
    name: str,
    seed: int,
    startup_trials: int = STARTUP_TRIALS,
    *,
    prior: Prior | None = None,
    space: SearchSpace | None = None,
) -> BaseSampler:
    """A sampler by name.

    With a prior, TPE proposes among its pseudo-observations, and a Gaussian process around its mean takes the place of
    Optuna's GP. CMA-ES and random search know of it only by the trials that it is asked to begin with.

    Args:
        name: a key of `SAMPLERS`.
        seed: of its draws, >= 0.
        startup_trials: random ones before its model is believed, >= 1; CMA-ES believes its own from the second.
        prior: what is believed before a trial; None for nothing.
        space: what may be set, for a prior.

    Raises:
        ValueError: no such sampler.
        MissingExtraError: something it needs is not installed.
    """
    sampler = lookup(SAMPLERS, name, "sampler")
    informed = prior is not None and name in ("tpe", "gp")
    with needing(f"sampler {name!r}", "tune", "torch"):
        for package in ("optuna", *(() if informed else sampler.needs)):
            import_module(package)
    if prior is None or space is None or not informed:
        return sampler.build(seed, startup_trials)
    from optuna.samplers import TPESampler

    from batchpilot.tuners.bayesian.informed import InformedSampler

    inner = TPESampler(seed=seed, n_startup_trials=1, multivariate=True) if name == "tpe" else None
    return InformedSampler(prior, space, inner, seed)
