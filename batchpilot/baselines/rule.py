"""A controller as one rule: what its paper or source says, apart from the ask/tell that all of them need.

A rule is a dataclass of plain values, so that saving it is `asdict`; `RuleTuner` makes a thread-safe tuner of it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from operator import attrgetter
from typing import Any, ClassVar, Protocol, TypeVar

from batchpilot.core import Limits, Tuner, WindowMetrics
from batchpilot.core.metrics import COUNT_NAMES, METRIC_NAMES
from batchpilot.core.slo import can_be_aimed_at

_AMOUNTS = ("start_ms", "duration_ms", "busy_ms", "batch_size_mean")
_OPEN_ENDED = ("ttft_target_ms", "tpot_target_ms")
_counts, _amounts, _open_ended = attrgetter(*COUNT_NAMES), attrgetter(*_AMOUNTS), attrgetter(*_OPEN_ENDED)
_perhaps_unknown = attrgetter(*(n for n in METRIC_NAMES if n not in {*COUNT_NAMES, *_AMOUNTS, *_OPEN_ENDED}))
_HUGE = 1e15


class Rule(Protocol):
    """How a controller moves its limits. An implementation is a dataclass whose fields are all its state."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def start(self) -> Limits:
        """The limits before the first window."""

    def decide(self, window: WindowMetrics, limits: Limits) -> tuple[Limits, str]:
        """The limits after a window, and why.

        Args:
            window: plausible measurements, taken under `limits`; latencies may be NaN.
            limits: the limits in force.
        """


class RuleTuner(Tuner):
    """A tuner that follows one rule.

    A window counts if it was measured under the limits asked for, holds no impossible count and does not lie before the
    one heard last; the others are counted and change nothing.

    Args:
        name: what tables call it.
        make_rule: a fresh rule for a seed.
        seed: of the rule's random draws, if it makes any.
    """

    _rule: Rule
    _limits: Limits
    _reason: str
    _windows_heard: int
    _odd_windows: int
    _last_start_ms: float

    def __init__(self, name: str, make_rule: Callable[[int], Rule], seed: int = 0) -> None:
        self.name = name
        self._make_rule, self._seed = make_rule, seed
        self._lock = threading.Lock()
        self.reset()

    def ask(self) -> Limits:
        """The rule's present limits."""
        return self._limits

    def tell(self, metrics: WindowMetrics) -> None:
        """Let the rule decide.

        Args:
            metrics: the window.
        """
        with self._lock:
            self._windows_heard += 1
            if metrics.limits != self._limits:
                return
            before, self._last_start_ms = self._last_start_ms, metrics.start_ms
            if not _plausible(metrics) or metrics.start_ms < before:
                self._odd_windows += 1
                return
            self._limits, self._reason = self._rule.decide(metrics, self._limits)

    def reset(self, seed: int | None = None) -> None:
        """Start again with a fresh rule.

        Args:
            seed: of its random draws; None keeps the constructor's.
        """
        self._rule = self._make_rule(self._seed if seed is None else seed)
        self._limits = self._rule.start()
        self._reason = "no window heard yet"
        self._windows_heard = self._odd_windows = 0
        self._last_start_ms = -math.inf

    def status(self) -> dict[str, Any]:
        """The batch size and the reason of the last decision."""
        with self._lock:
            return {
                "phase": self.name.upper(),
                "current_batch_size": self._limits.batch_size,
                "limits": str(self._limits),
                "reason": self._reason,
                "windows_heard": self._windows_heard,
                "odd_windows": self._odd_windows,
            }

    def state_dict(self) -> dict[str, Any]:
        """The rule and its limits as plain data."""
        with self._lock:
            return {
                "tuner": self.name,
                "rule": asdict(self._rule),
                "limits": self._limits.to_dict(),
                "reason": self._reason,
                "windows_heard": self._windows_heard,
                "odd_windows": self._odd_windows,
                "last_start_ms": self._last_start_ms if math.isfinite(self._last_start_ms) else None,
            }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; a clock that started anew costs one window, as it does without saving.

        Args:
            state: what `state_dict` returned.

        Raises:
            ValueError: the state is another tuner's, or a field is missing or of another kind; nothing is changed then.
        """
        if state.get("tuner") != self.name:
            raise ValueError(f"this is the state of {state.get('tuner')!r}, not of {self.name!r}")
        try:
            rule = restored(self._make_rule(self._seed), state["rule"])
            limits, reason = Limits.from_dict(state["limits"]), str(state["reason"])
            heard, odd = int(state["windows_heard"]), int(state["odd_windows"])
            last = state["last_start_ms"]
            last_start_ms = -math.inf if last is None else float(last)
        except (KeyError, TypeError) as error:
            raise ValueError(f"the state of {self.name!r} is incomplete: {error!r}") from error
        with self._lock:
            self._rule, self._limits, self._reason = rule, limits, reason
            self._windows_heard, self._odd_windows = heard, odd
            self._last_start_ms = last_start_ms


Value = TypeVar("Value")


def restored(fresh: Value, data: Any) -> Value:
    """A value of the same kind as `fresh` from the plain data that `asdict` made of one like it.

    Args:
        fresh: a dataclass instance, limits, list, text, number or None.
        data: plain data.

    Raises:
        ValueError: a field is missing, unknown or of another kind.
    """
    if isinstance(fresh, Limits):
        return Limits.from_dict(data)  # type: ignore[return-value]
    if is_dataclass(fresh) and not isinstance(fresh, type):
        names = {field.name for field in fields(fresh)}
        if not isinstance(data, Mapping) or set(data) != names:
            raise ValueError(f"{type(fresh).__name__} needs the fields {', '.join(sorted(names))}")
        return replace(fresh, **{name: restored(getattr(fresh, name), data[name]) for name in names})
    if _kind(fresh) is not _kind(data):
        raise ValueError(f"{data!r} is not of the kind of {fresh!r}")
    return data  # type: ignore[no-any-return]


def known_target(given: float | None, told: float) -> float | None:
    """The latency target to steer by: the one given, else the windows'; None while nobody knows one to aim at.

    Args:
        given: the operator's target in ms, if any.
        told: the window's, in ms, NaN if unknown.
    """
    target = told if given is None else given
    return target if can_be_aimed_at(target) else None


def _kind(value: object) -> type:
    """Numbers of any sort are one kind, and None may become one."""
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return float
    return type(value)


def _plausible(window: WindowMetrics) -> bool:
    """Whether a rule may calculate with every field: none negative or huge, unknown (NaN) only what may be."""
    return (
        all(count == 0 or 1 <= count < _HUGE for count in _counts(window))
        and all(0 <= amount < _HUGE for amount in _amounts(window))
        and all(not value < 0 and not value >= _HUGE for value in _perhaps_unknown(window))
        and all(not ms < 0 and (ms == math.inf or not ms >= _HUGE) for ms in _open_ended(window))
    )
