"""The request table: every workload, synthetic or replayed, as one struct of arrays. Times in ms, lengths in tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchpilot.core.slo import SLO
from batchpilot.workloads.checks import broadcast, check_beside, require, whole
from batchpilot.workloads.columns import put_end_to_end
from batchpilot.workloads.images import Images
from batchpilot.workloads.prefixes import Prefixes, put_together
from batchpilot.workloads.turns import Turns

PRIORITIES = {"high": 0, "normal": 1, "low": 2}
"""Priority classes P0, P1, P2 of the batching document; a smaller number is more urgent."""

MOST_TOKENS = 2**31 - 1
"""Longest prompt and output: an engine counts a request's tokens of a step in 32 bits."""

_DEFAULT_SLO = SLO()


@dataclass(frozen=True, eq=False)
class RequestTable:
    """Requests in order of arrival. Build one with `from_arrays`.

    Attributes:
        arrival_ms: arrival times, ascending, shape (n,), float64. In a closed loop they are ignored (see
            `concurrency`).
        prompt_tokens: prompt lengths, 1 to `MOST_TOKENS`, shape (n,), int64; the tokens of images are among them.
        output_tokens: tokens that will be generated, likewise, shape (n,), int64; the scheduler does not know them.
        estimated_output_tokens: what a length predictor says, >= 0, shape (n,), float64; SJF and fair sharing use it.
        slo_class: index into `slos`, shape (n,), int64.
        user: tenant number, >= 0, shape (n,), int64.
        priority: 0 high, 1 normal, 2 low, shape (n,), int64.
        slos: the SLO of each class.
        concurrency: 0 for an open loop; otherwise the number of clients that each send their next request, in table
            order, when their last one ends.
        skipped_rows: rows a reader left out.
        prefixes: block hashes of what the requests begin with; None where they have nothing in common.
        turns: which requests are turns of one conversation; None where each is alone. Of a later turn `arrival_ms` is
            when it would come if answers took no time, or came when it was recorded; in a run it comes its think time
            after the answer to the turn before.
        images: which requests have images, and which; None where none has.
    """

    arrival_ms: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    estimated_output_tokens: NDArray[np.float64]
    slo_class: NDArray[np.int64]
    user: NDArray[np.int64]
    priority: NDArray[np.int64]
    slos: tuple[SLO, ...] = (_DEFAULT_SLO,)
    concurrency: int = 0
    skipped_rows: int = 0
    prefixes: Prefixes | None = None
    turns: Turns | None = None
    images: Images | None = None

    def __repr__(self) -> str:
        """A summary in a line."""
        if not len(self):
            return "<RequestTable: no requests>"
        way = f"{self.concurrency} clients" if self.concurrency else f"in {self.duration_ms / 1000:,.1f} s"
        promises = "; ".join(f"TTFT {slo.ttft_ms:g} TPOT {slo.tpot_ms:g} ms" for slo in self.slos)
        return (
            f"<RequestTable: {len(self):,} requests, {way}, mean prompt {self.prompt_tokens.mean():,.0f}, "
            f"output {self.output_tokens.mean():,.0f} tokens, promised {promises}>"
        )

    @classmethod
    def from_arrays(
        cls,
        arrival_ms: ArrayLike,
        prompt_tokens: ArrayLike,
        output_tokens: ArrayLike,
        *,
        estimated_output_tokens: ArrayLike | None = None,
        slo_class: ArrayLike = 0,
        user: ArrayLike = 0,
        priority: ArrayLike = 1,
        slos: SLO | Sequence[SLO] = _DEFAULT_SLO,
        concurrency: int = 0,
        skipped_rows: int = 0,
        prefixes: Prefixes | None = None,
        turns: Turns | None = None,
        images: Images | None = None,
    ) -> RequestTable:
        """Build a table, sorting by arrival (ties keep their order).

        Args:
            arrival_ms: arrival times in ms, finite, shape (n,).
            prompt_tokens: prompt lengths, >= 1; broadcasts to (n,), as do all below.
            output_tokens: generated lengths, >= 1.
            estimated_output_tokens: a length predictor's answer, >= 0; None takes the true lengths (an oracle).
            slo_class: index into `slos`.
            user: tenant number, >= 0.
            priority: 0 high, 1 normal, 2 low.
            slos: one SLO, or one for each class.
            concurrency: clients of a closed loop, 0 for an open one.
            skipped_rows: rows a reader left out, kept for the record.
            prefixes: block hashes of each request; None for none.
            turns: conversations of the requests; None for none.
            images: of each request; None for none.

        Raises:
            ValueError: shapes do not agree, or a value is outside its bound; the message names column, row and value.
        """
        arrival = np.atleast_1d(np.asarray(arrival_ms, dtype=np.float64))
        if arrival.ndim != 1:
            raise ValueError(f"arrival_ms has shape {arrival.shape}; it must be one-dimensional")
        n = len(arrival)
        classes = (slos,) if isinstance(slos, SLO) else tuple(slos)
        if not classes:
            raise ValueError("slos is empty; give at least one SLO")
        if concurrency < 0:
            raise ValueError(f"concurrency is {concurrency}; it must be >= 0 (0 for an open loop)")
        require("arrival_ms", arrival, np.isfinite(arrival), "finite")
        prompt = whole("prompt_tokens", prompt_tokens, n, 1, MOST_TOKENS)
        output = whole("output_tokens", output_tokens, n, 1, MOST_TOKENS)
        if estimated_output_tokens is None:
            estimate = output.astype(np.float64)
        else:
            estimate = broadcast("estimated_output_tokens", estimated_output_tokens, n).astype(np.float64)
            require("estimated_output_tokens", estimate, np.isfinite(estimate) & (estimate >= 0), ">= 0")
        slo = whole("slo_class", slo_class, n, 0, len(classes) - 1)
        users = whole("user", user, n, 0)
        priorities = whole("priority", priority, n, 0, 2)
        check_beside(prompt, concurrency, prefixes, turns, images)
        order = np.argsort(arrival, kind="stable")
        return cls(
            arrival_ms=arrival[order],
            prompt_tokens=prompt[order],
            output_tokens=output[order],
            estimated_output_tokens=estimate[order],
            slo_class=slo[order],
            user=users[order],
            priority=priorities[order],
            slos=classes,
            concurrency=concurrency,
            skipped_rows=skipped_rows,
            prefixes=None if prefixes is None else prefixes.select(order),
            turns=None if turns is None else turns.select(order),
            images=None if images is None else images.select(order),
        )

    def __len__(self) -> int:
        return len(self.arrival_ms)

    @cached_property
    def user_codes(self) -> NDArray[np.int64]:
        """Users renumbered 0, 1, 2 ..., shape (n,): tenant numbers may be anything, arrays by user should be small."""
        return np.unique(self.user, return_inverse=True)[1].astype(np.int64)

    @property
    def users(self) -> int:
        """Number of different users, at least 1."""
        return int(self.user_codes.max(initial=0)) + 1

    @property
    def image_rows(self) -> int:
        """Rows that a table by image of a request and by image needs, 0 without images."""
        return 0 if self.images is None else self.images.side_px.size

    @property
    def duration_ms(self) -> float:
        """Time from the first arrival to the last, 0 for fewer than two requests."""
        return float(self.arrival_ms[-1] - self.arrival_ms[0]) if len(self) > 1 else 0.0

    @property
    def ttft_target_ms(self) -> NDArray[np.float64]:
        """TTFT target of each request, shape (n,)."""
        return np.array([slo.ttft_ms for slo in self.slos])[self.slo_class]

    @property
    def tpot_target_ms(self) -> NDArray[np.float64]:
        """TPOT target of each request, shape (n,)."""
        return np.array([slo.tpot_ms for slo in self.slos])[self.slo_class]

    def with_slos(self, slos: SLO | Sequence[SLO]) -> RequestTable:
        """The same requests under other promises.

        Args:
            slos: one SLO for all, or one for each class in use.

        Raises:
            ValueError: a class in use has no SLO.
        """
        if isinstance(slos, SLO):
            return replace(self, slos=(slos,), slo_class=np.zeros(len(self), dtype=np.int64))
        classes = tuple(slos)
        whole("slo_class", self.slo_class, len(self), 0, len(classes) - 1)
        return replace(self, slos=classes)

    def promised(self, ttft_ms: float | None = None, tpot_ms: float | None = None) -> RequestTable:
        """The same requests with one target for all of them; the other, or both, stay as they are.

        Args:
            ttft_ms: time to first token, > 0; None leaves each request its own.
            tpot_ms: time per token after it, > 0; None likewise.

        Raises:
            ValueError: a target is not above 0.
        """
        if ttft_ms is None and tpot_ms is None:
            return self
        return self.with_slos(
            [
                SLO(slo.ttft_ms if ttft_ms is None else ttft_ms, slo.tpot_ms if tpot_ms is None else tpot_ms, slo.name)
                for slo in self.slos
            ]
        )

    def with_arrivals(self, arrival_ms: NDArray[np.float64]) -> RequestTable:
        """The same requests with the arrival times that a run gave them, NaN for those that never arrived.

        Args:
            arrival_ms: shape (n,), ascending where not NaN, but for turns of conversations.
        """
        return replace(self, arrival_ms=arrival_ms)

    def select(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> RequestTable:
        """Some of the requests, in order.

        Args:
            rows: an index array, a mask of shape (n,) or a slice.
        """
        return replace(
            self,
            arrival_ms=self.arrival_ms[rows],
            prompt_tokens=self.prompt_tokens[rows],
            output_tokens=self.output_tokens[rows],
            estimated_output_tokens=self.estimated_output_tokens[rows],
            slo_class=self.slo_class[rows],
            user=self.user[rows],
            priority=self.priority[rows],
            prefixes=None if self.prefixes is None else self.prefixes.select(rows),
            turns=None if self.turns is None else self.turns.select(rows),
            images=None if self.images is None else self.images.select(rows),
        )

    def scale_rate(self, factor: float) -> RequestTable:
        """The same requests arriving `factor` times as fast; the first arrival stays where it is, so do think times.

        Args:
            factor: > 1 for more load.

        Raises:
            ValueError: the factor is not above 0.
        """
        if not factor > 0 or not np.isfinite(factor):
            raise ValueError(f"rate factor is {factor}; it must be above 0")
        if len(self) == 0:
            return self
        first = self.arrival_ms[0]
        return replace(self, arrival_ms=first + (self.arrival_ms - first) / factor)

    def window(self, start_ms: float, end_ms: float) -> RequestTable:
        """The requests that arrive in [start, end), with times counted from `start_ms`.

        Args:
            start_ms: first moment kept.
            end_ms: first moment left out.

        Raises:
            ValueError: the window is empty of time.
        """
        if not end_ms > start_ms:
            raise ValueError(f"window from {start_ms} to {end_ms} ms is empty; the end must lie after the start")
        first, last = np.searchsorted(self.arrival_ms, [start_ms, end_ms])
        part = self.select(slice(int(first), int(last)))
        return replace(part, arrival_ms=part.arrival_ms - start_ms)

    def loop(self, duration_ms: float) -> RequestTable:
        """The requests repeated end to end until `duration_ms` is filled; times counted from the first arrival.

        One period is the span plus one mean gap, so that the seam looks like any other gap. A repeated request shares
        no prefix and no image with those of another period: it stands for another one of its kind.

        Args:
            duration_ms: length wanted, > 0.

        Raises:
            ValueError: the table is empty, the duration is not above 0, or several requests share one only moment.
        """
        if len(self) == 0 or not duration_ms > 0:
            raise ValueError(f"cannot loop {len(self)} requests over {duration_ms} ms; both must be above 0")
        gap = self.duration_ms / (len(self) - 1) if len(self) > 1 else duration_ms
        period = self.duration_ms + gap
        if not period > 0:
            raise ValueError(f"{len(self)} requests that all arrive at one moment cannot be looped")
        copies = int(np.ceil(duration_ms / period))
        repeated = self.select(np.tile(np.arange(len(self)), copies))
        shifts = np.repeat(np.arange(copies) * period, len(self))
        arrival = repeated.arrival_ms - self.arrival_ms[0] + shifts
        group = np.repeat(np.arange(copies), len(self))
        prefixes = None if repeated.prefixes is None else repeated.prefixes.apart(group)
        turns = None if repeated.turns is None else repeated.turns.apart(group)
        images = None if repeated.images is None else repeated.images.apart(group)
        looped = replace(repeated, arrival_ms=arrival, prefixes=prefixes, turns=turns, images=images)
        return looped.select(arrival < duration_ms)


def concatenate(tables: Sequence[RequestTable]) -> RequestTable:
    """Tables merged into one by arrival time.

    Their SLO classes are kept apart unless they are equal, prefixes and images always.

    Args:
        tables: at least one table, all open-loop.

    Raises:
        ValueError: no table, one of them is a closed loop, or their block hashes are of different sizes.
    """
    if not tables:
        raise ValueError("nothing to concatenate; give at least one table")
    if any(table.concurrency for table in tables):
        raise ValueError("a closed loop cannot be merged with other requests")
    slos: list[SLO] = []
    classes = []
    for table in tables:
        index = []
        for slo in table.slos:
            if slo not in slos:
                slos.append(slo)
            index.append(slos.index(slo))
        classes.append(np.array(index)[table.slo_class])

    lengths = [len(table) for table in tables]

    def joined(column: str) -> NDArray[np.float64]:
        return np.concatenate([getattr(table, column) for table in tables])

    return RequestTable.from_arrays(
        joined("arrival_ms"),
        joined("prompt_tokens"),
        joined("output_tokens"),
        estimated_output_tokens=joined("estimated_output_tokens"),
        slo_class=np.concatenate(classes),
        user=joined("user"),
        priority=joined("priority"),
        slos=slos,
        skipped_rows=sum(table.skipped_rows for table in tables),
        prefixes=put_together([table.prefixes for table in tables], lengths),
        turns=put_end_to_end(Turns, [table.turns for table in tables], lengths),
        images=put_end_to_end(Images, [table.images for table in tables], lengths),
    )
