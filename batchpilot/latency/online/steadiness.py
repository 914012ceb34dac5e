"""How still the parameters stand while the engine does: their spread over the latest updates of one regime."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from batchpilot.latency.fitting.residuals import NAMES
from batchpilot.latency.model.saturation import SaturationParameters

KEPT = 20
"""Updates that are looked at."""


class Steadiness:
    """The latest accepted parameters of this regime.

    Single parameters may move though no prediction does, since only ratios and sums are well known; so both are told.

    Source: throughput saturation document, monitor (parameter stability).
    """

    def __init__(self) -> None:
        self._accepted: deque[NDArray[np.float64]] = deque(maxlen=KEPT)

    def hear(self, parameters: SaturationParameters) -> None:
        """Remember an accepted update.

        Args:
            parameters: what it found.
        """
        self._accepted.append(parameters.as_array())

    def clear(self) -> None:
        """A new regime has begun."""
        self._accepted.clear()

    def parameters(self) -> dict[str, float]:
        """Standard deviation over mean of each parameter that is not 0, by name; empty before two updates."""
        if len(self._accepted) < 2:
            return {}
        rows = np.array(self._accepted)
        means, spreads = rows.mean(axis=0), rows.std(axis=0)
        return {name: float(spreads[k] / means[k]) for k, name in enumerate(NAMES) if means[k] > 0}

    def prediction(self, steps: NDArray[np.float64]) -> float | None:
        """Mean over steps of their predictions' standard deviation over mean; None before two updates.

        Args:
            steps: columns B, S and C, shape (n, >= 3), n >= 1.
        """
        if len(self._accepted) < 2 or not len(steps):
            return None
        times = np.array([SaturationParameters(*row).predict(*steps[:, :3].T) for row in self._accepted])
        return float(np.mean(times.std(axis=0) / times.mean(axis=0)))

    def state_dict(self) -> list[list[float]]:
        """The parameters as plain data."""
        return [row.tolist() for row in self._accepted]

    def load_state_dict(self, state: Sequence[Sequence[float]]) -> None:
        """Go on from saved parameters.

        Args:
            state: what `state_dict` returned.

        Raises:
            TypeError, ValueError: it is none.
        """
        self._accepted = deque((np.array(row, dtype=np.float64) for row in state), maxlen=KEPT)
