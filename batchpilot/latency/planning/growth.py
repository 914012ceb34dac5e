"""Growing traffic: what the past says of the rate to come, and when devices must be ordered for it. Times in months."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

FEWEST = 4
"""Rates of the past below which a fit would know nothing of its own error."""

SURE = 0.9
"""Probability that a month's rate lies below what is planned for."""


@dataclass(frozen=True, slots=True)
class Growth:
    """A rate that grows by the same factor every month, and how sure that is.

    Attributes:
        rate_per_s: now, > 0.
        monthly: growth a month, 0.05 for 5 %, > -1.
        error: standard error of a month's logarithm, what scatters about the line; 0 where growth is given.
        slope_error: standard error of the logarithm of the monthly factor.
        freedom: degrees of freedom of both; infinite where growth is given.

    Raises:
        ValueError: a value is outside its bound.
    """

    rate_per_s: float
    monthly: float
    error: float = 0.0
    slope_error: float = 0.0
    freedom: float = math.inf

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate_per_s) and self.rate_per_s > 0):
            raise ValueError(f"rate_per_s is {self.rate_per_s}; it must be above 0")
        if not (math.isfinite(self.monthly) and self.monthly > -1):
            raise ValueError(f"growth is {self.monthly:.0%} a month; it must be above -100 %")

    def expected(self, months: float) -> float:
        """The rate in so many months.

        Args:
            months: from now, >= 0.
        """
        return float(self.rate_per_s * (1.0 + self.monthly) ** months)

    def planned(self, months: float) -> float:
        """The rate below which that month's lies with probability `SURE`.

        Args:
            months: from now, >= 0.
        """
        if math.isinf(self.freedom):
            return self.expected(months)
        from scipy.special import stdtrit

        spread = math.hypot(self.error, self.slope_error * months)
        return self.expected(months) * math.exp(float(stdtrit(self.freedom, SURE)) * spread)


def fit_growth(months: Sequence[float], rates_per_s: Sequence[float]) -> Growth:
    """A line through the logarithms of past rates, by least squares; its last month is now.

    Args:
        months: when, in any order, from any origin.
        rates_per_s: the rate then, > 0, as many.

    Raises:
        ValueError: too few rates, one that is not above 0, or all of one moment.
    """
    t, rate = np.asarray(months, np.float64), np.asarray(rates_per_s, np.float64)
    if len(t) != len(rate) or len(t) < FEWEST:
        raise ValueError(
            f"{len(rate)} rates at {len(t)} times; at least {FEWEST} are needed to tell growth from chance"
        )
    if not (np.isfinite(t).all() and np.isfinite(rate).all() and (rate > 0).all()):
        raise ValueError("every past rate must be above 0 and finite")
    if np.ptp(t) == 0:
        raise ValueError("all past rates are of one moment; give several")
    from scipy import stats

    line = stats.linregress(t, np.log(rate))
    now, freedom = float(t.max()), len(t) - 2
    residual = np.log(rate) - (line.intercept + line.slope * t)
    error = math.sqrt(float((residual**2).sum()) / freedom)
    centre = now - float(t.mean())
    level_error = error * math.sqrt(1 / len(t) + centre**2 / float(((t - t.mean()) ** 2).sum()))
    return Growth(
        rate_per_s=math.exp(line.intercept + line.slope * now),
        monthly=math.expm1(float(line.slope)),
        error=math.hypot(error, level_error),
        slope_error=float(line.stderr),
        freedom=freedom,
    )


@dataclass(frozen=True, slots=True)
class Month:
    """A month of the plan.

    Attributes:
        month: 1 begins now.
        expected_per_s: rate expected at its end.
        planned_per_s: rate planned for, the month's highest.
        engines: that serve it.
        added: more than the month before.
        order_by: months from now when they must be ordered, for the month's beginning; below 0 that is past.
        usd: cost of the month's devices, NaN without a price.
        usd_so_far: cost up to its end.
    """

    month: int
    expected_per_s: float
    planned_per_s: float
    engines: int
    added: int
    order_by: float
    usd: float
    usd_so_far: float


HOURS = 365.25 * 24 / 12
"""Of a month."""


def expansion(
    growth: Growth, engines_for: Callable[[float], int], months: int, lead_months: float, usd_per_engine_hour: float
) -> list[Month]:
    """What each month needs, when it is ordered and what it costs; what is there is kept while traffic falls.

    Args:
        growth: of the rate.
        engines_for: engines that a rate needs.
        months: how far to look, >= 1.
        lead_months: from the order until an engine serves, >= 0.
        usd_per_engine_hour: price, NaN where none is known.

    Raises:
        ValueError: an argument is outside its bound.
    """
    if months < 1 or not lead_months >= 0:
        raise ValueError(f"months is {months} and lead_months {lead_months:g}; they must be >= 1 and >= 0")
    plan: list[Month] = []
    kept, spent = 0, 0.0
    for month in range(1, months + 1):
        highest = max(growth.planned(month - 1), growth.planned(month))
        engines = max(engines_for(highest), kept)
        usd = engines * HOURS * usd_per_engine_hour
        spent += usd
        plan.append(
            Month(
                month,
                growth.expected(month),
                highest,
                engines,
                engines - kept,
                month - 1 - lead_months,
                usd,
                spent,
            )
        )
        kept = engines
    return plan
