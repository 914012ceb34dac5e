"""The guarded default with its eyes open: nothing is tuned, but the estimate of the inner loop follows the engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.baselines import GuardedTuner
from batchpilot.core import SLO, Limits, Tuner, WindowMetrics
from batchpilot.core.details import WindowDetails
from batchpilot.latency.saturation import SaturationParameters
from batchpilot.tuners.planning.estimating import Estimate

STEP_TARGET_SHARE = 0.95
"""Of the TPOT target: an estimate that is true puts half of the steps beyond a target met exactly."""


class AdaptiveGuardTuner(Tuner):
    """Step target just below the TPOT target, TTFT guard = 1, shortest prompt first, on an estimate learned online.

    Args:
        slo: the promise; None takes it from the windows.
        latency: estimated step latency to begin with; None for a first guess.
    """

    name = "guarded-adaptive"
    needs_details = True

    def __init__(self, slo: SLO | None = None, *, latency: SaturationParameters | None = None) -> None:
        self._guard = GuardedTuner(slo, step_target_share=STEP_TARGET_SHARE)
        self._estimate = Estimate(latency)

    def ask(self) -> Limits:
        """The guarded limits."""
        return self._guard.ask()

    def study(self, details: WindowDetails) -> None:
        """Learn what steps cost.

        Args:
            details: of a window.
        """
        self._estimate.hear(details)

    def tell(self, metrics: WindowMetrics) -> None:
        """Take the TPOT target from the first window that knows one, if no SLO was given.

        Args:
            metrics: any window.
        """
        self._guard.tell(metrics)

    @property
    def estimate(self) -> NDArray[np.float64]:
        """What it believes a step costs, nine saturation parameters."""
        return self._estimate.array

    def reset(self, seed: int | None = None) -> None:
        """Forget the target and the steps.

        Args:
            seed: unused.
        """
        self._guard.reset(seed)
        self._estimate.forget()

    def status(self) -> dict[str, Any]:
        """The guard's status and the error of the estimate."""
        return {**self._guard.status(), "estimate_error": self._estimate.error}

    def state_dict(self) -> dict[str, Any]:
        """Guard and estimate as plain data."""
        guard, estimate = self._guard.state_dict(), self._estimate.adaptive.state_dict()
        return {"tuner": self.name, "guard": guard, "estimate": estimate}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned.

        Raises:
            ValueError: the state is another tuner's, or a field is missing.
        """
        if state.get("tuner") != self.name:
            raise ValueError(f"this is the state of {state.get('tuner')!r}, not of {self.name!r}")
        if not {"guard", "estimate"} <= set(state):
            raise ValueError(f"the state of {self.name!r} is incomplete: it lacks guard or estimate")
        self._guard.load_state_dict(state["guard"])
        self._estimate.adaptive.load_state_dict(state["estimate"])
