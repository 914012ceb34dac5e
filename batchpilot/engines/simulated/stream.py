"""`simulate_stream`: requests that come table by table, in memory that does not grow with how many there are. In ms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.limits import Limits
from batchpilot.core.metrics import METRICS, MeasuredWindows, WindowMetrics
from batchpilot.core.tuner import Tuner
from batchpilot.engines.scheduler.details import believe
from batchpilot.engines.scheduler.state import UNFINISHED
from batchpilot.engines.scheduler.windows import run_windows
from batchpilot.engines.simulated.carrying import (
    cached,
    carry_over,
    features_kept,
    keep_cached,
    keep_features,
    keep_talking,
    unfinished,
)
from batchpilot.engines.simulated.config import EngineConfig
from batchpilot.engines.simulated.contents import numbers_each
from batchpilot.engines.simulated.engine import WINDOWS_AT_ONCE, SimulatedEngine
from batchpilot.engines.simulated.kernel import DONE, REACHED, STUCK
from batchpilot.engines.simulated.result import SimulationResult, collect
from batchpilot.workloads.columns import put_end_to_end
from batchpilot.workloads.images import Images
from batchpilot.workloads.prefixes import Prefixes, put_together
from batchpilot.workloads.table import RequestTable
from batchpilot.workloads.turns import Turns


def simulate_stream(
    tables: Iterable[RequestTable],
    config: EngineConfig,
    limits_or_tuner: Limits | Tuner,
    *,
    window_ms: float = 1000.0,
) -> Iterator[SimulationResult]:
    """Serve tables of requests one after another as one run: what happens is what `simulate` says of all of them.

    A table is loaded when the engine's time comes near the last arrival of the one before; requests that have not ended
    go on beside the new ones. Only the tuner's first guess of the typical promise is the first table's.

    Args:
        tables: of open loops, or of conversations, each whole in one table; none begins before the last arrival of the
            one before, turns that wait for answers aside, and times go on counting. They have the same SLO classes,
            equal block hashes stand for equal tokens, and images of equal numbers and sides are equal.
        config: the engine.
        limits_or_tuner: constant limits, or a tuner that studies no details.
        window_ms: length of a window, > 0.

    Yields:
        What became of the requests that ended since the last result, and the windows; `elapsed_ms`, `computed_tokens`
        and `useful_tokens` count from the start.

    Raises:
        ValueError: an argument is outside its bound, or a table does not go on where the last one ended.
    """
    if not (math.isfinite(window_ms) and window_ms > 0):
        raise ValueError(f"window_ms is {window_ms}; it must be above 0 ms")
    if getattr(limits_or_tuner, "needs_details", False):
        raise ValueError("the tuner studies details, which are not kept between tables; use simulate")
    stream = _Stream(config, limits_or_tuner, window_ms)
    coming = (table for table in tables if len(table))
    table = next(coming, None)
    while table is not None:
        following = next(coming, None)
        yield stream.serve(table, last=following is None)
        table = following


class _Stream:
    """One run over many tables.

    Args:
        config: the engine.
        limits_or_tuner: sets the limits.
        window_ms: length of a window.
    """

    def __init__(self, config: EngineConfig, limits_or_tuner: Limits | Tuner, window_ms: float) -> None:
        self._config, self._window_ms = config, window_ms
        self._tuner = None if isinstance(limits_or_tuner, Limits) else limits_or_tuner
        self._limits = limits_or_tuner if isinstance(limits_or_tuner, Limits) else limits_or_tuner.ask()
        self._engine: SimulatedEngine | None = None
        self._finish: dict[int, float] = {}
        self._last_ms = -math.inf
        self._images: dict[tuple[int, int], int] = {}
        self._hashes = np.zeros(0, np.int64)

    def serve(self, table: RequestTable, *, last: bool) -> SimulationResult:
        """Serve a table as far as its last arrival, or until everybody has ended.

        Args:
            table: the next requests.
            last: whether no more come.
        """
        if table.concurrency:
            raise ValueError("a stream is of open loops; the table is a closed one, whose requests follow its answers")
        # Later turns of conversations come whenever they are due.
        begun_ms = table.arrival_ms if table.turns is None else table.arrival_ms[table.turns.first()]
        if begun_ms[0] < self._last_ms:
            raise ValueError(
                f"a table begins at {begun_ms[0]:g} ms, before the last arrival of the one before, at "
                f"{self._last_ms:g} ms; give tables in order, their times counted from one start"
            )
        self._last_ms = float(begun_ms[-1])
        if not self._config.prefix_cache:
            table = replace(table, prefixes=None)
        engine = self._engine = self._with(table)
        until_ms = math.inf if last else self._last_ms + self._config.front_ms
        windows = (
            self._constant(engine, until_ms) if self._tuner is None else self._tuned(engine, until_ms, self._tuner)
        )
        return _ended(collect(engine, windows, 0.0))

    def _constant(self, engine: SimulatedEngine, until_ms: float) -> MeasuredWindows:
        """Windows under constant limits, none of which ends later unless a step does."""
        engine.set_limits(self._limits)
        parts, code, longest_ms = [np.zeros(0, METRICS)], REACHED, self._window_ms
        while code != DONE and engine.now_ms + self._window_ms <= until_ms:
            # Half of those that there seems to be time for: steps that cross their ends make windows longer.
            most = min((until_ms - engine.now_ms) / (2.0 * longest_ms), WINDOWS_AT_ONCE)
            records = np.zeros(max(int(most), 1), METRICS)
            measured, code = run_windows(engine.state, self._window_ms, math.inf, records.view(np.recarray))
            if code == STUCK:
                raise RuntimeError(f"the scheduler is stuck at {engine.now_ms} ms with limits {self._limits}")
            parts.append(records[:measured])
            longest_ms = max(longest_ms, float(parts[-1]["duration_ms"].max(initial=0.0)))
        return MeasuredWindows(self._limits, np.concatenate(parts))

    def _tuned(self, engine: SimulatedEngine, until_ms: float, tuner: Tuner) -> list[WindowMetrics]:
        """Windows after each of which a tuner is told and asked."""
        windows, done = [], False
        while not done and engine.now_ms + self._window_ms <= until_ms:
            engine.set_limits(tuner.ask())
            window, done = engine.run_window(engine.now_ms + self._window_ms)
            windows.append(window)
            tuner.tell(window)
            estimate = getattr(tuner, "estimate", None)
            if estimate is not None:
                believe(engine, estimate)
        return windows

    def _with(self, table: RequestTable) -> SimulatedEngine:
        """An engine with these requests and those that have not ended."""
        old = self._engine
        if old is None:
            self._images, self._hashes = _numbered(table.images), _different(table.prefixes)
            return SimulatedEngine(self._config, table)
        if old.requests.slos != table.slos:
            raise ValueError(f"tables of one stream have the same SLO classes; {table.slos} follow {old.requests.slos}")
        kept = unfinished(old.state)
        joined = _joined(old.requests.select(kept), table)
        names, numbered = {number: image for image, number in self._images.items()}, _numbered(joined.images)
        features = [names[number] for number in features_kept(old.state)]
        for image in features:
            numbered.setdefault(image, len(numbered))
        self._images = numbered
        contents = cached(old.state)
        parts = numbers_each(joined.prefixes, self._config.block_size)
        remembered = self._hashes[contents // parts]
        known = _different(joined.prefixes)
        self._hashes = np.concatenate([known, np.setdiff1d(remembered, known)])
        engine = SimulatedEngine(self._config, joined, images=len(numbered), blocks=parts * len(self._hashes))
        carry_over(old.state, engine.state, kept)
        if joined.turns is not None:
            keep_talking(old.state, engine.state, kept)
        order = np.argsort(self._hashes)
        number = order[np.searchsorted(self._hashes, remembered, sorter=order)]
        keep_cached(old.state, engine.state, kept, contents, parts * number + contents % parts)
        keep_features(engine.state, [numbered[image] for image in features])
        self._finish.update(
            zip(np.unique(old.requests.user).tolist(), old.state.users["finish"].tolist(), strict=False)
        )
        for code, user in enumerate(np.unique(engine.requests.user).tolist()):
            engine.state.users["finish"][code] = self._finish.get(user, 0.0)
        return engine


def _joined(first: RequestTable, second: RequestTable) -> RequestTable:
    columns: dict[str, Any] = {
        field.name: np.concatenate([getattr(first, field.name), getattr(second, field.name)])
        for field in fields(RequestTable)
        if isinstance(getattr(first, field.name), np.ndarray)
    }
    prefixes = put_together([first.prefixes, second.prefixes], [len(first), len(second)], of_one=True)
    turns = put_end_to_end(Turns, [first.turns, second.turns], [len(first), len(second)])
    return replace(second, **columns, prefixes=prefixes, turns=turns, images=_one_behind_another(first, second))


def _one_behind_another(first: RequestTable, second: RequestTable) -> Images | None:
    """Images of both tables: equal ones of one are equal to those of the other, since both are of one stream."""
    if first.images is None and second.images is None:
        return None
    parts = [table.images or Images.none(len(table)) for table in (first, second)]
    parts = [part.widened(max(one.most for one in parts)) for part in parts]
    return Images(*(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(Images)))


def _different(prefixes: Prefixes | None) -> NDArray[np.int64]:
    """The hashes of requests, by the number that `Prefixes.numbers` gives each."""
    return np.zeros(0, np.int64) if prefixes is None else np.unique(prefixes.hashes)


def _numbered(images: Images | None) -> dict[tuple[int, int], int]:
    """The scheduler's number of each image, by its own number and side."""
    if images is None:
        return {}
    contents = images.contents()
    columns = (images.number, images.side_px, contents)
    each = zip(*(column.ravel().tolist() for column in columns), strict=True)
    return {(number, side): content for number, side, content in each if content >= 0}


def _ended(result: SimulationResult) -> SimulationResult:
    """What is told of the requests that have ended."""
    rows = result.finish_code != UNFINISHED
    columns = {
        field.name: getattr(result, field.name)[rows]
        for field in fields(SimulationResult)
        if field.name != "step_log" and isinstance(getattr(result, field.name), np.ndarray)
    }
    return replace(result, requests=result.requests.select(rows), **columns)
