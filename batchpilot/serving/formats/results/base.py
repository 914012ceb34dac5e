"""What a result file says, in one shape. Times in ms, lengths in tokens.

A request's times count from the moment it was due, as `batchpilot load` counts; a file that knows only when a request
was sent counts from there. TPOT is (E2E - TTFT) / (output - 1) throughout, whatever its author calls TPOT. No time is
below zero: a file whose clock went back is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.slo import SLO
from batchpilot.engines.scheduler.state import CANCELLED, FINISH_REASONS, LENGTH
from batchpilot.engines.simulated.result import SimulationResult
from batchpilot.serving.formats.results.entries import Entry
from batchpilot.workloads.readers.base import MAX_TOKENS
from batchpilot.workloads.table import RequestTable

ROUNDING_MS = 1e-3
"""Differences of seconds since 1970 are right to so much."""

NO_PROMISE = SLO(math.inf, math.inf, "none")
"""What is judged by where the reader of a file promises nothing."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request as a file tells it.

    Attributes:
        due_ms: when it was due, else sent, on the file's clock.
        prompt_tokens: its prompt, 0 for unknown.
        output_tokens: what came.
        ttft_ms: time to its first token, NaN without one.
        e2e_ms: time to its end, NaN where it has none.
        reason: how it ended, one of `FINISH_REASONS`.
        wanted_tokens: output that was asked for, None for unknown.
        token_ms: when each of its tokens came, on the file's clock; empty where the file does not say.
        late_ms: how long after it was due it was sent, NaN for unknown; below zero for one that was sent early.
        place: where it stands in the file, for messages; empty for its number.
    """

    due_ms: float
    prompt_tokens: int
    output_tokens: int
    ttft_ms: float
    e2e_ms: float
    reason: str = "length"
    wanted_tokens: int | None = None
    token_ms: Sequence[float] = ()
    late_ms: float = math.nan
    place: str = ""

    def check(self, number: int) -> None:
        """Refuse a request that cannot have been.

        Args:
            number: of it in its file.

        Raises:
            ValueError: a length or a time is out of bounds; the message names place, figure and value.
        """
        place = self.place.removesuffix(": ") or f"request {number}"
        if not math.isfinite(self.due_ms):
            raise ValueError(f"{place}: due_ms is {self.due_ms}; expected a number")
        for name in ("prompt_tokens", "output_tokens", "wanted_tokens"):
            value = getattr(self, name)
            if value is not None and not (0 <= value <= MAX_TOKENS and value == int(value)):
                raise ValueError(f"{place}: {name} is {value}; expected a whole number from 0 to {MAX_TOKENS}")
        for name, what in (("ttft_ms", "its first token"), ("e2e_ms", "its end")):
            value = getattr(self, name)
            if value < -ROUNDING_MS or math.isinf(value):
                raise ValueError(f"{place}: {name} is {value:g}; {what} must come no sooner than it was due")
        if self.e2e_ms < self.ttft_ms - ROUNDING_MS:
            raise ValueError(
                f"{place}: e2e_ms is {self.e2e_ms:g}, ttft_ms {self.ttft_ms:g}; its end must not come before its first "
                "token"
            )
        back = next((later for sooner, later in pairwise(self.token_ms) if later < sooner - ROUNDING_MS), None)
        if back is not None:
            raise ValueError(f"{place}: a token comes at {back:g} ms, behind a later one; times of tokens must grow")


@dataclass(frozen=True, eq=False)
class Requests:
    """Requests in order of coming, as columns of shape (n,).

    Attributes:
        due_ms: from the first one.
        prompt_tokens: prompts, >= 1; what a file does not tell is the median of those it tells.
        output_tokens: what came.
        wanted_tokens: what was asked for, >= 1; as above where the file does not tell.
        ttft_ms: NaN without a first token.
        e2e_ms: NaN without an end.
        finish_code: index into `FINISH_REASONS`.
        token_ms: when tokens came, from the first request's time; one array a request, empty where nobody says.
        late_ms: how late each was sent, NaN for unknown.
        guessed: requests whose prompt or wanted length the file does not tell.
    """

    due_ms: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    wanted_tokens: NDArray[np.int64]
    ttft_ms: NDArray[np.float64]
    e2e_ms: NDArray[np.float64]
    finish_code: NDArray[np.int8]
    token_ms: tuple[NDArray[np.float64], ...]
    late_ms: NDArray[np.float64]
    guessed: int

    @classmethod
    def of(cls, rows: Sequence[Request]) -> Requests:
        """Columns of requests.

        Args:
            rows: at least one, in any order.

        Raises:
            ValueError: there are none, or a time or a length is out of bounds; the message names request and value.
        """
        if not rows:
            raise ValueError("it holds no request")
        for number, row in enumerate(rows):
            row.check(number)
        rows = sorted(rows, key=lambda row: row.due_ms)
        first_ms = rows[0].due_ms
        output = np.array([row.output_tokens for row in rows], np.int64)
        served = np.array([row.reason == "length" for row in rows])
        prompts = np.array([row.prompt_tokens for row in rows], np.int64)
        told = [row.output_tokens if done else 0 for row, done in zip(rows, served, strict=True)]
        wanted = np.array(
            [given if row.wanted_tokens is None else row.wanted_tokens for row, given in zip(rows, told, strict=True)]
        )
        guessed = int(np.count_nonzero((prompts < 1) | (wanted < 1)))
        ttft_ms = np.maximum([row.ttft_ms for row in rows], 0.0)
        e2e_ms = np.array([row.e2e_ms for row in rows])
        return cls(
            np.array([row.due_ms - first_ms for row in rows]),
            _filled(prompts),
            output,
            np.maximum(_filled(wanted), output),
            ttft_ms,
            np.where(e2e_ms < ttft_ms, ttft_ms, e2e_ms),
            np.array([FINISH_REASONS.index(row.reason) for row in rows], np.int8),
            tuple(np.asarray(row.token_ms, np.float64) - first_ms for row in rows),
            np.array([row.late_ms for row in rows]),
            guessed,
        )

    def __len__(self) -> int:
        return len(self.due_ms)

    @property
    def tpot_ms(self) -> NDArray[np.float64]:
        """Mean time per token after the first, NaN for fewer than two."""
        apart = np.where(self.output_tokens > 1, self.output_tokens - 1.0, math.nan)
        tpot: NDArray[np.float64] = (self.e2e_ms - self.ttft_ms) / apart
        return tpot

    @property
    def times_tokens(self) -> bool:
        """Whether it is known when single tokens came."""
        return any(len(times) for times in self.token_ms)

    def table(self, slo: SLO = NO_PROMISE) -> RequestTable:
        """The requests as a workload: what was asked for, when it was due.

        Args:
            slo: what each was promised.
        """
        return RequestTable.from_arrays(self.due_ms, self.prompt_tokens, self.wanted_tokens, slos=slo)

    def outcome(self, slo: SLO = NO_PROMISE, elapsed_ms: float = math.nan) -> SimulationResult:
        """What became of them, judged by a promise.

        Args:
            slo: the promise.
            elapsed_ms: length of the test; NaN for the time to the last end.
        """
        requests, tpot = self.table(slo), self.tpot_ms
        ends = (self.due_ms + self.e2e_ms)[self.finish_code != CANCELLED]
        ends = ends[np.isfinite(ends)]
        if not elapsed_ms > 0:
            elapsed_ms = float(ends.max()) if len(ends) else float(self.due_ms[-1])
        in_time = (self.ttft_ms <= slo.ttft_ms) & ((self.output_tokens < 2) | (tpot <= slo.tpot_ms))
        tokens = int(self.output_tokens.sum())
        return SimulationResult(
            requests=requests,
            ttft_ms=self.ttft_ms,
            e2e_ms=self.e2e_ms,
            tpot_ms=tpot,
            generated_tokens=self.output_tokens,
            finish_code=self.finish_code,
            slo_met=(self.finish_code == LENGTH) & in_time,
            windows=[],
            elapsed_ms=elapsed_ms,
            computed_tokens=tokens,
            useful_tokens=tokens,
        )


@dataclass(frozen=True, eq=False)
class ImportedRun:
    """One run of a result file.

    Attributes:
        tool: who sent the load.
        name: the file, with the run's own name where it holds several.
        requests: single requests, None where the file tells only sums.
        stated: figures that the file states, by the name they have in `batchpilot load`'s results.
        elapsed_ms: length of the run, NaN for unknown.
        model: as the file names it, empty for unknown.
        notes: what was corrected, and what is not known.
        trace_scale: what due times are multiplied by to be those of the trace that was replayed.
    """

    tool: str
    name: str
    requests: Requests | None
    stated: Mapping[str, float]
    elapsed_ms: float = math.nan
    model: str = ""
    notes: tuple[str, ...] = ()
    trace_scale: float = 1.0


@dataclass(frozen=True)
class ResultFormat:
    """One kind of result file.

    Attributes:
        what: the tool and the option that writes it, for messages.
        fits: whether a file's content is of this kind.
        read: its runs; raises ValueError on content that is damaged, with the place.
        files: names it has in a folder of results, the best first.
    """

    what: str
    fits: Callable[[Any], bool]
    read: Callable[[Path, Entry], list[ImportedRun]]
    files: tuple[str, ...] = field(default=())


def known(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures that a file states.

    Args:
        figures: by name, NaN for those that it does not.
    """
    return {name: value for name, value in figures.items() if not math.isnan(value)}


def _filled(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Lengths, the median of the known ones in place of those below 1."""
    good = lengths[lengths >= 1]
    usual = int(np.median(good)) if len(good) else 1
    return np.where(lengths >= 1, lengths, usual).astype(np.int64)
