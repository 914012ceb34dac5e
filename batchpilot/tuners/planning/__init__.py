"""Tuners that know a model of their engine: one plans on a digital twin, others only keep the estimate true."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from batchpilot.baselines import Setting
from batchpilot.core import Tuner
from batchpilot.core.names import lookup
from batchpilot.tuners.policy.by_name import policy as policy_of

SHIPPED_POLICIES = Path(__file__).parents[1] / "policy" / "shipped"


def model_based(setting: Setting, **options: Any) -> Tuner:
    """Plans on a twin of the engine; the compiled scheduler is imported here, where it is used.

    Args:
        setting: what the tuner is built for.
        **options: further arguments of `PlanningTuner`.
    """
    from batchpilot.tuners.planning.tuner import PlanningTuner

    return PlanningTuner(
        setting.track,
        setting.base,
        latency=setting.latency,
        latency_stage=setting.latency_stage,
        slo=setting.slo,
        seed=setting.seed,
        not_held=setting.not_held,
        **options,
    )


def guarded_adaptive(setting: Setting, *, error_margin: bool = True) -> Tuner:
    """The guarded default, its step target where requests keep the promise, its inner loop kept true to the engine.

    Args:
        setting: what the tuner is built for.
        error_margin: whether the step target leaves room for the estimate's usual error; not where those who fill the
            steps leave it by what became of their requests.
    """
    from batchpilot.tuners.planning.aiming import AimingTuner
    from batchpilot.tuners.planning.estimating import Estimate
    from batchpilot.tuners.planning.estimating_tuner import EstimatingTuner

    estimate = Estimate(setting.latency, setting.latency_stage)
    rule = AimingTuner(setting.slo, error=lambda: estimate.error if error_margin else None)
    return EstimatingTuner(rule, estimate, name="guarded-adaptive")


def shipped_policy(track: str, setting: Setting, *, error_margin: bool = True) -> Tuner:
    """The trained generalist of a track that comes with the package, between its rails, with an estimate beside it.

    Args:
        track: "limits" or "guarded".
        setting: what the tuner is built for.
        error_margin: as of `guarded_adaptive`, for the rule that stands in while the estimate is doubted.
    """
    from batchpilot.tuners.planning.aiming import AimingTuner
    from batchpilot.tuners.planning.estimating import Estimate
    from batchpilot.tuners.planning.estimating_tuner import EstimatingTuner

    estimate = Estimate(setting.latency, setting.latency_stage)
    rule = AimingTuner(setting.slo, error=lambda: estimate.error if error_margin else None)
    policy = policy_of(setting, SHIPPED_POLICIES / f"{track}.onnx")
    return EstimatingTuner(policy, estimate, name=f"policy-{track}", rule=rule)


def safe_bandit(setting: Setting, *, around: str | None = None, error_margin: bool = True, **options: Any) -> Tuner:
    """Challenges the setpoints of a frozen strategy where a twin of the engine foresees no great loss.

    Args:
        setting: what the tuner is built for.
        around: "policy", the shipped one of the track, or "guarded-adaptive"; None for the policy where there is one.
        error_margin: of that one, as of `guarded_adaptive`.
        **options: further arguments of `SafeBandit`.

    Raises:
        ValueError: no such strategy.
    """
    from batchpilot.tuners.planning.bandit import SafeBandit

    makers: dict[str, Callable[..., Tuner]] = {
        "policy": partial(shipped_policy, setting.track),
        "guarded-adaptive": guarded_adaptive,
    }
    if not (SHIPPED_POLICIES / f"{setting.track}.onnx").exists():
        del makers["policy"]
    frozen = lookup(makers, around or next(iter(makers)), "strategy to be challenged")(
        setting, error_margin=error_margin
    )
    return SafeBandit(
        frozen,
        setting.track,
        latency=setting.latency,
        latency_stage=setting.latency_stage,
        slo=setting.slo,
        seed=setting.seed,
        **options,
    )


def beside_an_estimate(tuner: Tuner, setting: Setting, name: str | None = None) -> Tuner:
    """A tuner whose inner loop is kept true to the engine; Numba is imported here.

    Args:
        tuner: what sets the limits.
        setting: its latency is where the estimate begins.
        name: what tables call it; None for the tuner's name.
    """
    from batchpilot.tuners.planning.estimating_tuner import EstimatingTuner

    return EstimatingTuner(tuner, setting.latency, name=name)


__all__ = ["model_based", "guarded_adaptive", "shipped_policy", "safe_bandit", "beside_an_estimate"]
