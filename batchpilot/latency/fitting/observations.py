"""Measured steps: requests B, tokens S, context C and latency T in ms, and which of them a fit may use."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

LOWEST_MS = 0.1
HIGHEST_MS = 500.0
"""Latencies that the saturation document keeps: above the lowest and below the highest."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """How many observations preprocessing left out, and why; each counts for the first reason that applies.

    Attributes:
        not_finite: a value is missing, not a number, or infinite; or the context is negative.
        empty: no requests or no tokens.
        too_short: at or below the lowest latency.
        too_long: at or above the highest latency.
        lowest_ms: the lowest latency, in ms.
        highest_ms: the highest latency, in ms.
    """

    not_finite: int
    empty: int
    too_short: int
    too_long: int
    lowest_ms: float
    highest_ms: float

    @property
    def total(self) -> int:
        """All of them."""
        return self.not_finite + self.empty + self.too_short + self.too_long

    def __str__(self) -> str:
        reasons = {
            "not finite": self.not_finite,
            "without requests or tokens": self.empty,
            f"at or below {self.lowest_ms:g} ms": self.too_short,
            f"at or above {self.highest_ms:g} ms": self.too_long,
        }
        return ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count) or "none"


@dataclass(frozen=True, slots=True, eq=False)
class Observations:
    """Measured steps in the order in which they were measured; a struct of equally long arrays, shape (n,).

    Attributes:
        batch_size: requests in the step, B.
        tokens: tokens computed in the step, S.
        context_tokens: tokens read by attention, C.
        latency_ms: measured time of the step, T.

    Raises:
        ValueError: the arrays are not one-dimensional, of one length, and of numbers; the message names the array.
    """

    batch_size: NDArray[np.float64]
    tokens: NDArray[np.float64]
    context_tokens: NDArray[np.float64]
    latency_ms: NDArray[np.float64]

    def __post_init__(self) -> None:
        for field in fields(self):
            try:
                values = np.ascontiguousarray(getattr(self, field.name), dtype=np.float64)
            except (TypeError, ValueError):
                raise ValueError(f"{field.name} holds something that is not a number") from None
            if values.ndim != 1:
                raise ValueError(f"{field.name} has shape {values.shape}; observations are one-dimensional")
            object.__setattr__(self, field.name, values)
        lengths = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"observations differ in length: {lengths}")

    @classmethod
    def of(
        cls, batch_size: ArrayLike, tokens: ArrayLike, latency_ms: ArrayLike, context_tokens: ArrayLike = 0.0
    ) -> Observations:
        """Observations from anything array-like; a missing context counts as 0.

        Args:
            batch_size: requests in each step, shape (n,).
            tokens: tokens computed in each step, shape (n,).
            latency_ms: time of each step in ms, shape (n,).
            context_tokens: tokens read by attention, shape (n,) or one number for all.

        Raises:
            ValueError: see the class.
        """
        B, S, T = (np.atleast_1d(np.asarray(x)) for x in (batch_size, tokens, latency_ms))
        context = np.asarray(context_tokens)
        return cls(B, S, np.broadcast_to(context, T.shape) if context.ndim == 0 else context, T)

    def __len__(self) -> int:
        return len(self.latency_ms)

    def __getitem__(self, rows: slice | NDArray[np.bool_] | NDArray[np.intp]) -> Observations:
        """The observations of some rows.

        Args:
            rows: a slice, a mask of shape (n,), or indices.
        """
        return Observations(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def joined(cls, parts: Iterable[Observations]) -> Observations:
        """Several sets as one, in their order.

        Args:
            parts: the sets.
        """
        parts = list(parts)
        return cls(
            *(np.concatenate([np.empty(0), *(getattr(part, field.name) for part in parts)]) for field in fields(cls))
        )

    @property
    def points(self) -> NDArray[np.intp]:
        """For each observation the number of its point: repeats of one (B, S, C) have one number, shape (n,)."""
        steps = np.stack([self.batch_size, self.tokens, self.context_tokens])
        # One number a step sorts ten times as fast as three, unless different steps have the same.
        mixed = self.batch_size + math.sqrt(2) * self.tokens + math.pi * self.context_tokens
        order = np.argsort(mixed)
        changes = np.any(np.diff(steps[:, order]), axis=0)
        if np.any(changes & (np.diff(mixed[order]) == 0)):
            order = np.lexsort(steps[::-1])
            changes = np.any(np.diff(steps[:, order]), axis=0)
        numbers = np.zeros(len(self), dtype=np.intp)
        numbers[order[1:]] = np.cumsum(changes)
        return numbers

    @property
    def usable(self) -> bool:
        """Whether every observation is finite, with B, S >= 1, C >= 0 and T > 0, as a fit needs it."""
        if len(self) == 0:
            return True
        finite = all(np.isfinite(getattr(self, field.name)).all() for field in fields(self))
        enough = self.batch_size.min() >= 1 and self.tokens.min() >= 1 and self.context_tokens.min() >= 0
        return bool(finite and enough and self.latency_ms.min() > 0)

    def cleaned(self, lowest_ms: float = LOWEST_MS, highest_ms: float = HIGHEST_MS) -> tuple[Observations, Dropped]:
        """The observations that a fit may use, and what was left out.

        The document's 500 ms suits decode steps; a prefill of 4096 tokens of a 70B model takes 1 s, so whoever has
        prefills raises `highest_ms`.

        Args:
            lowest_ms: observations at or below are dropped, >= 0.
            highest_ms: observations at or above are dropped.

        Returns:
            What remains, in order, and the counts of what does not.

        Raises:
            ValueError: the bounds leave nothing between them.

        Source: throughput saturation document, preprocessing.
        """
        if not 0 <= lowest_ms < highest_ms:
            raise ValueError(f"latency bounds are {lowest_ms} and {highest_ms} ms; expected 0 <= lowest < highest")
        B, S, C, T = self.batch_size, self.tokens, self.context_tokens, self.latency_ms
        finite = np.isfinite(B) & np.isfinite(S) & np.isfinite(C) & np.isfinite(T) & ~(C < 0)
        full = finite & (B >= 1) & (S >= 1)
        long_enough = full & (lowest_ms < T)
        kept = long_enough & (highest_ms > T)
        counts = [len(self), *(int(mask.sum()) for mask in (finite, full, long_enough, kept))]
        not_finite, empty, too_short, too_long = (before - after for before, after in pairwise(counts))
        return self[kept], Dropped(not_finite, empty, too_short, too_long, lowest_ms, highest_ms)
