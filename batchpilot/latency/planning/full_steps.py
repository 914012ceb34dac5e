"""An engine under pressure: every step filled to the same time, its latency linear around that point. Times in ms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.latency.planning.demand import Demand, residents_at

_HORIZONS = 48
_LONGEST_MS = 1e6
_RELATIVE_STEP = 1e-4
_LEAST_ROOM = 1e-3


@dataclass(frozen=True, eq=False)
class FullSteps:
    """What requests take of an engine's time when every step takes `step_ms`, the fixed part of a step shared out.

    Attributes:
        demand: what is asked, n requests.
        target_ms: time that a step's tokens may fill.
        step_ms: length of a full step: the target, or less where memory bounds the tokens of a step, and the encoding
            that it begins with.
        residents: mean requests that are resident at saturation.
        prompt_ms: time that a prompt takes with the engine to itself, images encoded, shape (n,).
        decode_share: share of every step that a decoding request takes, shape (n,).
    """

    demand: Demand
    target_ms: float
    step_ms: float
    residents: float
    prompt_ms: NDArray[np.float64]
    decode_share: NDArray[np.float64]

    @property
    def rate(self) -> float:
        """Requests per ms that saturate the engine, by Little's law."""
        return self.residents / (self.demand.steps * self.step_ms)

    @cached_property
    def decode_ms(self) -> NDArray[np.float64]:
        """How long a request decodes, shape (n,)."""
        return self.demand.decode_steps * self.step_ms

    @cached_property
    def work_ms(self) -> NDArray[np.float64]:
        """Time that a request takes in all, shape (n,); its mean times `rate` is 1."""
        return self.prompt_ms + self.decode_share * self.decode_ms

    @cached_property
    def horizon_ms(self) -> NDArray[np.float64]:
        """Times over which arriving work is added up, ascending, shape (k,)."""
        return np.geomspace(self.step_ms / 2, _LONGEST_MS, _HORIZONS)

    @cached_property
    def variance(self) -> NDArray[np.float64]:
        """Variance of the work that falls within each horizon per request and unit of rate, shape (n, k).

        For Poisson arrivals it is the square of a request's work in the horizon, integrated over when it came: one that
        came u before the end brings its prompt and decodes for min(u, L); one that came s before the start decodes for
        min(L - s, t).
        """
        prompt, share, length = (x[:, None] for x in (self.prompt_ms, self.decode_share, self.decode_ms))
        short = np.minimum(self.horizon_ms, length)
        rest = self.horizon_ms - short
        both = 2 * prompt * share * (short**2 / 2 + length * rest)
        within = prompt**2 * self.horizon_ms + both + share**2 * (short**3 / 3 + length**2 * rest)
        before = share**2 * (short**2 * (length - short) + short**3 / 3)
        return np.asarray(within + before)

    def room(self, rate: float, served: NDArray[np.float64]) -> float:
        """Share of every step that decoding leaves to prompts.

        Args:
            rate: requests per ms that arrive.
            served: share of each request that is served, shape (n,).
        """
        return max(_LEAST_ROOM, 1 - rate * float((served * self.decode_share * self.decode_ms).mean()))


def full_steps(
    parameters: SaturationParameters, demand: Demand, target_ms: float, max_step_tokens: int
) -> FullSteps | None:
    """The engine at saturation.

    Args:
        parameters: step latency.
        demand: what is asked.
        target_ms: time that a step's tokens may fill, > 0 where a step is to fit.
        max_step_tokens: most tokens of a step, >= 1.

    Returns:
        The engine, None where not even the shortest step is that short.
    """
    residents = min(residents_at(parameters, demand, target_ms), max_step_tokens * demand.steps / demand.tokens)
    if residents <= 0:
        return None
    requests, tokens, context = (float(x) for x in demand.step_at(residents))
    filled_ms = float(parameters.predict(requests, tokens, context))
    step_ms = filled_ms + float(demand.encode_at(residents))
    small, more = _RELATIVE_STEP, 1 + _RELATIVE_STEP
    per_request = (float(parameters.predict(requests * more, tokens, context)) - filled_ms) / (
        requests * _RELATIVE_STEP
    )
    per_token = (float(parameters.predict(requests, tokens * more, context)) - filled_ms) / (tokens * small)
    prompt = per_request + per_token * demand.computed_prompt_tokens + parameters.tau_c * demand.cached_tokens
    prompt = prompt + demand.encode_ms
    decode = per_request + per_token + parameters.tau_c * (demand.prompt_tokens + demand.output_tokens / 2)
    variable_ms = residents / demand.steps * float((prompt + decode * demand.decode_steps).mean())
    return FullSteps(demand, target_ms, step_ms, residents, prompt * step_ms / variable_ms, decode / variable_ms)
