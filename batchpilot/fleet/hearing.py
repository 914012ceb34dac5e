"""What replicas did, kept from window to window: heard as it happens, summed before a window is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchpilot.engines.scheduler.state import SchedulerState
from batchpilot.latency.planning.energy import Work

_WORK = ("busy_ms", "steps", "token_sum", "context_sum")
"""What a window holds of `Work`, in its order."""

_FOUND = ("admitted_prompt_tokens", "cached_prompt_tokens", "images", "image_hits")
"""What a window holds of `Found`, in its order."""

_COUNTED = ("completions", "refused_on_arrival", "refused_by_guard", "failed_requests")
"""What a window holds of requests that ended."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What a replica did since it was last listened to.

    Attributes:
        busy_ms: time within steps.
        ttft_ms: sum of the times to first token.
        first: number of them.
        good: requests that ended within their SLO.
        ended: requests that ended, refused and failed ones included.
    """

    busy_ms: float
    ttft_ms: float
    first: int
    good: int
    ended: int


class Found(NamedTuple):
    """What replicas did not have to compute, by replica; shape (replicas,) each.

    Attributes:
        prompt_tokens: of requests that were let in.
        cached_tokens: of them, those found in the prefix cache.
        images: of requests that were let in.
        image_hits: of them, those that need not be encoded.
    """

    prompt_tokens: NDArray[np.float64]
    cached_tokens: NDArray[np.float64]
    images: NDArray[np.float64]
    image_hits: NDArray[np.float64]


_SILENT = Heard(0.0, 0.0, 0, 0, 0)


class Hearing:
    """Listens to rows of a scheduler's state.

    Args:
        kinds: the kind of each row.
        specs: how many kinds there are.

    Attributes:
        busy_ms: time within steps that was heard of each row so far, shape (rows,).
    """

    def __init__(self, kinds: Sequence[int], specs: int) -> None:
        self.busy_ms = np.zeros(len(kinds))
        self._kinds = kinds
        self._heard = [_SILENT] * len(kinds)
        self._worked = np.zeros((specs, len(_WORK)))
        self._found = np.zeros((len(kinds), len(_FOUND)))

    def hear(self, state: SchedulerState, i: int) -> Heard:
        """Listen to a row: what it did since the last time.

        Args:
            state: the scheduler's arrays.
            i: the row.
        """
        window, before = np.asarray(state.window)[i], self._heard[i]
        count = min(int(window["n_ttft"]), state.slots.shape[1])
        ttft_ms = float(np.asarray(state.slots)["ttft_ms"][i, before.first : count].sum())
        ended = sum(int(window[name]) for name in _COUNTED)
        self._heard[i] = now = Heard(float(window["busy_ms"]), 0.0, count, int(window["slo_met"]), ended)
        busy_ms = now.busy_ms - before.busy_ms
        self.busy_ms[i] += busy_ms
        return Heard(busy_ms, ttft_ms, count - before.first, now.good - before.good, ended - before.ended)

    def forget(self, i: int) -> None:
        """A new window has begun: what was not heard of the one before is not heard any more.

        Args:
            i: the row.
        """
        self._heard[i] = _SILENT

    def keep(self, state: SchedulerState, i: int) -> None:
        """Sum what a row did in its window, which is about to be forgotten.

        Args:
            state: the scheduler's arrays.
            i: the row.
        """
        self._worked[self._kinds[i]] += _window(state, i, _WORK)
        self._found[i] += _window(state, i, _FOUND)

    def work(self, state: SchedulerState, kind: int) -> Work:
        """What all rows of a kind have done.

        Args:
            state: the scheduler's arrays.
            kind: number of their spec.
        """
        open_now = [_window(state, i, _WORK) for i in range(len(self._kinds)) if self._kinds[i] == kind]
        return Work(*(self._worked[kind] + np.sum(open_now, axis=0)).tolist())

    def found(self, state: SchedulerState) -> Found:
        """What rows did not have to compute so far.

        Args:
            state: the scheduler's arrays.
        """
        return Found(*np.transpose([self._found[i] + _window(state, i, _FOUND) for i in range(len(self._kinds))]))


def _window(state: SchedulerState, i: int, names: Sequence[str]) -> NDArray[np.float64]:
    window = state.window[i]
    return np.array([float(window[name]) for name in names])
