"""Any tuner with its eyes open: the limits are its own, but the estimate of the inner loop follows the engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.core import Limits, Tuner, WindowMetrics
from batchpilot.core.details import WindowDetails
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.tuners.planning.estimating import Estimate


class EstimatingTuner(Tuner):
    """Learns what steps cost, for the inner loop, beside a tuner that sets the limits.

    Args:
        tuner: what sets the limits.
        latency: estimated step latency to begin with; None for a first guess, which is told to nobody before steps
            have corrected it.
        name: what tables call it; None for the tuner's name.
    """

    needs_details = True

    def __init__(self, tuner: Tuner, latency: SaturationParameters | None = None, *, name: str | None = None) -> None:
        self.name = name or tuner.name
        self._tuner = tuner
        self._estimate = Estimate(latency)

    def ask(self) -> Limits:
        """The tuner's limits."""
        return self._tuner.ask()

    def study(self, details: WindowDetails) -> None:
        """Learn what steps cost, and pass the details on.

        Args:
            details: of a window.
        """
        self._estimate.hear(details)
        self._tuner.study(details)

    def tell(self, metrics: WindowMetrics) -> None:
        """Tell the tuner.

        Args:
            metrics: any window.
        """
        self._tuner.tell(metrics)

    @property
    def estimate(self) -> NDArray[np.float64] | None:
        """What it believes a step costs, nine saturation parameters; None while that is only a guess."""
        return self._estimate.array

    def reset(self, seed: int | None = None) -> None:
        """Forget what the tuner learned, and the steps.

        Args:
            seed: the tuner's.
        """
        self._tuner.reset(seed)
        self._estimate.forget()

    def status(self) -> dict[str, Any]:
        """The tuner's status and the error of the estimate."""
        return {**self._tuner.status(), "estimate_error": self._estimate.error}

    def state_dict(self) -> dict[str, Any]:
        """Tuner and estimate as plain data."""
        inner, estimate = self._tuner.state_dict(), self._estimate.state_dict()
        return {"tuner": self.name, "inner": inner, "estimate": estimate}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned.

        Raises:
            ValueError: the state is another tuner's, or a field is missing.
        """
        if state.get("tuner") != self.name:
            raise ValueError(f"this is the state of {state.get('tuner')!r}, not of {self.name!r}")
        if not {"inner", "estimate"} <= set(state):
            raise ValueError(f"the state of {self.name!r} is incomplete: it lacks inner or estimate")
        self._tuner.load_state_dict(state["inner"])
        self._estimate.load_state_dict(state["estimate"])
