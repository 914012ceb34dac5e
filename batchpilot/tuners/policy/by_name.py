"""The tuner "policy" of the registry: a policy file between rails, its bounds those that the operator stated."""

from __future__ import annotations

from pathlib import Path

from batchpilot.baselines import Setting
from batchpilot.configs.tuner import TunerConfig
from batchpilot.core import Limits, Tuner
from batchpilot.tuners.policy.loading import load_policy
from batchpilot.tuners.rails import Bounds


def policy(setting: Setting, path: str | Path | None = None, *, rails: bool = True) -> Tuner:
    """A policy by the path of its file.

    It starts from the limits that it was trained to start from, so the setting's base has no part in it. The
    configuration's smallest and largest batch size bound it where they were stated; defaults do not.

    Args:
        setting: what the tuner is built for.
        path: what `batchpilot export` wrote.
        rails: whether safety rails stand around it.

    Raises:
        ValueError: no path, or the file cannot be loaded as a policy.
        OSError: the file cannot be read.
    """
    if path is None:
        raise ValueError("the tuner 'policy' needs a file: path='policy.onnx', which batchpilot export writes")
    return load_policy(
        path,
        rails=rails,
        bounds=_stated(setting.config) if rails else None,
        slo=setting.slo,
        max_consecutive_failures=setting.config.max_consecutive_failures,
    )


def _stated(config: TunerConfig) -> Bounds:
    given = {
        name: getattr(config, name) for name in ("min_batch_size", "max_batch_size") if name in config.model_fields_set
    }
    lowest, highest = given.get("min_batch_size"), given.get("max_batch_size")
    return Bounds(
        lowest=None if lowest is None else Limits(lowest), highest=None if highest is None else Limits(highest)
    )
