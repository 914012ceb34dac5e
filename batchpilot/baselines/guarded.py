"""The guarded default: nothing tuned, but the scheduler's inner loop set to the SLO. Times in ms."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from batchpilot.baselines.static import SERVER_DEFAULT
from batchpilot.core import SLO, Limits, Tuner, WindowMetrics
from batchpilot.core.slo import can_be_aimed_at, typical_target

WINDOWS = 20
"""Windows whose TPOT targets are remembered where no SLO was given."""

STEP_TARGET_SHARE = 0.95
"""Of the TPOT target: a calibrated estimate is usually off by some five per cent, and steps that just meet a target by
one that is true miss it half of the time."""


def guarded_reason(limits: Limits, share: float, why: str = "") -> str:
    """Why guarded limits are what they are, in words.

    Args:
        limits: in force.
        share: the step target as a share of the TPOT promise.
        why: of that share, if more is known.
    """
    refused = "whoever would miss the TTFT promise is refused"
    if limits.step_target_ms is None:
        return f"no TPOT promise to aim at; {refused}"
    return f"steps of at most {limits.step_target_ms:.4g} ms, {share:.0%} of the TPOT promise{why}; {refused}"


class GuardedTuner(Tuner):
    """Batch 256, budget 2048, step target = 0.95 of the TPOT target, TTFT guard = 1, shortest prompt first.

    The TPOT target is the SLO's; without an SLO it is the typical one of the last windows that know one, and until then
    the step target is off. The guard is a multiple of each request's own TTFT target and needs no number.

    Args:
        slo: the promise; None takes it from the windows.
        base: the limits that the guards are added to; None for what servers ship.
        step_target_share: the step target as a share of the TPOT target, > 0.
        discipline: who is next.
        name: what tables call it.
    """

    name = "guarded-default"

    def __init__(
        self,
        slo: SLO | None = None,
        *,
        base: Limits | None = None,
        step_target_share: float = STEP_TARGET_SHARE,
        discipline: str = "spf",
        name: str = name,
    ) -> None:
        self.name = name
        self._share = step_target_share
        self._unguarded = (base or SERVER_DEFAULT).replace(ttft_guard=1.0, discipline=discipline)
        self._slo = slo
        self.reset()

    def ask(self) -> Limits:
        """The guarded limits."""
        return self._limits

    def tell(self, metrics: WindowMetrics) -> None:
        """Take the TPOT target from the windows, if no SLO was given.

        Args:
            metrics: any window.
        """
        self._windows_heard += 1
        if self._slo is None and can_be_aimed_at(metrics.tpot_target_ms):
            self._told_ms.append(metrics.tpot_target_ms)
            self._aim(typical_target(self._told_ms))

    def reset(self, seed: int | None = None) -> None:
        """Forget the targets taken from windows.

        Args:
            seed: unused.
        """
        self._windows_heard = 0
        self._told_ms: deque[float] = deque(maxlen=WINDOWS)
        self._limits = self._unguarded
        if self._slo is not None:
            self._aim(self._slo.tpot_ms)

    def status(self) -> dict[str, Any]:
        """The limits and the count."""
        return {
            "phase": "STATIC",
            "current_batch_size": self._limits.batch_size,
            "is_stabilized": True,
            "step_target_ms": self._limits.step_target_ms,
            "reason": guarded_reason(self._limits, self._share),
            "windows_heard": self._windows_heard,
        }

    def state_dict(self) -> dict[str, Any]:
        """Limits and count as plain data."""
        return {
            "tuner": self.name,
            "limits": self._limits.to_dict(),
            "told_ms": list(self._told_ms),
            "windows_heard": self._windows_heard,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned.

        Raises:
            ValueError: the state is another tuner's, or a field is missing; nothing is changed then.
        """
        if state.get("tuner") != self.name:
            raise ValueError(f"this is the state of {state.get('tuner')!r}, not of {self.name}")
        try:
            limits, heard = Limits.from_dict(state["limits"]), int(state["windows_heard"])
            told_ms = deque((float(target) for target in state["told_ms"]), maxlen=WINDOWS)
        except (KeyError, TypeError) as error:
            raise ValueError(f"the state of {self.name} is incomplete: {error!r}") from error
        self._limits, self._windows_heard, self._told_ms = limits, heard, told_ms

    def _aim(self, tpot_ms: float) -> None:
        if can_be_aimed_at(tpot_ms):
            self._limits = self._unguarded.replace(step_target_ms=self._share * tpot_ms)
