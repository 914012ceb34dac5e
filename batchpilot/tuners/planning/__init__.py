"""Tuners that know a model of their engine: one that plans on a digital twin, one that only keeps the estimate true."""

from __future__ import annotations

from typing import Any

from batchpilot.baselines import Setting
from batchpilot.core import Tuner


def model_based(setting: Setting, **options: Any) -> Tuner:
    """Plans on a twin of the engine; the compiled scheduler is imported here, where it is used.

    Args:
        setting: what the tuner is built for.
        **options: further arguments of `PlanningTuner`.
    """
    from batchpilot.tuners.planning.tuner import PlanningTuner

    return PlanningTuner(
        setting.track, setting.base, latency=setting.latency, slo=setting.slo, seed=setting.seed, **options
    )


def guarded_adaptive(setting: Setting) -> Tuner:
    """The guarded default, whose inner loop is kept true to the engine.

    Args:
        setting: what the tuner is built for.
    """
    from batchpilot.tuners.planning.adaptive_guard import AdaptiveGuardTuner

    return AdaptiveGuardTuner(setting.slo, latency=setting.latency)


__all__ = ["model_based", "guarded_adaptive"]
