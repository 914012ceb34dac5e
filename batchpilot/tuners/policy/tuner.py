"""A policy behind ask and tell: the last windows in, one move of each limit out."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from batchpilot.core import SLO, Limits, Tuner, WindowMetrics
from batchpilot.core.actions import ActionTable
from batchpilot.core.slo import within_promise
from batchpilot.tuners.policy.description import PolicyDescription
from batchpilot.tuners.policy.file import PolicyFile
from batchpilot.tuners.policy.network import Floats, Network
from batchpilot.tuners.policy.observation import Observation
from batchpilot.tuners.policy.oddity import WindowClock
from batchpilot.tuners.policy.position import Position


class PolicyTuner(Tuner):
    """Decides once a window, as the policy does in its environment; the first decision follows the first window.

    A window measured under other limits than those in force is not credited: it is counted and decides nothing. Those
    in force are the policy's own, unless it was overruled.

    Args:
        policy: what `read_policy` gave.
        slo: the promise, until windows tell their own.
        observation: what it looks at, to share with a rail; None makes one.
    """

    name = "policy"

    def __init__(self, policy: PolicyFile, *, slo: SLO | None = None, observation: Observation | None = None) -> None:
        self.policy = policy
        self._promised_ms = math.inf if slo is None else slo.tpot_ms
        self._observation = observation or Observation(policy.description.stack, len(policy.description.feature_names))
        self._position = Position(policy.description.table)
        self._lock = threading.Lock()
        self.reset()

    @classmethod
    def predicting(
        cls,
        predict: Callable[[Floats], Any],
        table: ActionTable,
        *,
        track: str = "limits",
        stack: int = 1,
        slo: SLO | None = None,
    ) -> PolicyTuner:
        """A tuner of any function from features to actions, to try an agent before it is exported.

        Args:
            predict: from raw features of shape (k * F,), oldest window first, to one action a limit; an error of its
                passes through `tell`.
            table: what its actions mean: attribute `table` of the environment that it was trained in.
            track: in which it competes.
            stack: windows that it looks at, k.
            slo: the promise, until windows tell their own.

        Raises:
            ValueError: table, track or stack is not what a policy can have.
        """
        # It stands in for a file's network, of which a tuner asks nothing else.
        decider = cast(Network, _Predicting(predict, table.sizes))
        return cls(PolicyFile(decider, PolicyDescription(track, table, stack), "predict", 0, "predict", 0), slo=slo)

    def ask(self) -> Limits:
        """The limits last decided."""
        return self._limits

    def tell(self, metrics: WindowMetrics) -> None:
        """Hear one window and decide; an odd one, or one of other limits, holds.

        Args:
            metrics: the window.
        """
        with self._lock:
            self._windows_heard += 1
            oddity = self._clock.oddity(metrics)
            if oddity is not None:
                self._odd_windows += 1
                self._reason = f"holding: {oddity}"
            elif metrics.limits is not self._in_force and metrics.limits != self._in_force:
                self._uncredited_windows += 1
                self._reason = "holding: the window was measured under other limits"
            else:
                self._decide(metrics)

    def overrule(self, in_force: Limits, go_on_from: Limits | None = None) -> None:
        """Hear that somebody else's limits were put into force: a rail's or a person's.

        Args:
            in_force: what the server runs with now; windows under it are credited.
            go_on_from: what takes the place of the policy's own limits; None where those are only capped.
        """
        with self._lock:
            if go_on_from is not None:
                self._limits = go_on_from
                self._position.follow(go_on_from, self._target_ms)
                self._reason = "going on from limits that were set from outside"
            self._in_force = self._limits if in_force == self._limits else in_force

    def reset(self, seed: int | None = None) -> None:
        """Start again from the policy's base limits.

        Args:
            seed: unused; a policy draws no random numbers.
        """
        with self._lock:
            self._clock = WindowClock()
            self._observation.clear()
            self._target_ms = self._promised_ms
            self._windows_heard = self._odd_windows = self._uncredited_windows = 0
            self._position.start(self._target_ms)
            self._limits = self._in_force = self._position.limits(self._target_ms)
            self._reason = "no window heard yet"

    def status(self) -> dict[str, Any]:
        """The limits' batch size, the reason of the last decision, and what was counted."""
        with self._lock:
            return {
                "phase": "POLICY",
                "current_batch_size": self._limits.batch_size,
                "reason": self._reason,
                "windows_heard": self._windows_heard,
                "odd_windows": self._odd_windows,
                "uncredited_windows": self._uncredited_windows,
                "track": self.policy.description.track,
                "policy": self.policy.digest[:12],
            }

    def state_dict(self) -> dict[str, Any]:
        """Position, observation, clock and counts as plain data."""
        with self._lock:
            return {
                "tuner": self.name,
                "policy": self.policy.digest,
                "limits": self._limits.to_dict(),
                "in_force": self._in_force.to_dict(),
                "notches": list(self._position.notches),
                "observation": self._observation.values.tolist(),
                "end_ms": _number_or_none(self._clock.end_ms),
                "tpot_target_ms": _number_or_none(self._target_ms),
                "counts": [self._windows_heard, self._odd_windows, self._uncredited_windows],
                "reason": self._reason,
            }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned.

        Raises:
            ValueError: the state is another tuner's or another policy's, or a field is missing or wrong; nothing is
                changed then.
        """
        if state.get("tuner") != self.name:
            raise ValueError(f"this is the state of {state.get('tuner')!r}, not of {self.name!r}")
        try:
            if state["policy"] != self.policy.digest:
                raise ValueError("this is the state of another policy file")
            limits, in_force = Limits.from_dict(state["limits"]), Limits.from_dict(state["in_force"])
            reason = str(state["reason"])
            notches = self._checked(state["notches"])
            values = np.array(state["observation"], np.float32)
            end_ms, target_ms = state["end_ms"], state["tpot_target_ms"]
            end_ms = -math.inf if end_ms is None else float(end_ms)
            target_ms = math.inf if target_ms is None else float(target_ms)
            heard, odd, uncredited = (int(count) for count in state["counts"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"the state of {self.name!r} is incomplete: {error!r}") from error
        with self._lock:
            self._observation.load(values)
            self._limits, self._in_force = limits, limits if in_force == limits else in_force
            self._position.notches, self._reason = notches, reason
            self._clock.end_ms, self._target_ms = end_ms, target_ms
            self._windows_heard, self._odd_windows, self._uncredited_windows = heard, odd, uncredited

    def _decide(self, window: WindowMetrics) -> None:
        if self._in_force is not self._limits:
            # A limit that it does not move was the same in all its training: it sees that one, whatever is in force.
            moved = {name: getattr(self._in_force, name) for name in self.policy.description.table.fields}
            window = replace(window, limits=self._limits.replace(**moved))
        self._observation.add(window)
        before = self._position.notches, self._target_ms
        actions = self.policy.network.decide(self._observation.values)
        if self._in_force is self._limits:
            self._position.move(actions)
        else:
            self._position.move_capped(actions, self._in_force, self._target_ms)
        target_ms = within_promise(window.tpot_target_ms, self._promised_ms)
        self._target_ms = self._promised_ms if math.isnan(target_ms) else target_ms
        if (self._position.notches, self._target_ms) == before:
            self._reason = "the policy holds"
        else:
            self._limits = self._position.limits(self._target_ms)
            self._reason = "the policy moves"
        self._in_force = self._limits

    def _checked(self, notches: Any) -> list[int]:
        """Notches that are on the table's grids."""
        whole = [int(notch) for notch in notches]
        grids = self.policy.description.table.grids
        if len(whole) != len(grids) or not all(
            0 <= notch < len(grid.values) for notch, grid in zip(whole, grids, strict=False)
        ):
            raise ValueError(f"notches {whole} are not on the grids of this policy")
        return whole


class _Predicting:
    def __init__(self, predict: Callable[[Floats], Any], sizes: Sequence[int]) -> None:
        self._predict, self._sizes = predict, tuple(sizes)

    def decide(self, features: Floats) -> list[int]:
        told = np.asarray(self._predict(features.copy())).reshape(-1)
        allowed = " x ".join(f"0..{size - 1}" for size in self._sizes)
        whole = [int(action) for action in told] if told.dtype.kind in "iu" else None
        if (
            whole is None
            or len(whole) != len(self._sizes)
            or not all(0 <= action < size for action, size in zip(whole, self._sizes, strict=True))
        ):
            raise ValueError(f"predict gave {told.tolist()}; allowed are whole numbers {allowed}")
        return whole


def _number_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
