"""Tuners by name: the strategies of the probe tuner beside every baseline."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from batchpilot.baselines import BASELINES, Setting, StaticTuner
from batchpilot.configs.tuner import SPELLINGS, TunerConfig
from batchpilot.core import SLO, Limits, Tuner
from batchpilot.core.names import lookup
from batchpilot.tuners.bayesian import bayesian
from batchpilot.tuners.planning import guarded_adaptive, model_based, safe_bandit, shipped_policy
from batchpilot.tuners.policy.by_name import policy
from batchpilot.tuners.probe.tuner import ProbeTuner

if TYPE_CHECKING:
    from batchpilot.latency.model.saturation import SaturationParameters


def probe(strategy: str, setting: Setting, **options: Any) -> Tuner:
    """A probe tuner of one strategy; SLO and seed have no part in it.

    Args:
        strategy: dynamic or hybrid.
        setting: what the tuner is built for.
        **options: further arguments of `ProbeTuner`.
    """
    options = {"memory": setting.memory} | options
    return ProbeTuner(setting.config.updated({"strategy": strategy}), base=setting.base, **options)


STRATEGIES = ("dynamic", "hybrid")
"""The probe tuner's, which know by themselves when they are disabled."""

TUNERS: dict[str, Callable[..., Tuner]] = {
    "dynamic": partial(probe, "dynamic"),
    "hybrid": partial(probe, "hybrid"),
    "model-based": model_based,
    "guarded-adaptive": guarded_adaptive,
    "policy-limits": partial(shipped_policy, "limits"),
    "policy-guarded": partial(shipped_policy, "guarded"),
    "safe-bandit": safe_bandit,
    "optuna-tpe": partial(bayesian, "tpe"),
    "optuna-gp": partial(bayesian, "gp"),
    "optuna-cmaes": partial(bayesian, "cmaes"),
    "policy": policy,
    **BASELINES,
}
"""What builds each tuner from a `Setting` and its own options."""

DEFAULT_TUNER = "guarded-adaptive"
"""What sets a server's limits where nobody says: it needs no training, and no calibration to end up right."""


def tuner_name(typed: str) -> str:
    """The name that a typed one stands for: spellings of the source documents (`hybird`) are taken.

    Args:
        typed: as a person wrote it.
    """
    return SPELLINGS.get(typed, typed) if isinstance(typed, str) else typed


def make_tuner(
    name: str,
    config: TunerConfig | None = None,
    *,
    base: Limits | None = None,
    slo: SLO | None = None,
    seed: int = 0,
    track: str = "limits",
    latency: SaturationParameters | None = None,
    **options: Any,
) -> Tuner:
    """A tuner by name.

    Args:
        name: a key of `TUNERS`.
        config: the `dynamic_batch_tuner` section; its strategy gives way to the name. None for the defaults.
        base: the limits whose other fields the tuner keeps; None for none.
        slo: the promise, for tuners that steer by latency; None takes it from the windows.
        seed: seeds the tuner's random draws, if it makes any.
        track: the fields that a tuner which searches may move, one of `TRACKS`.
        latency: what is believed of the engine's step latency; None for nothing.
        **options: further arguments of that tuner.

    Raises:
        ValueError: no such tuner (the message names the closest known ones), or an option is out of bounds.
        TypeError: the tuner has no such option.
    """
    return build_tuner(name, Setting(config or TunerConfig(), base, slo, seed, track, latency), **options)


def build_tuner(name: str, setting: Setting, **options: Any) -> Tuner:
    """A tuner by name, for a setting. Where that disables the tuner, one that holds its size, whatever the name.

    Args:
        name: a key of `TUNERS`.
        setting: what it is built for.
        **options: further arguments of that tuner.

    Raises:
        ValueError: as `make_tuner`.
        TypeError: the tuner has no such option.
    """
    name = tuner_name(name)
    make = lookup(TUNERS, name, "tuner")
    config = setting.config
    if config.enabled or name in STRATEGIES or name.startswith("static"):
        return make(setting, **options)
    return StaticTuner(setting.limits(config.fixed_batch_size or config.initial_batch_size), "disabled")
