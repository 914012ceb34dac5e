"""What an Optuna tuner is told once, checked and as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from batchpilot.core.limits import TRACKS
from batchpilot.core.names import lookup
from batchpilot.tuners.bayesian.measuring import OBJECTIVES

LEAST_ATTAINMENT = {"attained": 0.0, "goodput": 0.0, "score": 0.9}
"""Goodput and its estimate hold the promises in themselves; the score does not look at them."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How an Optuna tuner explores.

    Attributes:
        sampler: one of `SAMPLERS`.
        track: the limits that trials move, one of `TRACKS`.
        trials: how many are told before the best is locked, >= 1.
        windows_per_trial: whole windows of each, >= 2, the first left out of the value; up to as many more are left
            out, and added, while the queue still holds what an earlier trial piled up.
        objective: one of `OBJECTIVES`.
        min_slo_attainment: a trial below it is not feasible, 0-1; None for that of `LEAST_ATTAINMENT`.

    Raises:
        ValueError: a value is outside its bound; the message names it.
    """

    sampler: str = "tpe"
    track: str = "limits"
    trials: int = 10
    windows_per_trial: int = 10
    objective: str = "attained"
    min_slo_attainment: float | None = None

    def __post_init__(self) -> None:
        lookup(TRACKS, self.track, "track")
        lookup(dict.fromkeys(OBJECTIVES), self.objective, "objective")
        for name, lowest in (("trials", 1), ("windows_per_trial", 2)):
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be >= {lowest}")
        if self.min_slo_attainment is None:
            object.__setattr__(self, "min_slo_attainment", LEAST_ATTAINMENT[self.objective])
        elif not (math.isfinite(self.min_slo_attainment) and 0 <= self.min_slo_attainment <= 1):
            raise ValueError(f"min_slo_attainment is {self.min_slo_attainment}; it must lie between 0 and 1")

    @property
    def startup_trials(self) -> int:
        """Random trials before the sampler's model is believed: a third of all."""
        return max(2, self.trials // 3)

    @property
    def least_attainment(self) -> float:
        """The share of requests within SLO that a feasible trial has."""
        return self.min_slo_attainment or 0.0

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Settings:
        """Settings from plain data.

        Args:
            data: what `to_dict` returned.

        Raises:
            TypeError: a field is unknown.
            ValueError: a value is outside its bound.
        """
        return cls(**data)
