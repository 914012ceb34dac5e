"""Tuners that hold an estimate of what steps cost, which follows the engine. Times in ms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from batchpilot.core import Tuner
from batchpilot.tuners.planning.estimating import Estimate


class BelievingTuner(Tuner):
    """A tuner with an estimate, which servers and inner loops may look at and whose roll-out an operator may move."""

    needs_details = True
    _estimate: Estimate

    @property
    def estimate(self) -> NDArray[np.float64] | None:
        """What it believes a step costs, nine saturation parameters; None while that is only a guess."""
        return self._estimate.array

    def move_latency_to(self, stage: str, share: float | None = None) -> None:
        """Move the roll-out of what is learned of step latency, see `Estimate.move_to`.

        Args:
            stage: offline, shadow, partial or full.
            share: of the windows, for partial.

        Raises:
            ValueError: no such stage, or the share is outside 0 to 1.
        """
        self._estimate.move_to(stage, share)
