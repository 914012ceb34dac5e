"""The one interface of every strategy: `ask` for limits, `tell` a window, `status` for people."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.details import WindowDetails
from batchpilot.core.limits import Limits
from batchpilot.core.metrics import WindowMetrics


class Tuner(ABC):
    """A strategy that sets a server's limits, one completed measurement window at a time.

    The contract, member by member:

    - `ask()` returns the limits to run with. It is a field read: under a microsecond, no work, no side effect.
    - `tell(metrics)` hears one window; all work happens here. The window's own `limits` say what was measured: a tuner
      never credits a measurement to another setting. Odd metrics (NaN, zero tokens, time going backwards) and details
      never raise, and nothing is learned from what cannot be. It may take long: `TunerSession` waits for a time that is
      bounded, after which the last good limits stand.
    - `reset(seed)` forgets everything learned; the seed feeds the tuner's only source of randomness.
    - `status()` is a flat dictionary for people and dashboards.
    - `state_dict()` / `load_state_dict(state)` move a running tuner to another process as plain data.

    A tuner never sleeps and never reads a clock: time comes in with the metrics.

    Two members are optional, for tuners that know a model of their engine:

    - `study(details)` hears, just before `tell`, what a server knows beyond metrics: steps, arrivals, who is in flight.
      Only a tuner that says `needs_details` is told, since collecting it costs time.
    - `estimate` is what the tuner believes a step costs; the engine's inner loop uses it for `step_target_ms` and
      `ttft_guard` where there is one.

    Attributes:
        name: what tables and reports call it.
        needs_details: whether `study` is to be called.
        quick: whether `tell` takes well under a millisecond whatever it hears, so that it needs no thread of its own to
            be waited for. A class says so of itself; classes derived from it are not believed to be.
    """

    name: str = "tuner"
    needs_details: bool = False
    quick: bool = False

    @abstractmethod
    def ask(self) -> Limits:
        """The limits to run with until the next `tell`."""

    @abstractmethod
    def tell(self, metrics: WindowMetrics) -> None:
        """Hear one completed window.

        Args:
            metrics: the window's measurements and the limits under which they were taken.
        """

    def study(self, details: WindowDetails) -> None:  # noqa: B027 (optional: most tuners live by metrics alone)
        """Hear what a server knows of a window beyond its metrics, just before they are told.

        Args:
            details: steps, arrivals, output lengths and the requests in flight.
        """

    @property
    def estimate(self) -> NDArray[np.float64] | None:
        """What the tuner believes a step costs: nine saturation parameters in their order; None for no opinion."""
        return None

    @abstractmethod
    def reset(self, seed: int | None = None) -> None:
        """Forget everything learned.

        Args:
            seed: seeds the tuner's random draws; None keeps the constructor's.
        """

    @abstractmethod
    def status(self) -> dict[str, Any]:
        """What the tuner is doing and why, as a flat dictionary of plain values."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on elsewhere, as plain data that JSON can hold."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned.

        Raises:
            ValueError: the state is another tuner's, or a field is missing; nothing is changed then.
        """
