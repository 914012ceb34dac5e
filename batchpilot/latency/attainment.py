"""What share of its requests an engine serves within their SLO at a given load: an approximation in closed form.

Times in ms, rates per ms. A request that would come too late is refused (`ttft_guard`), so it is no work for the
engine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from batchpilot.latency.full_steps import FullSteps
from batchpilot.latency.queueing import late_for_compute, late_for_memory
from batchpilot.latency.saturation import SaturationParameters

LOWEST_LOAD, HIGHEST_LOAD = 1e-4, 1.5
"""Loads that are considered, as shares of saturation."""

_BISECTIONS = 30


@dataclass(frozen=True, slots=True)
class Outlook:
    """What becomes of requests at one load.

    Attributes:
        rate: requests per ms that arrive.
        late_for_compute: share of them that is refused or late for want of compute.
        late_for_memory: likewise for want of KV memory.
    """

    rate: float
    late_for_compute: float
    late_for_memory: float

    @property
    def attainment(self) -> float:
        """Share of the requests served within their SLO."""
        return max(0.0, 1.0 - self.late_for_compute - self.late_for_memory)


@dataclass(frozen=True, eq=False)
class Service:
    """One engine, and what it promises.

    Attributes:
        parameters: step latency.
        engine: the engine in full steps no longer than the TPOT target.
        places: requests whose KV cache fits together.
        ttft_ms: target of the time to first token.
    """

    parameters: SaturationParameters
    engine: FullSteps
    places: int
    ttft_ms: float

    def at(self, load: float) -> Outlook:
        """What becomes of requests when those that are served fill a share of the engine.

        Args:
            load: work that is served, relative to saturation, > 0.
        """
        engine, demand = self.engine, self.engine.demand
        served = np.ones(len(demand.prompt_tokens))
        rate = load * engine.rate
        late = served
        for _ in range(2):
            # Who is refused depends on the load, and the load is given; so one correction settles it.
            late = late_for_compute(engine, rate, served, self.ttft_ms)
            served = 1 - late
            work_ms = float((served * engine.work_ms).mean())
            if work_ms <= 0:
                return Outlook(0.0, 1.0, 0.0)
            rate = load / work_ms
        prompt_ms = engine.prompt_ms / engine.room(rate, served)
        crowded_ms = float(self.parameters.predict(*demand.step_at(self.places)))
        residence_ms = demand.decode_steps * min(engine.step_ms, crowded_ms) + prompt_ms
        spare_ms = self.ttft_ms - engine.step_ms - float(prompt_ms.mean())
        blocked = late_for_memory(residence_ms, rate * float(served.mean()), self.places, spare_ms)
        return Outlook(rate / max(1 - blocked, 1e-9), float(late.mean()), blocked)

    def facing(self, rate: float) -> Outlook:
        """What becomes of requests that arrive at a rate.

        Args:
            rate: requests per ms, > 0; rates beyond the heaviest load considered are answered with that load.
        """
        low, high = LOWEST_LOAD, HIGHEST_LOAD
        for _ in range(_BISECTIONS):
            middle = (low * high) ** 0.5
            low, high = (middle, high) if self.at(middle).rate <= rate else (low, middle)
        return self.at(low)

    def holding(self, attainment: float) -> Outlook | None:
        """The most that is served within SLO for a share of the requests.

        Args:
            attainment: that share, in (0, 1).

        Returns:
            The outlook there; None where not even an idle engine attains it.
        """
        low, high = LOWEST_LOAD, HIGHEST_LOAD
        if self.at(low).attainment < attainment:
            return None
        for _ in range(_BISECTIONS):
            middle = (low * high) ** 0.5
            low, high = (middle, high) if self.at(middle).attainment >= attainment else (low, middle)
        return self.at(low)
