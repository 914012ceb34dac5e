"""Growth: fitted to what is known of the past, and what it asks for."""

import math

import numpy as np
import pytest

from batchpilot.latency.planning.growth import HOURS, SURE, Growth, expansion, fit_growth


def engines_for(rate):
    return max(1, math.ceil(rate / 5.0))


def test_growth_without_chance_is_found_exactly():
    months = [0, 1, 2, 5, 9]
    fitted = fit_growth(months, [3.0 * 1.07**month for month in months])
    assert fitted.monthly == pytest.approx(0.07)
    assert fitted.rate_per_s == pytest.approx(3.0 * 1.07**9)
    assert fitted.planned(6) == pytest.approx(fitted.expected(6))


def test_what_is_planned_for_is_kept_as_often_as_is_said():
    rng = np.random.default_rng(0)
    months, ahead, kept = np.arange(12), 6, 0
    for _ in range(2000):
        past = 10 * 1.05**months * np.exp(rng.normal(0, 0.1, 12))
        future = 10 * 1.05 ** (11 + ahead) * math.exp(rng.normal(0, 0.1))
        kept += future <= fit_growth(months, past).planned(ahead)
    assert kept / 2000 == pytest.approx(SURE, abs=0.04)


def test_no_month_is_short_and_nothing_is_ordered_late_that_could_be_in_time():
    growth = Growth(20.0, 0.1)
    plan = expansion(growth, engines_for, 24, 2.0, 1.5)
    for month in plan:
        assert month.engines * 5.0 >= max(growth.expected(month.month - 1), growth.expected(month.month))
        assert month.order_by == month.month - 1 - 2.0
    assert sum(month.added for month in plan) == plan[-1].engines
    assert all((month.engines - 1) * 5.0 < growth.expected(month.month) for month in plan)


def test_cost_adds_up_and_devices_stay_while_traffic_falls():
    plan = expansion(Growth(20.0, -0.2), engines_for, 6, 1.0, 2.0)
    assert {month.engines for month in plan} == {4}
    assert plan[-1].usd_so_far == pytest.approx(6 * 4 * 2.0 * HOURS)
    assert math.isnan(expansion(Growth(20.0, 0.1), engines_for, 1, 1.0, math.nan)[0].usd)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: fit_growth([1, 2, 3], [1, 2, 3]), "at least 4"),
        (lambda: fit_growth([1, 2, 3, 4], [1, 2, 0, 3]), "above 0"),
        (lambda: fit_growth([1, 1, 1, 1], [1, 2, 3, 4]), "one moment"),
        (lambda: Growth(0.0, 0.1), "rate_per_s"),
        (lambda: Growth(1.0, -1.0), "-100 %"),
        (lambda: expansion(Growth(1.0, 0.1), engines_for, 0, 1.0, 1.0), "months is 0"),
        (lambda: expansion(Growth(1.0, 0.1), engines_for, 1, -1.0, 1.0), "lead_months -1"),
    ],
)
def test_what_makes_no_sense_is_refused(call, told):
    with pytest.raises(ValueError, match=told):
        call()
