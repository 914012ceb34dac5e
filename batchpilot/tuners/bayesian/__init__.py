"""Bayesian optimisation of limits with Optuna: trials of whole windows online, of whole runs in `batchpilot tune`.

Light to import: Optuna itself is imported when a tuner is made.
"""

from __future__ import annotations

from typing import Any

from batchpilot.baselines import Setting
from batchpilot.core import Tuner
from batchpilot.tuners.bayesian.samplers import SAMPLERS, make_sampler

__all__ = ["SAMPLERS", "bayesian", "make_sampler"]


def bayesian(sampler: str, setting: Setting, *, twin: bool = False, **options: Any) -> Tuner:
    """An Optuna tuner with one sampler; the configured strategy says whether it re-opens when the load changes.

    Args:
        sampler: one of `SAMPLERS`.
        setting: what the tuner is built for.
        twin: begin with what a simulation of the setting's latency expects.
        **options: further arguments of `OptunaTuner`.

    Raises:
        ValueError: Optuna, or what the sampler needs, is not installed; an option is out of bounds; or a twin is asked
            for and no latency is believed.
        TypeError: the tuner has no such option.
    """
    make_sampler(sampler, setting.seed)
    if twin and setting.latency is None:
        raise ValueError(f"optuna-{sampler} is to begin with a twin, but no latency is given; calibrate or name one")
    from batchpilot.tuners.bayesian.tuner import OptunaTuner

    return OptunaTuner(
        setting.config,
        base=setting.base,
        slo=setting.slo,
        seed=setting.seed,
        sampler=sampler,
        track=setting.track,
        twin=setting.latency if twin else None,
        **options,
    )
