"""Memory check: never more requests than the KV cache holds at the context they have now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchpilot.core import Limits, WindowMetrics


class KVMemory:
    """Holds the batch size at what fits: KV capacity over the mean context of a running request.

    More would only wait for blocks or be preempted. The server sets the cache aside at its start, so the document's
    memory rule, estimated need <= allowed memory, becomes this one (SPEC 1, safety; SPEC 4). While the context is not
    known, nothing is held.
    """

    name = "kv_memory"

    def __init__(self) -> None:
        self._most: int | None = None
        self.reset()

    def hear(self, window: WindowMetrics) -> None:
        """Learn capacity and context; a window without steps leaves them as they are.

        Args:
            window: the window.
        """
        if window.steps > 0 and window.context_tokens_mean > 0.0 and window.kv_capacity_tokens > 0:
            self._most = max(1, int(window.kv_capacity_tokens * window.batch_size_mean / window.context_tokens_mean))

    def allow(self, proposed: Limits) -> Limits:
        """The proposed limits with a batch size that fits.

        Args:
            proposed: what the tuner asks for.
        """
        if self._most is None or proposed.batch_size <= self._most:
            return proposed
        self.reason = f"the KV cache holds {self._most} requests of the present context, not {proposed.batch_size}"
        return proposed.replace(batch_size=self._most)

    def reset(self) -> None:
        """Forget what fits."""
        self._most = None
        self.reason = ""

    def state_dict(self) -> dict[str, Any]:
        """What fits, as plain data."""
        return {"most": self._most}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned.

        Raises:
            KeyError: a field is missing.
        """
        self._most = None if state["most"] is None else int(state["most"])
