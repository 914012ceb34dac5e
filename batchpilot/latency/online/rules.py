"""How parameters follow observations: one small interface, and the update rules by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.latency.online.history import History

Array = NDArray[np.float64]


class UpdateRule(ABC):
    """From the parameters of now and a stretch of observations to better parameters.

    The contract, member by member:

    - `propose(current, base, history, since)` returns feasible parameters and changes nothing but the rule's own
      memory. The proposal is then judged on observations that the rule has not seen.
    - `hear(accepted)` tells the rule how its proposal was judged.
    - `reset()` forgets what it carries from one proposal to the next; it is called when the engine has changed.
    - `state_dict()` / `load_state_dict(state)` move the rule to another process as plain data.

    Parameters travel in field order, shape (11,). A rule never reads a clock and draws nothing at random.

    Attributes:
        name: what tables call it.
    """

    name: str = "rule"

    @abstractmethod
    def propose(self, current: Array, base: Array, history: History, since: int) -> Array:
        """Better parameters.

        Args:
            current: parameters to start from, feasible.
            base: parameters of the offline fit, which the L2 pull draws towards.
            history: everything kept but what is held out. Observations before `since` are of another regime: their
                times no longer hold, but they still tell which steps there can be.
            since: number of the first observation to learn from; at least one follows.

        Raises:
            ArithmeticError, ValueError: there is no answer; the update counts as failed.
        """

    def hear(self, accepted: bool) -> None:  # noqa: B027 - a rule without memory has nothing to do
        """Learn whether the last proposal replaced the parameters.

        Args:
            accepted: whether it did.
        """

    def reset(self) -> None:  # noqa: B027
        """Forget what is carried from one proposal to the next."""

    def state_dict(self) -> dict[str, Any]:
        """What is carried from one proposal to the next, as plain data."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned.

        Raises:
            ValueError: the state is another rule's; nothing is changed then.
        """
