"""When an update is due, in observations: no clock is read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Triggers:
    """Enough observations are the precondition; drift, error and interval are the triggers, any of which suffices.

    Attributes:
        look_every: new observations between two looks (drift test, triggers), >= 1.
        min_observations: of the present regime, before any update, >= 2.
        interval: observations after which an update is due in any case, >= 1.
        error_threshold: mean relative error above which an update is due at the next look, > 0.
        error_window: newest observations over which that mean is taken, >= 1.
        held_out: most observations kept from learning to judge the candidate by, the newest; at least a quarter of
            what there is when there is little.

    Raises:
        ValueError: a value is outside its bound; the message names it.

    Source: throughput saturation document, triggers; its `any` over all of them is not followed (SPEC 3, note).
    """

    look_every: int = 25
    min_observations: int = 30
    interval: int = 100
    error_threshold: float = 0.10
    error_window: int = 50
    held_out: int = 50

    def __post_init__(self) -> None:
        lowest = {"look_every": 1, "min_observations": 2, "interval": 1, "error_window": 1, "held_out": 1}
        for name, least in lowest.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be >= {least}")
        if not self.error_threshold > 0:
            raise ValueError(f"error_threshold is {self.error_threshold}; it must be above 0")

    def reason(self, *, available: int, since_update: int, error: float, drifted: bool) -> str | None:
        """Why an update is due now: "drift", "error" or "interval"; None when it is not.

        Args:
            available: observations of the present regime.
            since_update: observations since the last attempt.
            error: recent mean relative error; NaN when unknown.
            drifted: whether a change of the engine has not been answered yet.
        """
        if available < self.min_observations:
            return None
        if drifted:
            return "drift"
        if error > self.error_threshold:
            return "error"
        return "interval" if since_update >= self.interval else None

    def held_out_of(self, available: int) -> int:
        """How many of the newest observations judge the candidate.

        Args:
            available: observations of the present regime, >= 2.
        """
        return min(self.held_out, max(1, available // 4))
