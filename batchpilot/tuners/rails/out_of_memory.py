"""Out-of-memory back-off: halve, hold, recover slowly; after several failures in a row, the safe state.

A failed step counts as out of memory: windows do not tell failures apart. Its cause may be the requests' cache or the
tokens of one step, so batch size and token budget are both halved.

Source: dynamic batch tuner document, safety (SPEC 1); recovery is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchpilot.core import Limits, WindowMetrics
from batchpilot.core.grids import GRIDS, NOTCHES_PER_DOUBLING

MAX_CONSECUTIVE_FAILURES = 3
HOLD_WINDOWS = 10
"""Clean windows before the ceiling begins to rise."""

LIFT_WINDOWS = 300
"""Clean windows after which the failed limits may be tried again."""

HIGHEST_AGAIN = 0.9
"""Share of the limits that failed up to which the ceiling rises by itself."""

LEAST_TOKENS = int(GRIDS["token_budget"].values[0])
_RISE = 2.0 ** (1 / NOTCHES_PER_DOUBLING)


class OutOfMemory:
    """A ceiling over batch size and token budget, set by failures.

    Args:
        max_consecutive_failures: windows in a row with a failed step that lead to the safe state, >= 1.

    Raises:
        ValueError: `max_consecutive_failures` is below 1.
    """

    name = "out_of_memory"
    replaces = False

    def __init__(self, max_consecutive_failures: int = MAX_CONSECUTIVE_FAILURES) -> None:
        if max_consecutive_failures < 1:
            raise ValueError(f"max_consecutive_failures is {max_consecutive_failures}; it must be >= 1")
        self._most_failures = max_consecutive_failures
        self.reset()

    def hear(self, window: WindowMetrics) -> None:
        """Lower the ceiling after a failure, raise it after clean windows.

        A failure under limits above the ceiling was answered already: the window is late.

        Args:
            window: the window.
        """
        if window.failures > 0:
            if not self._is_answered(window.limits):
                self._fail(window.limits)
        elif window.steps > 0:
            self._failures = 0
            self._recover()

    def allow(self, proposed: Limits) -> Limits:
        """The proposed limits under the ceiling.

        Args:
            proposed: what the tuner asks for.
        """
        if self._requests is None:
            return proposed
        changes: dict[str, int] = {}
        most, tokens = int(self._requests), int(self._tokens)
        if proposed.batch_size > most:
            changes["batch_size"] = most
        if proposed.token_budget is not None and proposed.token_budget > tokens:
            changes["token_budget"] = tokens
        return proposed.replace(**changes) if changes else proposed

    def reset(self) -> None:
        """Forget every failure."""
        self._requests: float | None = None
        self._tokens = self._highest_requests = self._highest_tokens = 0.0
        self._failures = self._clean = 0
        self.reason = ""

    def state_dict(self) -> dict[str, Any]:
        """Ceiling and counts as plain data."""
        return {
            "ceiling": None if self._requests is None else [self._requests, self._tokens],
            "highest": [self._highest_requests, self._highest_tokens],
            "failures": self._failures,
            "clean": self._clean,
            "reason": self.reason,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned.

        Raises:
            KeyError: a field is missing.
        """
        ceiling = state["ceiling"]
        self._requests, self._tokens = (None, 0.0) if ceiling is None else (float(ceiling[0]), float(ceiling[1]))
        self._highest_requests, self._highest_tokens = (float(value) for value in state["highest"])
        self._failures, self._clean, self.reason = int(state["failures"]), int(state["clean"]), str(state["reason"])

    def _is_answered(self, limits: Limits) -> bool:
        if self._requests is None:
            return False
        return limits.batch_size > self._requests or (limits.token_budget or 0) > self._tokens

    def _fail(self, limits: Limits) -> None:
        self._failures += 1
        self._clean = 0
        tokens = float(limits.token_budget or self._tokens or GRIDS["token_budget"].values[-1])
        self._highest_requests, self._highest_tokens = HIGHEST_AGAIN * limits.batch_size, HIGHEST_AGAIN * tokens
        if self._failures >= self._most_failures:
            self._requests, self._tokens = 1.0, float(LEAST_TOKENS)
            self.reason = f"safe state: {self._failures} windows in a row had a failed step"
        else:
            self._requests = max(1.0, limits.batch_size // 2)
            self._tokens = max(float(LEAST_TOKENS), tokens // 2)
            self.reason = f"a step failed at batch size {limits.batch_size}: halved"

    def _recover(self) -> None:
        if self._requests is None:
            return
        self._clean += 1
        if self._clean >= LIFT_WINDOWS:
            self.reset()
        elif self._clean > HOLD_WINDOWS:
            self._requests = max(self._requests, min(_RISE * self._requests, self._highest_requests))
            self._tokens = max(self._tokens, min(_RISE * self._tokens, self._highest_tokens))
