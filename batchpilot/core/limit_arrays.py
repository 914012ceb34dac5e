"""Limits of many servers side by side, for code that works on all of them at once: features, actions, engines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.limits import DISCIPLINES, Limits

NO_DISCIPLINE = -1
"""Stands for the scheduler's own discipline."""

_DISCIPLINE_NAMES = {code: name for name, code in DISCIPLINES.items()}
_TOKEN_COUNTS = ("token_budget", "max_queued_tokens", "max_padding_tokens")


class LimitArrays(NamedTuple):
    """The fields of `Limits`, each of shape (n,); infinity is off unless said otherwise.

    Attributes:
        batch_size: requests in a step.
        token_budget: tokens in a step.
        max_queued_tokens: prompt tokens waiting.
        max_wait_ms: accumulation before a static batch.
        step_target_ms: time a step is filled to.
        ttft_guard: multiple of the TTFT target beyond which a request is refused.
        discipline: code in `DISCIPLINES`, `NO_DISCIPLINE` for the scheduler's own.
        delay_factor: multiple of a prompt step's time before the next one.
        max_padding_tokens: padding in a static batch.
        max_padding_share: share of it.
        speculative_tokens: drafted for each decoding request; 0 is off.
        refusal_bound: share by which a quarter of prompt lengths may be refused beyond all.
    """

    batch_size: NDArray[np.float64]
    token_budget: NDArray[np.float64]
    max_queued_tokens: NDArray[np.float64]
    max_wait_ms: NDArray[np.float64]
    step_target_ms: NDArray[np.float64]
    ttft_guard: NDArray[np.float64]
    discipline: NDArray[np.float64]
    delay_factor: NDArray[np.float64]
    max_padding_tokens: NDArray[np.float64]
    max_padding_share: NDArray[np.float64]
    speculative_tokens: NDArray[np.float64]
    refusal_bound: NDArray[np.float64]


def limit_arrays(limits: Iterable[Limits]) -> LimitArrays:
    """Limits as arrays.

    Args:
        limits: one a server.
    """
    rows = [limit_numbers(one) for one in limits]
    return LimitArrays(*np.array(rows, dtype=np.float64).reshape(len(rows), len(LimitArrays._fields)).T)


def limits_at(arrays: LimitArrays, i: int) -> Limits:
    """The limits of one server.

    Args:
        arrays: limits of n servers.
        i: which.

    Raises:
        ValueError: a value is outside its bound.
    """
    return limits_of([float(column[i]) for column in arrays])


def limits_of(numbers: Sequence[float]) -> Limits:
    """The limits of one server, from what `limit_numbers` makes of them.

    Args:
        numbers: the fields of `LimitArrays` in their order.

    Raises:
        ValueError: a value is outside its bound.
    """
    return Limits(**{name: _plain(name, number) for name, number in zip(LimitArrays._fields, numbers, strict=True)})


def limit_numbers(limits: Limits) -> tuple[float, ...]:
    """The fields of `LimitArrays` for one server.

    Args:
        limits: its limits.
    """
    return (
        limits.batch_size,
        _off(limits.token_budget),
        _off(limits.max_queued_tokens),
        _off(limits.max_wait_ms),
        _off(limits.step_target_ms),
        _off(limits.ttft_guard),
        NO_DISCIPLINE if limits.discipline is None else DISCIPLINES[limits.discipline],
        _off(limits.delay_factor),
        _off(limits.max_padding_tokens),
        _off(limits.max_padding_share),
        limits.speculative_tokens,
        _off(limits.refusal_bound),
    )


def _off(value: float | None) -> float:
    return math.inf if value is None else value


def _plain(name: str, value: float) -> Any:
    if name == "discipline":
        return _DISCIPLINE_NAMES.get(int(value))
    if name in ("batch_size", "speculative_tokens"):
        return int(value)
    if math.isinf(value):
        return None
    return int(value) if name in _TOKEN_COUNTS else value
