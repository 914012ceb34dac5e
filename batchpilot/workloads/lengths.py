"""Length distributions: how many tokens requests bring and want. Everything in tokens.

A marginal is a quantile function; a joint distribution says how prompts and outputs go together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GRID = (np.arange(4096) + 0.5) / 4096


class Marginal(ABC):
    """The distribution of one length.

    - `quantile(levels)` maps levels in (0, 1), shape (n,), to lengths, shape (n,), before rounding to whole tokens.
    """

    @abstractmethod
    def quantile(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Lengths at the given levels.

        Args:
            levels: in (0, 1), shape (n,).

        Returns:
            Lengths in tokens, not rounded, shape (n,).
        """


@dataclass(frozen=True, slots=True)
class Uniform(Marginal):
    """Every whole length from `lowest` to `highest` is equally likely; equal bounds give a fixed length.

    Attributes:
        lowest: shortest length, >= 1.
        highest: longest length, >= `lowest`.

    Raises:
        ValueError: a bound is out of order.
    """

    lowest: int
    highest: int

    def __post_init__(self) -> None:
        if not 1 <= self.lowest <= self.highest:
            raise ValueError(f"lengths from {self.lowest} to {self.highest}; need 1 <= lowest <= highest")

    def quantile(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `Marginal`."""
        return self.lowest + np.floor(levels * (self.highest - self.lowest + 1))


@dataclass(frozen=True, slots=True)
class LogNormal(Marginal):
    """Lognormal lengths, clipped to bounds.

    Attributes:
        median: the middle length, > 0.
        sigma: standard deviation of the logarithm, >= 0.
        lowest: shorter draws become this, >= 1.
        highest: longer draws become this, >= `lowest`.

    Raises:
        ValueError: a value is outside its bound.
    """

    median: float
    sigma: float
    lowest: int = 1
    highest: int = 8192

    def __post_init__(self) -> None:
        if not (self.median > 0 and self.sigma >= 0 and 1 <= self.lowest <= self.highest):
            raise ValueError(f"{self}: need median > 0, sigma >= 0 and 1 <= lowest <= highest")

    def quantile(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `Marginal`."""
        from scipy.special import ndtri

        lengths: NDArray[np.float64] = self.median * np.exp(self.sigma * ndtri(levels))
        return np.clip(lengths, self.lowest, self.highest)


@dataclass(frozen=True, slots=True)
class Knots(Marginal):
    """Lengths given by their quantiles, straight lines between them.

    Attributes:
        levels: ascending, from 0 to 1, shape (k,).
        tokens: the quantile at each level, ascending, >= 1, shape (k,).
    """

    levels: tuple[float, ...]
    tokens: tuple[float, ...]

    def quantile(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `Marginal`."""
        return np.interp(levels, self.levels, self.tokens)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Prompt and output lengths together: the output's distribution depends on the prompt's rank.

    One output marginal makes the two independent. With several, the prompts are cut into as many equally large bands
    from the shortest to the longest, and each band has its own outputs. That holds any dependence, monotone or not: in
    the published conversation trace, outputs are longest for prompts of middle length.

    Attributes:
        prompt: marginal of the prompts.
        outputs: marginal of the outputs in each band of prompts, at least one.
        max_prompt_tokens: longer prompts become this, None for no cap.
        max_output_tokens: longer outputs become this, None for no cap.
    """

    prompt: Marginal
    outputs: tuple[Marginal, ...]
    max_prompt_tokens: int | None = None
    max_output_tokens: int | None = None

    def sample(self, n: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw requests.

        Args:
            n: how many, >= 0.
            rng: source of randomness.

        Returns:
            Prompt and output tokens, each >= 1, shape (n,).
        """
        return self._at(rng.random(n), rng.random(n))

    def means(self) -> tuple[float, float]:
        """Mean prompt and mean output tokens, by midpoint integration of the quantiles."""
        prompt, _ = self._at(_GRID, _GRID)
        outputs = [_whole(marginal.quantile(_GRID), self.max_output_tokens).mean() for marginal in self.outputs]
        return float(prompt.mean()), float(np.mean(outputs))

    def _at(
        self, prompt_level: NDArray[np.float64], output_level: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        band = (prompt_level * len(self.outputs)).astype(np.intp)
        output = np.empty(len(band))
        for index, marginal in enumerate(self.outputs):
            output[band == index] = marginal.quantile(output_level[band == index])
        prompt = self.prompt.quantile(prompt_level)
        return _whole(prompt, self.max_prompt_tokens), _whole(output, self.max_output_tokens)


def fixed_lengths(prompt_tokens: int, output_tokens: int) -> Lengths:
    """Every request alike.

    Args:
        prompt_tokens: length of every prompt, >= 1.
        output_tokens: length of every output, >= 1.

    Raises:
        ValueError: a length is below 1.
    """
    return Lengths(Uniform(prompt_tokens, prompt_tokens), (Uniform(output_tokens, output_tokens),))


def fit_lengths(
    prompt_tokens: ArrayLike,
    output_tokens: ArrayLike,
    *,
    bands: int,
    prompt_levels: Sequence[float],
    output_levels: Sequence[float],
) -> Lengths:
    """Fit a joint distribution to observed requests by their quantiles.

    Args:
        prompt_tokens: observed prompts, shape (n,).
        output_tokens: observed outputs, shape (n,).
        bands: how many bands of prompts get outputs of their own, >= 1; 1 makes the two independent.
        prompt_levels: levels of the prompt knots, ascending from 0 to 1.
        output_levels: levels of the output knots, ascending from 0 to 1.

    Returns:
        A distribution with knots rounded to whole tokens.

    Raises:
        ValueError: fewer requests than bands, or shapes that differ.
    """
    prompt, output = np.asarray(prompt_tokens), np.asarray(output_tokens)
    if prompt.shape != output.shape or not 1 <= bands <= len(prompt):
        raise ValueError(f"{prompt.shape} prompts, {output.shape} outputs, {bands} bands; need 1 <= bands <= requests")
    by_prompt = np.array_split(output[np.argsort(prompt, kind="stable")], bands)
    return Lengths(_knots(prompt, prompt_levels), tuple(_knots(band, output_levels) for band in by_prompt))


def estimate_outputs(
    output_tokens: NDArray[np.int64], rng: np.random.Generator, sigma: float = 0.5
) -> NDArray[np.float64]:
    """What a length predictor would say: the truth times a lognormal error of median 1.

    Args:
        output_tokens: true lengths, shape (n,).
        rng: source of randomness.
        sigma: standard deviation of the error's logarithm, >= 0; 0 is an oracle. 0.5 puts two thirds of the estimates
            within a factor of 1.65 of the truth, which is our assumption about proxy-model predictors.

    Returns:
        Estimated output tokens, > 0, shape (n,).

    Raises:
        ValueError: sigma is negative or not finite.
    """
    if not (np.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"sigma is {sigma}; it must be >= 0")
    return output_tokens * rng.lognormal(0.0, sigma, len(output_tokens))


def _knots(sample: NDArray[np.generic], levels: Sequence[float]) -> Knots:
    tokens = np.rint(np.quantile(sample.astype(np.float64), levels))
    return Knots(tuple(levels), tuple(int(value) for value in tokens))


def _whole(lengths: NDArray[np.float64], cap: int | None) -> NDArray[np.int64]:
    return np.clip(np.rint(lengths), 1, cap).astype(np.int64)
