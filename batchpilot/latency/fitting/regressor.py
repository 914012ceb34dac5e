"""What every model of step latency answers, whatever it is made of. Times in ms."""

from __future__ import annotations

from abc import ABC, abstractmethod

from batchpilot.latency.fitting.observations import Observations
from batchpilot.latency.fitting.residuals import Floats


class LatencyRegressor(ABC):
    """Something that predicts the latency of a step after it has seen others.

    - `fit(observations)` learns and returns itself. It raises ValueError where there is nothing to learn from.
    - `predict(observations)` answers a latency in ms for each observation's B, S and C; it never looks at T.

    Attributes:
        name: what tables call it.
    """

    name: str

    @abstractmethod
    def fit(self, observations: Observations) -> LatencyRegressor:
        """Learn from measured steps.

        Args:
            observations: usable ones, at least one.

        Returns:
            Itself.

        Raises:
            ValueError: no observations, or unusable ones.
        """

    @abstractmethod
    def predict(self, observations: Observations) -> Floats:
        """Latency of each step in ms, shape (n,).

        Args:
            observations: the steps; their latency is not looked at.

        Raises:
            ValueError: it has not been fitted.
        """


def require(observations: Observations) -> None:
    """Refuse what nothing can be learned from.

    Args:
        observations: to fit.

    Raises:
        ValueError: there are none, or some no fit can use.
    """
    if len(observations) == 0:
        raise ValueError("no observations to fit")
    if not observations.usable:
        raise ValueError("observations hold values that no fit can use; take what `cleaned` returns")
