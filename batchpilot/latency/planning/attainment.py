"""What share of its requests an engine serves within their SLO at a given load: an approximation in closed form.

Times in ms, rates per ms. A request that would come too late is refused (`ttft_guard`).
"""

from __future__ import annotations

from dataclasses import dataclass

from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.latency.planning.demand import step_ms_at
from batchpilot.latency.planning.full_steps import FullSteps
from batchpilot.latency.planning.queueing import refused_for_compute, refused_for_memory

LOWEST_LOAD, HIGHEST_LOAD = 1e-4, 1.5
"""Loads that are considered, as shares of saturation."""

_BISECTIONS = 30


@dataclass(frozen=True, slots=True)
class Outlook:
    """What becomes of requests at one load.

    Attributes:
        rate: requests per ms that arrive.
        refused_for_compute: share of them that compute is too slow for.
        refused_for_memory: share of them that KV memory is too small for.
    """

    rate: float
    refused_for_compute: float
    refused_for_memory: float

    @property
    def attainment(self) -> float:
        """Share of the requests served within their SLO."""
        return max(0.0, 1.0 - self.refused_for_compute - self.refused_for_memory)


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

    def facing(self, rate: float) -> Outlook:
        """What becomes of requests that arrive at a rate.

        Args:
            rate: requests per ms, > 0.
        """
        engine, demand = self.engine, self.engine.demand
        refused = refused_for_compute(engine, rate, self.ttft_ms)
        served = 1 - refused
        prompt_ms = engine.prompt_ms / engine.room(rate, served)
        crowded_ms = float(step_ms_at(self.parameters, demand, self.places))
        residence_ms = demand.decode_steps * min(engine.step_ms, crowded_ms) + prompt_ms
        spare_ms = self.ttft_ms - engine.step_ms - float(prompt_ms.mean())
        blocked = refused_for_memory(residence_ms, rate * float(served.mean()), self.places, spare_ms)
        return Outlook(rate, float(refused.mean()), blocked)

    def holding(self, attainment: float) -> Outlook | None:
        """The most that is served within SLO for a share of the requests.

        Args:
            attainment: that share, in (0, 1).

        Returns:
            The outlook there; None where not even an idle engine attains it.
        """
        low, high = LOWEST_LOAD * self.engine.rate, HIGHEST_LOAD * self.engine.rate
        if self.facing(low).attainment < attainment:
            return None
        for _ in range(_BISECTIONS):
            middle = (low * high) ** 0.5
            low, high = (middle, high) if self.facing(middle).attainment >= attainment else (low, middle)
        return self.facing(low)
