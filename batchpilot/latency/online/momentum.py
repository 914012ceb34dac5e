"""The update rule that takes small steps: projected gradient descent with momentum, paced by new observations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.latency.model.saturation import N_PARAMETERS
from batchpilot.latency.online.history import History
from batchpilot.latency.online.relative_loss import PULL, Coordinates, RelativeLoss, equal_weights
from batchpilot.latency.online.rules import UpdateRule

Array = NDArray[np.float64]

_WITHOUT_EXPERTS = 9
"""Parameters that states of earlier versions hold: those before the experts' term."""

_PATIENCE = 5
_RATE_DECAY = 0.95


class Momentum(UpdateRule):
    """One gradient step for every ten new observations, on the hundred that lead up to them.

    Successive steps of an engine are alike, so that ten of them alone would pull the parameters to and fro. After five
    proposals in a row without gain the rate shrinks by 5 %; a change of the engine restores it. A coordinate that meets
    the edge of the feasible set loses its velocity, and so do all when a proposal is dropped.

    Args:
        rate: learning rate, above 0; one rate suits all coordinates (see `Coordinates`).
        momentum: share of the velocity that survives a step, 0 to below 1.
        batch: most observations that a gradient is the mean of, >= 1.
        stride: new observations for which one step is taken, >= 1.
        pull: weight of the L2 pull towards the base, >= 0.

    Raises:
        ValueError: an argument is outside its bound.

    Source: throughput saturation document, online update (momentum 0.9, rate 0.1, x0.95 after 5 without gain).
    """

    name = "momentum"

    def __init__(
        self, rate: float = 0.1, momentum: float = 0.9, batch: int = 100, stride: int = 10, pull: float = PULL
    ) -> None:
        if not rate > 0.0 or not 0.0 <= momentum < 1.0 or min(batch, stride) < 1 or not pull >= 0.0:
            raise ValueError(
                f"rate is {rate}, momentum {momentum}, batch {batch}, stride {stride}, pull {pull}; "
                "expected rate > 0, 0 <= momentum < 1, batch and stride >= 1, pull >= 0"
            )
        self.rate = self._first_rate = rate
        self.momentum = momentum
        self.batch = batch
        self.stride = stride
        self.pull = pull
        self._velocity = np.zeros(N_PARAMETERS)
        self._seen = 0
        self._without_gain = 0

    def propose(self, current: Array, base: Array, history: History, since: int) -> Array:
        """The parameters after the steps for what has come since the last proposal."""
        coordinates = Coordinates.of(history.rows, current)
        lowest, highest = coordinates.bounds
        x = coordinates.from_parameters(current)
        learning = history.since(since)
        for number in range(max(self._seen, learning.first) + self.stride, history.end + 1, self.stride):
            rows = learning.until(number).newest(self.batch).rows
            self._seen = number
            _, gradient, _ = RelativeLoss(rows, equal_weights(len(rows)), coordinates, base, self.pull).at(x)
            self._velocity = self.momentum * self._velocity - self.rate * gradient
            wanted = x + self._velocity
            x = np.clip(wanted, lowest, highest)
            self._velocity[x != wanted] = 0.0
        return coordinates.to_parameters(x)

    def hear(self, accepted: bool) -> None:
        """Keep the velocity of a step that helped; slow down after several that did not."""
        self._without_gain = 0 if accepted else self._without_gain + 1
        if not accepted:
            self._velocity = np.zeros(N_PARAMETERS)
        if self._without_gain == _PATIENCE:
            self.rate *= _RATE_DECAY
            self._without_gain = 0

    def reset(self) -> None:
        """Stand still at the first rate; observations already seen stay seen."""
        self.rate = self._first_rate
        self._velocity = np.zeros(N_PARAMETERS)
        self._without_gain = 0

    def state_dict(self) -> dict[str, Any]:
        """Rate, velocity and how far the observations have been seen."""
        return {
            "rate": self.rate,
            "velocity": self._velocity.tolist(),
            "seen": self._seen,
            "without_gain": self._without_gain,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        try:
            rate, velocity = float(state["rate"]), np.asarray(state["velocity"], dtype=np.float64)
            seen, without_gain = int(state["seen"]), int(state["without_gain"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is no saved momentum rule: {error!r}") from None
        if velocity.shape == (_WITHOUT_EXPERTS,):
            velocity = np.append(velocity, np.zeros(N_PARAMETERS - _WITHOUT_EXPERTS))
        if not rate > 0.0 or velocity.shape != (N_PARAMETERS,) or not np.all(np.isfinite(velocity)):
            raise ValueError(f"the saved momentum rule has rate {rate} and velocity {velocity}")
        self.rate, self._velocity, self._seen, self._without_gain = rate, velocity, seen, without_gain
