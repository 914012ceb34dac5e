"""The guarded default with its step target where requests just keep their promise. Times in ms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from batchpilot.baselines.guarded import STEP_TARGET_SHARE, GuardedTuner, guarded_reason
from batchpilot.core import SLO, Limits, Tuner, WindowMetrics
from batchpilot.core.slo import can_be_aimed_at

AIM = 0.95
"""Where the slowest twentieth of requests should be, as a share of the TPOT target."""

LOWEST_SHARE = 0.7
"""Of the TPOT target. Smaller steps cost more than they bring: where TPOT is still too long, steps are not why."""

GAIN = 0.1
"""Of the correction, a window: slow against the seconds for which requests remember earlier steps."""

CALM = 0.07
"""Mean relative error of single steps below which nothing but their own scatter is left to predict."""

FEWEST_COMPLETIONS = 5


def share_for(error: float | None) -> float:
    """The share of a promise that leaves room for an estimate's usual error.

    A promise is kept or missed by the mean of many steps, which scatter less than single ones: for those of a calm
    engine there is room anyway. What is beyond `CALM` comes in rows, or is an estimate that is wrong.

    Args:
        error: mean relative error of its predictions of single steps; None for unknown.
    """
    return 1.0 if error is None or not error > CALM else max(1.0 + CALM - error, 0.0)


class AimingTuner(Tuner):
    """`guarded-default` whose step target follows the TPOT that requests have.

    Steps scatter, and the slowest of them come in rows; how far the step target has to stay below the promise so that
    most requests keep it depends on the server. It begins at 0.95 and never goes above, nor closer to the promise than
    the usual error of the estimate that steps are filled by, if that is told.

    Args:
        slo: the promise; None takes it from the windows.
        base: the limits that the guards are added to; None for what servers ship.
        error: mean relative error of the estimate's latest predictions, None before any.
    """

    name = "guarded-adaptive"

    def __init__(
        self,
        slo: SLO | None = None,
        *,
        base: Limits | None = None,
        error: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._guarded = GuardedTuner(slo, base=base, step_target_share=1.0)
        self._error = error
        self._share = STEP_TARGET_SHARE

    def ask(self) -> Limits:
        """The guarded limits, the step target at its present share."""
        limits = self._guarded.ask()
        target_ms = limits.step_target_ms
        return limits if target_ms is None else limits.replace(step_target_ms=self._share * target_ms)

    def tell(self, metrics: WindowMetrics) -> None:
        """Correct the share a little, if enough requests have ended; keep the estimate's error away from the promise.

        Args:
            metrics: any window.
        """
        self._guarded.tell(metrics)
        self._share = min(self._share, max(share_for(self._error()), LOWEST_SHARE))
        if not can_be_aimed_at(metrics.tpot_target_ms):
            return
        late = metrics.tpot_ms_p95 / (AIM * metrics.tpot_target_ms)
        if metrics.completions >= FEWEST_COMPLETIONS and math.isfinite(late) and late > 0:
            self._share = min(max(self._share * late**-GAIN, LOWEST_SHARE), STEP_TARGET_SHARE)

    def reset(self, seed: int | None = None) -> None:
        """Begin anew.

        Args:
            seed: unused.
        """
        self._guarded.reset(seed)
        self._share = STEP_TARGET_SHARE

    def status(self) -> dict[str, Any]:
        """The guarded default's, the step target as it is, and its share of the promise."""
        limits = self.ask()
        why = ", lowered for the slowest requests or an uncertain estimate" if self._share < STEP_TARGET_SHARE else ""
        return {
            **self._guarded.status(),
            "step_target_ms": limits.step_target_ms,
            "step_target_share": self._share,
            "reason": guarded_reason(limits, self._share, why),
        }

    def state_dict(self) -> dict[str, Any]:
        """The share and the guarded default's state as plain data."""
        return {"tuner": self.name, "share": self._share, "guarded": self._guarded.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned.

        Raises:
            ValueError: the state is another tuner's, or a field is missing or wrong; nothing is changed then.
        """
        if state.get("tuner") != self.name:
            raise ValueError(f"this is the state of {state.get('tuner')!r}, not of {self.name!r}")
        try:
            share, guarded = float(state["share"]), state["guarded"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"the state of {self.name!r} is incomplete: {error!r}") from error
        if not LOWEST_SHARE <= share <= STEP_TARGET_SHARE:
            raise ValueError(f"share is {share}; it must be {LOWEST_SHARE} to {STEP_TARGET_SHARE}")
        self._guarded.load_state_dict(guarded)
        self._share = share
