"""What will arrive: the recent trend, and what earlier days had at that time of day. Times in seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

_FORGET = 0.9


@dataclass(slots=True)
class Forecast:
    """Two forecasts of a rate, and their mean weighted by how well each did lately.

    The trend is Holt's double exponential smoothing (Holt 1957), damped, since no rate rises for ever (Gardner and
    McKenzie 1985). The season is the mean of what earlier periods had in the same slot, scaled by how this period
    compares with them so far.

    Attributes:
        smoothing: of level and trend, in (0, 1].
        damping: of the trend for each interval ahead, in (0, 1].
        period_s: of the season, a day; 0 for none.
        slot_s: width of a slot of the season.
    """

    smoothing: float = 0.4
    damping: float = 0.8
    period_s: float = 86_400.0
    slot_s: float = 300.0
    _level: float = math.nan
    _trend: float = 0.0
    _now_s: float = math.nan
    _interval_s: float = math.nan
    _errors: list[float] = field(default_factory=lambda: [0.0, 0.0])
    _slots: dict[int, list[float]] = field(default_factory=dict)
    _open: list[tuple[float, float, float]] = field(default_factory=list)

    def hear(self, now_s: float, rate: float) -> None:
        """Take in the rate of the interval that ends now.

        Args:
            now_s: the time, ascending.
            rate: of anything, >= 0.

        Raises:
            ValueError: the rate is negative or not finite, or the time does not ascend.
        """
        if not (math.isfinite(rate) and rate >= 0):
            raise ValueError(f"rate is {rate}; it must be >= 0 and finite")
        if now_s <= self._now_s:
            raise ValueError(f"now_s is {now_s}, not after {self._now_s}")
        self._judge(now_s, rate)
        if math.isnan(self._level):
            self._level = rate
        else:
            self._interval_s = now_s - self._now_s
            expected = self._level + self.damping * self._trend
            level = self.smoothing * rate + (1 - self.smoothing) * expected
            moved = level - self._level
            self._trend = self.smoothing * moved + (1 - self.smoothing) * self.damping * self._trend
            self._level = level
        self._now_s = now_s
        if self.period_s:
            kept = self._slots.setdefault(self._slot(now_s), [])
            kept.append(rate)

    def at(self, at_s: float) -> float:
        """The rate expected at a time, NaN before anything was heard.

        Args:
            at_s: the time, not before the last rate heard.
        """
        trend, season = self._both(at_s)
        self._open.append((at_s, trend, season))
        if math.isnan(season):
            return trend
        bad_trend, bad_season = self._errors
        total = bad_trend + bad_season
        return 0.5 * (trend + season) if total == 0 else (bad_season * trend + bad_trend * season) / total

    def _both(self, at_s: float) -> tuple[float, float]:
        if math.isnan(self._level):
            return math.nan, math.nan
        steps = 0.0 if math.isnan(self._interval_s) else (at_s - self._now_s) / self._interval_s
        reach = steps if self.damping == 1 else self.damping * (1 - self.damping**steps) / (1 - self.damping)
        return max(self._level + reach * self._trend, 0.0), self._season(at_s)

    def _season(self, at_s: float) -> float:
        then, now = self._earlier(at_s), self._earlier(self._now_s)
        if math.isnan(then) or math.isnan(now) or now == 0:
            return math.nan
        return then * self._level / now

    def _earlier(self, at_s: float) -> float:
        """The mean of what earlier periods had in the slot of a time, NaN if none had it."""
        if not self.period_s:
            return math.nan
        period = math.floor(at_s / self.period_s)
        slots = round(self.period_s / self.slot_s)
        known = [
            rate for earlier in range(period) for rate in self._slots.get(earlier * slots + self._within(at_s), [])
        ]
        return sum(known) / len(known) if known else math.nan

    def _within(self, at_s: float) -> int:
        return int(at_s % self.period_s // self.slot_s)

    def _slot(self, at_s: float) -> int:
        return math.floor(at_s / self.period_s) * round(self.period_s / self.slot_s) + self._within(at_s)

    def _judge(self, now_s: float, rate: float) -> None:
        for at_s, trend, season in self._open:
            if at_s <= now_s and not math.isnan(season):
                for k, foretold in enumerate((trend, season)):
                    self._errors[k] = _FORGET * self._errors[k] + abs(foretold - rate)
        self._open = [told for told in self._open if told[0] > now_s]
