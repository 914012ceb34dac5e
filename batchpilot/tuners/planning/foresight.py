"""What limits would be worth from now on: a server's traffic and steps as heard, and a twin that tries limits out.

Times in ms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.core import SLO, WindowMetrics
from batchpilot.core.details import WindowDetails, believable
from batchpilot.core.limit_arrays import LimitArrays
from batchpilot.core.slo import can_be_aimed_at, within_promise
from batchpilot.engines.simulated.twin import Horizon, Twin
from batchpilot.tuners.planning.aiming import LOWEST_SHARE, share_for
from batchpilot.tuners.planning.drafting import Drafting
from batchpilot.tuners.planning.encoding import Encoding
from batchpilot.tuners.planning.estimating import Estimate
from batchpilot.tuners.planning.traffic import Traffic
from batchpilot.tuners.planning.worth import believed_kv_tokens, work_in_progress

COUNTED_TTFT_TARGETS, COUNTED_RESIDENCES, SEEN_THROUGH_TTFT_TARGETS = 2.0, 1.0, 2.0
SHORTEST_SEEN_THROUGH_MS = 3000.0
"""Requests are counted that arrive within two TTFT targets and the time a request stays, since what is let in now takes
the place of what comes while it decodes; they are seen through for two more targets, at least three seconds."""

LONGEST_COUNTED_MS, LONGEST_SEEN_THROUGH_MS = 60_000.0, 30_000.0
"""However long the promises are; what comes so late is not known."""

MOST_STEPS = 5000
"""Of a rollout, the shortest that there are; an engine of short steps is looked at less far ahead."""

MARGIN = 0.97
"""Share of each target that is aimed at, at most: the twin knows no noise, and what it just meets is missed half the
time. Where predictions are off by more, it leaves as much room as they are off."""


class Foresight:
    """A server's present moment, and futures of it.

    Args:
        estimate: what steps cost.
        slo: the promise; None takes it from the requests.

    Attributes:
        traffic: what came.
        encoding: what its images cost.
        drafting: what the server drafts by itself.
        estimate: as given.
        twin: what tries limits out.
        tpot_ms: the TPOT that requests are promised, the last one where none is now; infinity before any.
    """

    def __init__(self, estimate: Estimate, slo: SLO | None) -> None:
        self.estimate, self._slo = estimate, slo
        self.twin = Twin()
        self.traffic, self.encoding, self.drafting = Traffic(), Encoding(), Drafting()
        self.tpot_ms = math.inf
        self._details: WindowDetails | None = None

    @property
    def blind(self) -> str:
        """Why nothing can be foreseen yet; empty where it can."""
        if self._details is None:
            return "waiting for the details of a window: this server tells only metrics"
        return "" if self.traffic.known else "waiting for the first requests"

    def hear(self, details: WindowDetails) -> None:
        """Hear who is in flight, what came, and what steps cost.

        Args:
            details: of a window.
        """
        self._details = believable(details)
        if self._details is not None:
            self.traffic.hear(self._details)
            self.estimate.hear(self._details)

    def look(self, metrics: WindowMetrics, futures: int, rng: np.random.Generator) -> float:
        """Stand at the end of the window whose details were heard last.

        Args:
            metrics: of that window.
            futures: guesses of what comes.
            rng: guesses them.

        Returns:
            How far the futures reach.
        """
        details = self._details
        assert details is not None
        self.encoding.hear(metrics)
        self.drafting.hear(metrics)
        prompt = self.traffic.mean_prompt
        image_share, image_ms = self.encoding.share(prompt), self.encoding.request_ms(prompt)
        ttft_ms = self._promises()
        kv_tokens = believed_kv_tokens(details, metrics)
        horizon = self._horizon(details, metrics.step_ms_mean, kv_tokens, ttft_ms, image_share * image_ms)
        margin = max(min(share_for(self.estimate.error), MARGIN), LOWEST_SHARE)
        guesses = self.traffic.futures(details, futures, horizon.length_ms, margin, rng, image_share)
        drafts = self.drafting.speculation
        self.twin.look(guesses, self.estimate.parameters, kv_tokens, horizon, drafts, image_ms)
        return horizon.length_ms

    def values(self, candidates: LimitArrays, first: int = 0, end: int | None = None) -> NDArray[np.float64]:
        """What candidates are worth in the futures looked at, see `Twin.values`.

        Args:
            candidates: limits, arrays of shape (c,).
            first: the first future to try.
            end: the one after the last, None for all.
        """
        return self.twin.values(candidates, first, end)

    def forget(self) -> None:
        """Forget traffic and steps."""
        self.traffic, self.encoding, self.drafting = Traffic(), Encoding(), Drafting()
        self.estimate.forget()
        self._details, self.tpot_ms = None, math.inf

    def state_dict(self) -> dict[str, Any]:
        """Traffic, estimate and promise as plain data."""
        return {
            "traffic": self.traffic.state_dict(),
            "encoding": self.encoding.recent.state_dict(),
            "drafting": self.drafting.recent.state_dict(),
            "estimate": self.estimate.state_dict(),
            "tpot_ms": self.tpot_ms if math.isfinite(self.tpot_ms) else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned, further keys beside it.

        Raises:
            KeyError: a field is missing; nothing is changed then.
            ValueError: a field is wrong.
        """
        traffic, encoding, drafting, estimate = Traffic(), Encoding(), Drafting(), state["estimate"]
        tpot_ms = math.inf if state["tpot_ms"] is None else float(state["tpot_ms"])
        traffic.load_state_dict(state["traffic"])
        for name, recent in (("encoding", encoding.recent), ("drafting", drafting.recent)):
            if name in state:  # states of before have none
                recent.load_state_dict(state[name])
        self.estimate.load_state_dict(estimate)
        self.traffic, self.encoding, self.drafting = traffic, encoding, drafting
        self.tpot_ms, self._details = tpot_ms, None

    def _promises(self) -> float:
        """Take up the TPOT that requests are promised, near the operator's; the TTFT."""
        slo, traffic = self._slo, self.traffic
        tpot_ms = within_promise(traffic.typical_tpot_ms(), None if slo is None else slo.tpot_ms)
        if can_be_aimed_at(tpot_ms):
            self.tpot_ms = tpot_ms
        ttft_ms = within_promise(traffic.typical_ttft_ms(), None if slo is None else slo.ttft_ms)
        return min(ttft_ms, LONGEST_COUNTED_MS)

    def _horizon(
        self, details: WindowDetails, measured_ms: float, kv_tokens: int, ttft_ms: float, encode_ms: float
    ) -> Horizon:
        traffic, latency = self.traffic, self.estimate.parameters
        shortest_ms = latency.predict_one(1, 1, 0)
        step_ms = min(measured_ms if measured_ms > 0 else math.inf, self.tpot_ms, LONGEST_COUNTED_MS)
        residence_ms = traffic.mean_output / self.drafting.tokens_a_step * step_ms
        counted = COUNTED_TTFT_TARGETS * ttft_ms + COUNTED_RESIDENCES * residence_ms
        counted = min(counted, LONGEST_COUNTED_MS, MOST_STEPS * shortest_ms / 2)
        seen_through = max(SEEN_THROUGH_TTFT_TARGETS * ttft_ms, SHORTEST_SEEN_THROUGH_MS)
        seen_through = min(seen_through, LONGEST_SEEN_THROUGH_MS, MOST_STEPS * shortest_ms / 2)
        worth = work_in_progress(
            latency,
            traffic.mean_prompt,
            traffic.mean_output,
            traffic.rate_per_ms(details.now_ms),
            kv_tokens,
            cached_tokens=traffic.mean_cached,
            encode_ms=encode_ms,
        )
        price = traffic.mean_output / max(traffic.mean_prompt - traffic.mean_cached, 1.0)
        return Horizon(details.now_ms, counted, counted + seen_through, price, worth)
