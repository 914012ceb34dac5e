"""The update rule that fits anew each time: over a sliding window, alike or with weights that fade with age."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from batchpilot.latency.online.history import History
from batchpilot.latency.online.refitting import minimise
from batchpilot.latency.online.relative_loss import PULL, Coordinates, RelativeLoss
from batchpilot.latency.online.rules import UpdateRule

Array = NDArray[np.float64]


class Refit(UpdateRule):
    """Robust relative least squares over the newest observations, pulled towards the base.

    Args:
        window: most observations, >= 1.
        decay: weight of an observation relative to the next newer one, above 0; 1 for all alike.
        pull: weight of the L2 pull, >= 0.
        name: what tables call it.

    Raises:
        ValueError: an argument is outside its bound.
    """

    def __init__(self, window: int = 5000, decay: float = 1.0, pull: float = PULL, name: str = "refit") -> None:
        if window < 1 or not 0.0 < decay <= 1.0 or not pull >= 0.0:
            raise ValueError(
                f"window is {window}, decay {decay}, pull {pull}; expected window >= 1, 0 < decay <= 1 and pull >= 0"
            )
        self.name = name
        self.window = window
        self.decay = decay
        self.pull = pull

    def propose(self, current: Array, base: Array, history: History, since: int) -> Array:
        """The fit to the newest `window` observations, starting from the current parameters."""
        rows = history.since(since).newest(self.window).rows
        weights = self.decay ** np.arange(len(rows) - 1, -1, -1.0)
        coordinates = Coordinates.of(history.rows, current)
        loss = RelativeLoss(rows, weights / weights.sum(), coordinates, base, self.pull)
        return coordinates.to_parameters(minimise(loss, coordinates.from_parameters(current)))


def sliding_refit() -> Refit:
    """The last 5000 observations, all alike. Source: throughput saturation document, sliding window."""
    return Refit(window=5000, name="sliding")


def exponential_refit() -> Refit:
    """Weights 0.99^age, cut where they no longer count. Source: throughput saturation document."""
    return Refit(window=2000, decay=0.99, name="exponential")
