"""Safety rails around a tuner: it proposes, each rail in turn may put other limits in place of what it proposed."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from batchpilot.core import Limits, Tuner, WindowMetrics
from batchpilot.tuners.policy.oddity import WindowClock
from batchpilot.tuners.rails.rail import Rail


@runtime_checkable
class Overrulable(Protocol):
    """A tuner that wants to know when other limits than its own are put into force."""

    def overrule(self, in_force: Limits, go_on_from: Limits | None = None) -> None:
        """Hear that somebody else's limits were put into force; windows under them count as asked for.

        Args:
            in_force: what the server runs with now.
            go_on_from: what takes the place of the tuner's own wish; None where that is only capped.
        """


class RailedTuner(Tuner):
    """A tuner between safety rails; goes by the tuner's name.

    The limits in force are its own word: windows under them reach the tuner as they are, so a tuner that is not
    `Overrulable` does not credit what it did not ask for. An odd window is counted, changes no rail and holds.

    Args:
        tuner: what proposes.
        rails: in order; the last one has the last word.
    """

    def __init__(self, tuner: Tuner, rails: Sequence[Rail]) -> None:
        self.name = tuner.name
        self._tuner = tuner
        self._rails = tuple(rails)
        self._overrule = tuner.overrule if isinstance(tuner, Overrulable) else None
        self._lock = threading.Lock()
        self._acting: tuple[str, ...] = ()
        self._begin()

    def ask(self) -> Limits:
        """The limits that the rails left."""
        return self._limits

    def tell(self, metrics: WindowMetrics) -> None:
        """Hear one window: first the tuner, then the rails, then the proposal goes through them.

        Args:
            metrics: the window.
        """
        with self._lock:
            self._tuner.tell(metrics)
            if self._clock.oddity(metrics) is None:
                for rail in self._rails:
                    rail.hear(metrics)
            self._limits = self._allowed()

    def reset(self, seed: int | None = None) -> None:
        """Forget everything learned, by the tuner and by the rails.

        Args:
            seed: the tuner's.
        """
        with self._lock:
            self._tuner.reset(seed)
            for rail in self._rails:
                rail.reset()
            self._begin()

    def status(self) -> dict[str, Any]:
        """The tuner's status, and the rails: which there are, which overrule now and why, how often each did."""
        with self._lock:
            reasons = [rail.reason for rail in self._rails if rail.name in self._acting]
            told = {
                **self._tuner.status(),
                "current_batch_size": self._limits.batch_size,
                "rails": ", ".join(rail.name for rail in self._rails),
                "rails_acting": ", ".join(self._acting),
                **{f"rail_{name}_windows": count for name, count in self._counts.items()},
            }
            if reasons:
                told["reason"] = "; ".join(reasons)
            return told

    def state_dict(self) -> dict[str, Any]:
        """The state of tuner and rails as plain data."""
        with self._lock:
            return {
                "tuner": self.name,
                "inner": self._tuner.state_dict(),
                "rails": {rail.name: rail.state_dict() for rail in self._rails},
                "counts": dict(self._counts),
                "acting": list(self._acting),
                "end_ms": None if self._clock.end_ms < 0.0 else self._clock.end_ms,
                "limits": self._limits.to_dict(),
            }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned.

        Raises:
            ValueError: the state is another tuner's, or a field is missing or wrong; nothing is changed then.
        """
        if state.get("tuner") != self.name:
            raise ValueError(f"this is the state of {state.get('tuner')!r}, not of {self.name!r}")
        before = self.state_dict()
        try:
            self._load(state)
        except (KeyError, TypeError, ValueError) as error:
            self._load(before)
            raise ValueError(f"the state of {self.name!r} is incomplete or wrong: {error!r}") from error

    def _load(self, state: Mapping[str, Any]) -> None:
        with self._lock:
            self._tuner.load_state_dict(state["inner"])
            for rail in self._rails:
                rail.load_state_dict(state["rails"][rail.name])
            self._counts = {rail.name: int(state["counts"][rail.name]) for rail in self._rails}
            self._acting = tuple(str(name) for name in state["acting"])
            self._clock.end_ms = float("-inf") if state["end_ms"] is None else float(state["end_ms"])
            self._limits = Limits.from_dict(state["limits"])

    def _begin(self) -> None:
        self._clock = WindowClock()
        self._counts = {rail.name: 0 for rail in self._rails}
        self._limits = self._allowed()

    def _allowed(self) -> Limits:
        """What the rails leave of the tuner's proposal; the tuner is told where it was overruled."""
        proposed = limits = self._tuner.ask()
        replaced: Limits | None = None
        acting = []
        for rail in self._rails:
            allowed = rail.allow(limits)
            if allowed is not limits:
                acting.append(rail.name)
                self._counts[rail.name] += 1
                limits = allowed
                replaced = allowed if rail.replaces else replaced
        self._acting = tuple(acting)
        if limits is not proposed and self._overrule is not None:
            self._overrule(limits, replaced)
        return limits
