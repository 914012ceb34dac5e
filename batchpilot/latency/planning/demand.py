"""What a mix of requests asks of an engine, step for step. Lengths in tokens, times in ms, rates per ms.

Little's law ties a rate to a step: of `rate` requests per ms, `rate * step_ms` take their k-th step within any one step
of the engine, whichever k is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchpilot.latency.model.saturation import SaturationParameters

_HALF_BLOCK_TOKENS = 8
_RESIDENTS = np.geomspace(1e-3, 65_536, 1600)
_BISECTIONS = 40


@dataclass(frozen=True, eq=False)
class Demand:
    """A mix of requests, each of them equally likely.

    Attributes:
        prompt_tokens: prompt lengths, >= 1, shape (n,).
        output_tokens: output lengths, >= 1, shape (n,).
        cached_tokens: prompt tokens that a prefix cache has, shape (n,); left out for none. They take KV memory and are
            read, but not computed.
        encode_ms: time that encoding the images of each adds to the steps it begins in, >= 0, shape (n,); left out for
            none. Of those whose features are kept it is 0; tokens of images are among the prompt's.

    Raises:
        ValueError: no request, shapes that differ, a value below its bound, or a prompt of which nothing is left to
            compute.
    """

    prompt_tokens: NDArray[np.float64]
    output_tokens: NDArray[np.float64]
    cached_tokens: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    encode_ms: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "output_tokens"):
            values = np.atleast_1d(np.asarray(getattr(self, name), dtype=np.float64))
            if values.ndim != 1 or len(values) == 0 or not np.all(np.isfinite(values) & (values >= 1)):
                raise ValueError(f"{name} must hold at least one length, all >= 1")
            object.__setattr__(self, name, values)
        if len(self.prompt_tokens) != len(self.output_tokens):
            raise ValueError(f"{len(self.prompt_tokens)} prompts and {len(self.output_tokens)} outputs; give as many")
        cached = self.cached_tokens if len(self.cached_tokens) else np.zeros_like(self.prompt_tokens)
        if cached.shape != self.prompt_tokens.shape or not np.all((cached >= 0) & (cached < self.prompt_tokens)):
            raise ValueError("cached_tokens must be one for each prompt, >= 0 and less than its length")
        object.__setattr__(self, "cached_tokens", cached)
        encode = self.encode_ms if len(self.encode_ms) else np.zeros_like(self.prompt_tokens)
        if encode.shape != self.prompt_tokens.shape or not np.all(np.isfinite(encode) & (encode >= 0)):
            raise ValueError("encode_ms must be one for each prompt, finite and >= 0")
        object.__setattr__(self, "encode_ms", encode)

    @property
    def computed_prompt_tokens(self) -> NDArray[np.float64]:
        """Prompt tokens that no cache has, shape (n,)."""
        return self.prompt_tokens - self.cached_tokens

    @property
    def prefix_hit_rate(self) -> float:
        """Share of the prompt tokens that a cache has."""
        return float(self.cached_tokens.sum() / self.prompt_tokens.sum())

    @property
    def decode_steps(self) -> NDArray[np.float64]:
        """Steps after the one that ends the prompt and emits the first token, shape (n,)."""
        return self.output_tokens - 1

    @cached_property
    def steps(self) -> float:
        """Mean steps in which a request takes part, its prompt computed in one."""
        return float(self.output_tokens.mean())

    @cached_property
    def tokens(self) -> float:
        """Mean tokens computed for a request."""
        return float((self.computed_prompt_tokens + self.decode_steps).mean())

    @cached_property
    def encode_ms_per_token(self) -> float:
        """Mean time of encoding for each prompt token that is computed."""
        return float(self.encode_ms.sum() / self.computed_prompt_tokens.sum())

    @cached_property
    def context(self) -> float:
        """Mean context tokens read for a request, over all of its steps: its first reads what is cached."""
        read = self.decode_steps * (self.prompt_tokens + self.output_tokens / 2)
        return float((read + self.cached_tokens).mean())

    @cached_property
    def resident_kv(self) -> tuple[float, float]:
        """KV tokens of a resident request at a random moment: mean (half a block of 16 included) and variance."""
        prompt, output = self.prompt_tokens, self.output_tokens
        moments = self.steps * len(output)
        mean = float((output * (prompt + output / 2)).sum()) / moments
        square = float((output * (prompt * (prompt + output) + output**2 / 3)).sum()) / moments
        return mean + _HALF_BLOCK_TOKENS, max(0.0, square - mean**2)

    def step_at(self, residents: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """The average step while so many requests are resident: requests, tokens and context tokens.

        Args:
            residents: mean resident requests, > 0; a step holds at least one request and one token.

        Returns:
            B, S and C of the step, each of the shape given.
        """
        share = np.asarray(residents, dtype=np.float64) / self.steps
        return np.maximum(share * self.steps, 1.0), np.maximum(share * self.tokens, 1.0), share * self.context

    def encode_at(self, residents: ArrayLike) -> NDArray[np.float64]:
        """Time that the average step spends on encoding while so many requests are resident, of the shape given.

        Args:
            residents: mean resident requests, > 0.
        """
        return np.asarray(residents, dtype=np.float64) / self.steps * float(self.encode_ms.mean())


def step_ms_at(parameters: SaturationParameters, demand: Demand, residents: ArrayLike) -> NDArray[np.float64]:
    """How long the average step takes, encoding and tokens, while so many requests are resident.

    Args:
        parameters: step latency.
        demand: what is asked.
        residents: mean resident requests, > 0, any shape.
    """
    return np.asarray(parameters.predict(*demand.step_at(residents)) + demand.encode_at(residents))


def token_target_ms(parameters: SaturationParameters, demand: Demand, step_ms: float) -> float:
    """What the tokens of a step may take so that it takes `step_ms` together with the encoding it begins with.

    An engine's step target bounds tokens alone, so what the usual full step spends on encoding is taken off it.

    Args:
        parameters: step latency.
        demand: what is asked.
        step_ms: longest step.

    Returns:
        `step_ms` itself where nothing is encoded; 0 where no step is that short.
    """
    if not demand.encode_ms.any():
        return step_ms
    residents = _most_residents(lambda at: step_ms_at(parameters, demand, at), step_ms)
    return 0.0 if residents <= 0 else step_ms - float(demand.encode_at(residents))


def residents_at(parameters: SaturationParameters, demand: Demand, tokens_ms: float) -> float:
    """The most requests that can be resident when a step's tokens may take so long, each replaced as it leaves.

    Args:
        parameters: step latency.
        demand: what is asked.
        tokens_ms: longest time for the tokens of a step.

    Returns:
        Mean residents, 0 where not even the shortest step fits. The step time may fall before it rises, so this is the
        upper end of what fits.
    """
    return _most_residents(lambda at: parameters.predict(*demand.step_at(at)), tokens_ms)


def residents_for(parameters: SaturationParameters, demand: Demand, rate: float) -> float:
    """Mean residents at a rate: the smallest number whose steps are short enough for it, by Little's law.

    Args:
        parameters: step latency.
        demand: what is asked.
        rate: requests per ms.

    Returns:
        Mean residents; the largest number considered where no number serves the rate.
    """
    served = _RESIDENTS / (demand.steps * step_ms_at(parameters, demand, _RESIDENTS))
    enough = np.flatnonzero(served >= rate)
    return float(_RESIDENTS[enough[0]] if len(enough) else _RESIDENTS[-1])


def kv_residents(demand: Demand, kv_capacity_tokens: float, deviations: float = 1.0) -> int:
    """Requests whose KV cache fits together, with room for chance: mean plus some standard deviations.

    Args:
        demand: what is asked; the largest request must fit by itself.
        kv_capacity_tokens: KV tokens that fit.
        deviations: standard deviations of their sum to keep free.

    Returns:
        Residents, at least 1.
    """
    mean, variance = demand.resident_kv
    spread = deviations * variance**0.5
    root = (-spread + (spread**2 + 4 * mean * kv_capacity_tokens) ** 0.5) / (2 * mean)
    return max(1, int(root**2))


def _most_residents(step_ms: Callable[[ArrayLike], NDArray[np.float64]], most_ms: float) -> float:
    """The upper end of the residents whose step takes at most so long, 0 for none."""
    fits = np.flatnonzero(step_ms(_RESIDENTS) <= most_ms)
    if len(fits) == 0:
        return 0.0
    low = float(_RESIDENTS[fits[-1]])
    high = float(_RESIDENTS[min(fits[-1] + 1, len(_RESIDENTS) - 1)])
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        fit = float(step_ms(middle)) <= most_ms
        low, high = (middle, high) if fit else (low, middle)
    return low
