"""True estimate: where steps take other times than believed, limits that lean on the belief give way to a rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from batchpilot.core import Limits, Tuner, WindowMetrics

DOUBTED_FROM, TRUSTED_BELOW = 0.25, 0.2
"""Mean relative error of the latest predictions. Where steps scatter by a quarter a true estimate is off by a fifth in
the mean of single steps, and plans on it lose nothing; beyond that a plan is worth less than the rule."""


class TrueEstimate:
    """Puts a rule in place of limits that lean on an estimate, while that is off by more than they are worth.

    Args:
        error: mean relative error of the estimate's latest predictions, None before any.
        rule: what stands in; it hears every window. None where nothing does, and the doubt is only told.
    """

    name = "estimate"
    replaces = True

    def __init__(self, error: Callable[[], float | None], rule: Tuner | None) -> None:
        self._error, self._rule = error, rule
        self.is_doubted = False
        self.reason = ""

    @property
    def stands_in(self) -> bool:
        """Whether a rule takes over where the estimate is doubted."""
        return self._rule is not None

    def hear(self, window: WindowMetrics) -> None:
        """Judge the estimate, and let the rule hear the window.

        Args:
            window: the window.
        """
        if self._rule is not None:
            self._rule.tell(window)
        error = self._error()
        if error is not None:
            self.is_doubted = error >= (TRUSTED_BELOW if self.is_doubted else DOUBTED_FROM)
            who = "the guarded rule decides: " if self.stands_in else ""
            self.reason = f"{who}predicted step times are off by {error:.0%} (trusted below {TRUSTED_BELOW:.0%})"

    def allow(self, proposed: Limits) -> Limits:
        """The proposed limits, or the rule's while the estimate is doubted.

        Args:
            proposed: what leans on the estimate.
        """
        if self._rule is None or not self.is_doubted or (limits := self._rule.ask()) == proposed:
            return proposed
        return limits

    def reset(self) -> None:
        """Forget every window."""
        if self._rule is not None:
            self._rule.reset()
        self.is_doubted = False
        self.reason = ""

    def status(self) -> dict[str, Any]:
        """Whether the estimate is believed and how far off it is; the reason too, where it is not believed."""
        told = {"estimate_error": self._error(), "estimate_trusted": not self.is_doubted}
        return told | {"reason": self.reason} if self.is_doubted else told

    def state_dict(self) -> dict[str, Any]:
        """The doubt and the rule's state as plain data."""
        rule = None if self._rule is None else self._rule.state_dict()
        return {"is_doubted": self.is_doubted, "reason": self.reason, "rule": rule}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned.

        Raises:
            KeyError: a field is missing.
            ValueError: the rule's state is another rule's.
        """
        is_doubted, reason = bool(state["is_doubted"]), str(state["reason"])
        if self._rule is not None:
            self._rule.load_state_dict(state["rule"])
        self.is_doubted, self.reason = is_doubted, reason
