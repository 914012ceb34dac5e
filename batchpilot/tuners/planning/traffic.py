"""What came lately, and guesses of what comes next: the recent past, replayed from other moments. Times in ms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.details import IN_FLIGHT, MOST_REQUESTS, WindowDetails
from batchpilot.core.slo import typical_target
from batchpilot.engines.scheduler.details import as_requests
from batchpilot.engines.simulated.twin import Future

FEWEST_ARRIVALS = 3
"""Below this nothing can be said of what comes."""

_PRIOR_OUTPUTS = np.array([32, 64, 128, 256, 512])
"""Output lengths believed in until requests have finished."""

_FEWEST_OUTPUTS = 5
_REMEMBERED = ("arrival_ms", "prompt_tokens", "cached_tokens", "ttft_target_ms", "tpot_target_ms")


class Traffic:
    """Recent arrivals and output lengths.

    Args:
        memory_ms: how far back arrivals are remembered, > 0.
        fewest: so many arrivals are remembered however old they are.
        outputs: output lengths remembered.
    """

    def __init__(self, memory_ms: float = 60_000.0, fewest: int = 50, outputs: int = 400) -> None:
        self._memory_ms, self._fewest, self._most_outputs = memory_ms, fewest, outputs
        self.arrivals: NDArray[Any] = np.empty(0, IN_FLIGHT)
        self.outputs: NDArray[np.int64] = np.empty(0, np.int64)

    def hear(self, details: WindowDetails) -> None:
        """Remember a window.

        Args:
            details: what a server knows of it.
        """
        arrivals = np.concatenate([self.arrivals, details.arrivals])
        recent = arrivals["arrival_ms"] > details.now_ms - self._memory_ms
        recent[-self._fewest :] = True
        self.arrivals = arrivals[recent][-MOST_REQUESTS:]
        self.outputs = np.concatenate([self.outputs, details.output_tokens])[-self._most_outputs :]

    def state_dict(self) -> dict[str, Any]:
        """What is remembered as plain data that JSON can hold, a promise of nothing as None."""
        return {
            **{name: [_finite(value) for value in self.arrivals[name].tolist()] for name in _REMEMBERED},
            "output_tokens": self.outputs.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from saved memories.

        Args:
            state: what `state_dict` returned.

        Raises:
            KeyError: a column is missing.
            TypeError: the state is none.
        """
        arrivals = np.zeros(len(state["arrival_ms"]), IN_FLIGHT)
        for name in _REMEMBERED:
            arrivals[name] = [math.inf if value is None else value for value in state[name]]
        self.arrivals, self.outputs = arrivals, np.array(state["output_tokens"], np.int64)

    @property
    def known(self) -> bool:
        """Whether enough has come to guess from."""
        return len(self.arrivals) >= FEWEST_ARRIVALS

    def rate_per_ms(self, now_ms: float) -> float:
        """Mean arrivals per ms over what is remembered.

        Args:
            now_ms: engine time.
        """
        return len(self.arrivals) / max(now_ms - float(self.arrivals["arrival_ms"].min()), 1.0)

    @property
    def mean_output(self) -> float:
        """Mean output length."""
        return float(np.mean(self._believed_outputs()))

    @property
    def mean_prompt(self) -> float:
        """Mean prompt length, at least 1."""
        return max(float(np.mean(self.arrivals["prompt_tokens"])), 1.0)

    @property
    def mean_cached(self) -> float:
        """Mean prompt tokens that were found in the prefix cache."""
        return float(np.mean(self.arrivals["cached_tokens"]))

    def typical_ttft_ms(self) -> float:
        """What requests are promised, a figure that a few of them cannot set; infinite without a promise."""
        return typical_target(self.arrivals["ttft_target_ms"])

    def typical_tpot_ms(self) -> float:
        """Likewise for each token after the first."""
        return typical_target(self.arrivals["tpot_target_ms"])

    def futures(
        self,
        details: WindowDetails,
        count: int,
        length_ms: float,
        margin: float,
        rng: np.random.Generator,
        image_share: float = 0.0,
    ) -> list[Future]:
        """Guesses of what comes, each the recent past from another moment on, so that its bursts stay what they were.

        Args:
            details: of the window that just ended: who is in flight.
            count: how many guesses.
            length_ms: how far they reach.
            margin: share of its targets that a request is taken to have been promised.
            rng: draws the moments, the output lengths and the images.
            image_share: share of the requests not let in yet that have an image to encode.
        """
        times = self.arrivals["arrival_ms"]
        span = max(details.now_ms - times[0], length_ms)
        # One moment in each of `count` equal parts of the past: together they cover it evenly.
        offsets = (np.arange(count) + rng.random(count)) * span / count
        known = np.concatenate([details.running, details.waiting])
        futures = []
        for offset in offsets:
            ahead = (times - times[0] - offset) % span
            order = np.argsort(ahead, kind="stable")
            order = order[: np.searchsorted(ahead[order], length_ms)]
            coming = self.arrivals[order]
            coming["arrival_ms"] = details.now_ms + ahead[order]
            # What they will find is what those like them found.
            coming["computed_tokens"] = coming["cached_tokens"]
            coming["generated_tokens"] = 0
            coming["first_token_ms"] = np.nan
            requests = as_requests(np.concatenate([known, coming]))
            requests["ttft_target_ms"] *= margin
            requests["tpot_target_ms"] *= margin
            requests["output"] = requests["estimated_output"] = self._draw_outputs(requests["generated"], rng)
            to_encode = None
            if image_share > 0.0:
                to_encode = rng.random(len(requests)) < image_share
                to_encode[: len(details.running)] = False
            futures.append(Future(requests, len(details.running), len(details.waiting), to_encode))
        return futures

    def draw_outputs(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Output lengths like those that finished, shape (count,).

        Args:
            count: how many.
            rng: draws them.
        """
        return self._draw_outputs(np.zeros(count, np.int64), rng)

    def _draw_outputs(self, generated: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """An output length for each request, above what it has generated already."""
        outputs = np.sort(self._believed_outputs())
        shorter = np.searchsorted(outputs, generated, side="right")
        share = rng.random(len(generated))
        drawn = outputs[np.minimum(shorter + (share * (len(outputs) - shorter)).astype(np.int64), len(outputs) - 1)]
        beyond = generated + 1 + (share * outputs.mean()).astype(np.int64)
        return np.where(shorter < len(outputs), drawn, beyond)

    def _believed_outputs(self) -> NDArray[np.int64]:
        if len(self.outputs) >= _FEWEST_OUTPUTS:
            return self.outputs
        return np.concatenate([self.outputs, _PRIOR_OUTPUTS])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
