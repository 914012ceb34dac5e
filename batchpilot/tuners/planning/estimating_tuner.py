"""Any tuner with its eyes open: the limits are its own, but the estimate of the inner loop follows the engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchpilot.core import Limits, Tuner, WindowMetrics
from batchpilot.core.details import WindowDetails, believable
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.tuners.planning.believing import BelievingTuner
from batchpilot.tuners.planning.estimating import Estimate
from batchpilot.tuners.rails.true_estimate import TrueEstimate


class EstimatingTuner(BelievingTuner):
    """Learns what steps cost, for the inner loop, beside a tuner that sets the limits.

    Args:
        tuner: what sets the limits.
        latency: estimated step latency to begin with, or the estimate itself; None for a first guess, which is told to
            nobody before steps
            have corrected it.
        name: what tables call it; None for the tuner's name.
        rule: stands in for limits with a step target or a guard while the estimate that they lean on is off by more
            than they are worth; None where the tuner is such a rule.
    """

    def __init__(
        self,
        tuner: Tuner,
        latency: SaturationParameters | Estimate | None = None,
        *,
        name: str | None = None,
        rule: Tuner | None = None,
    ) -> None:
        self.name = name or tuner.name
        self._tuner = tuner
        self._estimate = latency if isinstance(latency, Estimate) else Estimate(latency)
        self._rail = TrueEstimate(lambda: self._estimate.error, rule)
        self._limits = tuner.ask()

    def ask(self) -> Limits:
        """The tuner's limits, or the rule's while the estimate is not to be leaned on."""
        return self._limits

    def study(self, details: WindowDetails) -> None:
        """Learn what steps cost, and pass the details on.

        Args:
            details: of a window.
        """
        believed = believable(details)
        if believed is not None:
            self._estimate.hear(believed)
        self._tuner.study(details)

    def tell(self, metrics: WindowMetrics) -> None:
        """Tell the tuner.

        Args:
            metrics: any window.
        """
        self._tuner.tell(metrics)
        self._rail.hear(metrics)
        self._limits = self._allowed()

    def reset(self, seed: int | None = None) -> None:
        """Forget what the tuner learned, and the steps.

        Args:
            seed: the tuner's.
        """
        self._tuner.reset(seed)
        self._estimate.forget()
        self._rail.reset()
        self._limits = self._allowed()

    def status(self) -> dict[str, Any]:
        """The tuner's status, the limits in force, how far off the estimate is and whether it is believed."""
        told, doubt = self._tuner.status(), self._rail.status()
        if not self._rail.stands_in and "reason" in doubt:
            doubt["reason"] = "; ".join(filter(None, (told.get("reason"), doubt["reason"])))
        return {
            **told,
            "current_batch_size": self._limits.batch_size,
            "step_target_ms": self._limits.step_target_ms,
            **doubt,
            **self._estimate.status(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Tuner, estimate and doubt as plain data."""
        inner, estimate, rail = self._tuner.state_dict(), self._estimate.state_dict(), self._rail.state_dict()
        return {"tuner": self.name, "inner": inner, "estimate": estimate, "rail": rail}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned.

        Raises:
            ValueError: the state is another tuner's, or a field is missing.
        """
        if state.get("tuner") != self.name:
            raise ValueError(f"this is the state of {state.get('tuner')!r}, not of {self.name!r}")
        if not {"inner", "estimate", "rail"} <= set(state):
            raise ValueError(f"the state of {self.name!r} is incomplete: it lacks inner, estimate or rail")
        self._tuner.load_state_dict(state["inner"])
        self._estimate.load_state_dict(state["estimate"])
        self._rail.load_state_dict(state["rail"])
        self._limits = self._allowed()

    def _allowed(self) -> Limits:
        proposed = self._tuner.ask()
        leans = proposed.step_target_ms is not None or proposed.ttft_guard is not None
        return self._rail.allow(proposed) if leans else proposed
