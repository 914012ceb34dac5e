"""`clairvoyant`: a schedule of limits optimised with the future known, an upper reference found by search, not proven.

The search starts from the best fixed setting of the run and changes the setting of one block of decision windows at a
time, keeping a change only if the whole run, played to its end on the very requests and the very noise, then serves
more tokens within SLO. So it is never below `static-best`. Blocks shrink from 64 windows to one, or in
proportion in long runs. What a block may be
set to: the fixed settings that did best, the settings of the blocks beside it, and every single move from its own.

It knows more than any forecast could: each request, and each factor of noise. The gap to it is therefore an upper
bound of what is left to gain only as far as the search is good; a better schedule may exist.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from batchpilot.baselines.references.rollout import Rollouts
from batchpilot.baselines.references.static_best import best_statics, tightest_tpot_ms, track_grid
from batchpilot.core.limits import TRACKS, Limits
from batchpilot.core.metrics import WindowMetrics
from batchpilot.core.names import lookup
from batchpilot.core.tuner import Tuner
from batchpilot.envs.scenarios import PreparedRun

BLOCKS = (64, 16, 4, 1)
"""Windows whose settings are changed together, sweep by sweep."""

MOST_BLOCKS = 640
"""Blocks in the finest sweep; in a longer run all blocks are larger in proportion."""

ELITES = 8
"""Fixed settings, the best of the grid, that any block may take."""

_LARGEST = {"batch_size": 1024, "token_budget": 16384, "max_queued_tokens": 2**20}
_SMALLEST = {"batch_size": 1, "token_budget": 64, "max_queued_tokens": 256}


@dataclass(frozen=True)
class Found:
    """What the search found.

    Attributes:
        schedule: one setting a decision window; the last one stays in force.
        goodput: its share of the offered output tokens served within SLO.
        static_goodput: that of the fixed setting it started from.
        rollouts: runs that were tried.
    """

    schedule: tuple[Limits, ...]
    goodput: float
    static_goodput: float
    rollouts: int


class ScheduledTuner(Tuner):
    """Asks for the limits of a schedule, window after window, whatever it hears.

    Args:
        schedule: one setting a window, at least one; the last one stays.
        name: what tables call it.

    Raises:
        ValueError: an empty schedule.
    """

    def __init__(self, schedule: Sequence[Limits], name: str = "clairvoyant") -> None:
        if not schedule:
            raise ValueError("a schedule needs at least one setting")
        self.name = name
        self._schedule = tuple(schedule)
        self._window = 0

    def ask(self) -> Limits:
        """The window's limits."""
        return self._schedule[self._window]

    def tell(self, metrics: WindowMetrics) -> None:
        """Go on to the next window.

        Args:
            metrics: any window.
        """
        self._window = min(self._window + 1, len(self._schedule) - 1)

    def reset(self, seed: int | None = None) -> None:
        """Go back to the first window.

        Args:
            seed: unused.
        """
        self._window = 0

    def status(self) -> dict[str, Any]:
        """Where in the schedule it is."""
        limits = self.ask()
        return {
            "phase": "SCHEDULE",
            "current_batch_size": limits.batch_size,
            "is_stabilized": False,
            "reason": f"window {self._window} of {len(self._schedule)}: {limits}",
        }

    def state_dict(self) -> dict[str, Any]:
        """Schedule and place as plain data."""
        return {"tuner": "schedule", "schedule": [one.to_dict() for one in self._schedule], "window": self._window}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned.

        Raises:
            ValueError: the state is another tuner's, or a field is missing; nothing is changed then.
        """
        if state.get("tuner") != "schedule":
            raise ValueError(f"this is the state of {state.get('tuner')!r}, not of a schedule")
        try:
            schedule, window = tuple(Limits.from_dict(one) for one in state["schedule"]), int(state["window"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"the state of the schedule is incomplete: {error!r}") from error
        if not 0 <= window < len(schedule):
            raise ValueError(f"window {window} is not one of the schedule's {len(schedule)}")
        self._schedule, self._window = schedule, window


def clairvoyant(run: PreparedRun, track: str, blocks: Sequence[int] = BLOCKS) -> Found:
    """The best schedule that the search finds for one run.

    Args:
        run: the run, its future included.
        track: which limits may move.
        blocks: windows whose settings are changed together, one sweep each.

    Raises:
        ValueError: no such track.
    """
    fields = lookup(TRACKS, track, "track")
    elites, goodput = best_statics(run, track_grid(track, tightest_tpot_ms(run)), ELITES)
    search = _Search(Rollouts(run), fields, elites)
    offered = int(run.requests.output_tokens.sum())
    scale = math.ceil(len(search.schedule) / MOST_BLOCKS)
    for block in blocks:
        search.sweep(block * scale)
    share = search.tokens / offered if offered else goodput
    return Found(tuple(search.schedule), share, goodput, search.rollouts.rollouts)


@dataclass
class _Search:
    """Coordinate search over the settings of a schedule."""

    rollouts: Rollouts
    fields: tuple[str, ...]
    elites: list[Limits]
    schedule: list[Limits] = field(default_factory=list)
    tokens: int = 0

    def __post_init__(self) -> None:
        start = self.rollouts.encode(self.elites[:1])
        self.tokens = self.rollouts.tokens(start)
        while not self.rollouts.finished:
            self.rollouts.go_on(start, 1)
            self.schedule.append(self.elites[0])
        self.schedule = self.schedule or self.elites[:1]

    def sweep(self, block: int) -> None:
        """Try every candidate in every block of windows, first to last."""
        self.rollouts.rewind()
        encoded = self.rollouts.encode(self.schedule)
        for start in range(0, len(self.schedule), block):
            place = slice(start, min(start + block, len(self.schedule)))
            kept = encoded[place].copy()
            for candidate in dict.fromkeys(self._candidates(start, place.stop)):
                encoded[place] = self.rollouts.encode([candidate])[0]
                tokens = self.rollouts.tokens(encoded)
                if tokens > self.tokens:
                    self.tokens = tokens
                    kept = encoded[place].copy()
                    self.schedule[place] = [candidate] * (place.stop - start)
            encoded[place] = kept
            self.rollouts.go_on(encoded, place.stop - start)

    def _candidates(self, start: int, stop: int) -> Iterator[Limits]:
        now = self.schedule[start]
        yield from self.elites
        yield from self.schedule[max(start - 1, 0) : start]
        yield from self.schedule[stop : stop + 1]
        for name in self.fields:
            yield from _MOVES[name](now, name)


def _factors(limits: Limits, name: str) -> Iterator[Limits]:
    """Twice and half a count, and off where that is allowed."""
    value = getattr(limits, name)
    if value is None:
        yield limits.replace(**{name: 8 * _SMALLEST[name]})
        return
    yield limits.replace(**{name: min(2 * value, _LARGEST[name])})
    yield limits.replace(**{name: max(value // 2, _SMALLEST[name])})
    if name == "max_queued_tokens":
        yield limits.replace(max_queued_tokens=None)


def _setpoints(limits: Limits, name: str) -> Iterator[Limits]:
    """A quarter more and less of a setpoint of the inner loop, and off."""
    value = getattr(limits, name)
    if value is None:
        if name == "ttft_guard":
            yield limits.replace(ttft_guard=1.0)
        return
    yield limits.replace(**{name: 1.25 * value})
    yield limits.replace(**{name: 0.8 * value})
    yield limits.replace(**{name: None})


def _disciplines(limits: Limits, name: str) -> Iterator[Limits]:
    for discipline in ("fcfs", "spf"):
        yield limits.replace(discipline=discipline)


_MOVES: dict[str, Callable[[Limits, str], Iterator[Limits]]] = {
    "batch_size": _factors,
    "token_budget": _factors,
    "max_queued_tokens": _factors,
    "step_target_ms": _setpoints,
    "ttft_guard": _setpoints,
    "discipline": _disciplines,
}
