"""Memory check: never more requests than the KV cache holds at the context they have now."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from batchpilot.core import Limits, WindowMetrics

WINDOWS = 10
MOST_REQUESTS = 2.0**31
"""More fit into no server, whatever a window with next to no context says."""


class KVMemory:
    """Holds the batch size at what fits: KV capacity over the mean context of a running request.

    More would only wait for blocks or be preempted. The server sets the cache aside at its start, so the document's
    memory rule, estimated need <= allowed memory, becomes this one (SPEC 1, safety; SPEC 4). While the context is not
    known, nothing is held.

    The mean context wavers from window to window with the few longest requests, so the shortest of the last ten
    windows counts: holding the batch at every waver costs goodput and saves nothing.
    """

    name = "kv_memory"
    replaces = False

    def __init__(self) -> None:
        self._fitting: deque[int] = deque(maxlen=WINDOWS)
        self.reset()

    def hear(self, window: WindowMetrics) -> None:
        """Learn capacity and context; a window without steps leaves them as they are.

        Args:
            window: the window.
        """
        if window.steps > 0 and window.context_tokens_mean > 0.0 and window.kv_capacity_tokens > 0:
            fits = window.kv_capacity_tokens * window.batch_size_mean / window.context_tokens_mean
            self._fitting.append(max(1, int(min(fits, MOST_REQUESTS))))

    def allow(self, proposed: Limits) -> Limits:
        """The proposed limits with a batch size that fits.

        Args:
            proposed: what the tuner asks for.
        """
        if not self._fitting or proposed.batch_size <= (most := max(self._fitting)):
            return proposed
        self.reason = f"the KV cache holds {most} requests of the present context, not {proposed.batch_size}"
        return proposed.replace(batch_size=most)

    def reset(self) -> None:
        """Forget what fits."""
        self._fitting.clear()
        self.reason = ""

    def state_dict(self) -> dict[str, Any]:
        """What fits, as plain data."""
        return {"fitting": list(self._fitting), "reason": self.reason}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned.

        Raises:
            KeyError: a field is missing.
        """
        fitting, self.reason = [int(most) for most in state["fitting"]], str(state["reason"])
        self._fitting = deque(fitting, maxlen=WINDOWS)
