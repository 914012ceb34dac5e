"""How far adaptation has come: which observations it has dealt with, and what became of its updates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(slots=True)
class Progress:
    """Numbers of observations and counts of events.

    Attributes:
        looked: number of the first observation not yet looked at.
        attempted: number of the first observation after the last attempt.
        regime_start: number of the first observation that updates may learn from.
        drifted: 1 while a change of the engine has not been answered by an accepted update, else 0.
        drifts: changes found.
        accepted: updates that replaced the parameters.
        worse: updates whose candidate was no better.
        failed: updates without a usable candidate.
    """

    looked: int = 0
    attempted: int = 0
    regime_start: int = 0
    drifted: int = 0
    drifts: int = 0
    accepted: int = 0
    worse: int = 0
    failed: int = 0

    def count(self, outcome: str) -> None:
        """Count an update.

        Args:
            outcome: "accepted", "worse" or "failed".
        """
        setattr(self, outcome, getattr(self, outcome) + 1)

    def to_dict(self) -> dict[str, int]:
        """All of them by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Progress:
        """Progress from plain data.

        Args:
            data: what `to_dict` returned.

        Raises:
            KeyError, TypeError, ValueError: a number is missing or is none.
        """
        return cls(**{field.name: int(data[field.name]) for field in fields(cls)})
