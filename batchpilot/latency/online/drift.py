"""Has the engine changed? Residuals of now against residuals of before, by the Kolmogorov-Smirnov test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.latency.online.history import COLUMNS, History
from batchpilot.latency.online.relative_loss import signed_errors
from batchpilot.latency.online.two_samples import (
    autocorrelation_time,
    ks_distance,
    ks_threshold,
    spent_level,
    where_it_changed,
)

Array = NDArray[np.float64]

WINDOW = 1000
LEVEL = 0.05
_LEAST_REFERENCE = 100
_EXACT = 1e-9


@dataclass(frozen=True, slots=True)
class Drift:
    """A change of the engine.

    Attributes:
        since: number of the observation from which the change is seen, an estimate.
        distance: Kolmogorov-Smirnov distance that gave the alarm.
        threshold: what it had to exceed.
        window: how many of the newest observations gave it away.
        severity: ratio, >= 1, of the mean |log(predicted / measured)| before and after the change; before is the larger
            where the parameters have followed the engine already.
    """

    since: int
    distance: float
    threshold: float
    window: int
    severity: float


class DriftDetector:
    """Compares the newest relative residuals with those after the last anchor, under the same parameters.

    The reference is the first `window` observations after the anchor; it may still be growing. It is kept as
    observations, so that both samples are judged by the parameters of the moment: an update never looks like a change
    of the engine. Two sizes of newest observations are tested, `window` for slight changes and `window // 10` for a
    quick answer to large ones.

    Tests repeat for as long as the server runs, over windows that overlap. Each therefore gets its share of the level
    (`spent_level`): the level is the chance of even one false alarm in an endless stationary stream, not
    the chance of each test. An alarm moves the anchor to the present, where a new stream begins.

    The test takes residuals to be independent. Where the model misses part of the truth they follow the slow tides of
    the load; the samples then count as smaller by the autocorrelation time of the reference, which dampens the alarms
    that a change of load alone gives, but cannot rule them out.

    Args:
        window: observations in the reference and in the larger recent sample, >= 100.
        level: chance of any false alarm, above 0 and below 1.

    Raises:
        ValueError: an argument is outside its bound.

    Source: throughput saturation document (window 1000, level 0.05); spent level and autocorrelation time are
    ours.
    """

    def __init__(self, window: int = WINDOW, level: float = LEVEL) -> None:
        if window < _LEAST_REFERENCE:
            raise ValueError(f"window is {window}; it must be >= {_LEAST_REFERENCE} observations")
        if not 0.0 < level < 1.0:
            raise ValueError(f"level is {level}; it must be above 0 and below 1")
        self.window = window
        self.level = level
        self.scales = (window // 10, window)
        self.tests = 0
        self._anchor = 0
        self._reference = np.empty((0, len(COLUMNS)))

    def check(self, history: History, parameters: Array) -> Drift | None:
        """Test the newest observations once.

        Args:
            history: everything kept.
            parameters: in field order, those that both samples are judged by.

        Returns:
            The change found, None without one or as long as there is too little to compare. After a change the
            observations from now on are the new reference.
        """
        self._extend_reference(history)
        newest = [history.newest(scale) for scale in self.scales]
        testable = [recent for recent in newest if self._comparable(recent)]
        if not testable:
            return None
        self.tests += 1
        level = spent_level(self.level, self.tests) / len(self.scales)
        for recent in testable:
            before = signed_errors(parameters, self._reference[: recent.first - self._anchor])
            after = signed_errors(parameters, recent.rows)
            reference, inertia = np.sort(before), autocorrelation_time(before)
            distance = ks_distance(reference, np.sort(after))
            threshold = ks_threshold(level, len(before) / inertia, len(after) / inertia)
            if distance > threshold:
                self.anchor(history.end)
                change = where_it_changed(reference, after)
                sizes = [max(float(np.mean(np.abs(errors))), _EXACT) for errors in (before, after[change:])]
                return Drift(recent.first + change, distance, threshold, len(recent), max(sizes) / min(sizes))
        return None

    def anchor(self, number: int) -> None:
        """Begin anew: the reference starts here, and the whole level may be spent again.

        Args:
            number: of the first observation of the new reference.
        """
        self.tests = 0
        self._anchor = number
        self._reference = np.empty((0, len(COLUMNS)))

    def state_dict(self) -> dict[str, Any]:
        """Anchor, reference and tests so far, as plain data."""
        return {"tests": self.tests, "anchor": self._anchor, "reference": self._reference.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        Args:
            state: what `state_dict` returned.

        Raises:
            ValueError: the state is no detector's; nothing is changed then.
        """
        try:
            tests, anchor = int(state["tests"]), int(state["anchor"])
            reference = np.asarray(state["reference"], dtype=np.float64).reshape(-1, len(COLUMNS))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is no saved drift detector: {error!r}") from None
        self.tests, self._anchor, self._reference = tests, anchor, reference

    def _extend_reference(self, history: History) -> None:
        missing = self.window - len(self._reference)
        if missing <= 0:
            return
        following = history.since(self._anchor + len(self._reference))
        if following.first > self._anchor + len(self._reference):
            # The buffer has turned over since the last look; the oldest observations kept are the reference now.
            self._anchor, self._reference = following.first, self._reference[:0]
            missing = self.window
        self._reference = np.concatenate((self._reference, following.rows[:missing]))

    def _comparable(self, recent: History) -> bool:
        """Whether a recent sample is whole and leaves enough reference before it."""
        full = len(recent) in self.scales
        return full and min(recent.first - self._anchor, len(self._reference)) >= _LEAST_REFERENCE
