"""Jain's index over users, as the fair discipline should raise it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpilot import SLO, Limits, RequestTable, SaturationParameters, simulate
from batchpilot.engines.simulated.fairness import fairness, jain_index, served_by_user

SLOW = SaturationParameters(p_max=4.0, k_b=10.0, k_s=0.01, tau_0=8.0)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.floats(0.01, 100))
def test_the_index_lies_between_one_over_n_and_one_and_knows_no_unit(shares, unit):
    index = jain_index(shares)
    assert 1 / len(shares) - 1e-9 <= index <= 1 + 1e-9
    assert jain_index([unit * share for share in shares]) == pytest.approx(index, rel=1e-6)


def test_its_ends():
    assert jain_index([5, 5, 5]) == 1
    assert jain_index([7, 0, 0, 0]) == 0.25
    assert jain_index([0, 0]) == 1
    assert math.isnan(jain_index([]))
    with pytest.raises(ValueError, match="below 0"):
        jain_index([1, -1])


def crowded() -> RequestTable:
    """A user who sends a hundred requests at once, before nine who send two each a second later."""
    arrival = np.concatenate([np.zeros(100), np.full(18, 1000.0)])
    user = np.concatenate([np.zeros(100, int), np.repeat(np.arange(1, 10), 2)])
    return RequestTable.from_arrays(arrival, np.full(118, 100), np.full(118, 20), user=user, slos=SLO(3000.0, 500.0))


def test_fair_queueing_serves_users_more_alike_than_first_come_first_served():
    index = {
        discipline: fairness(simulate(crowded(), SLOW, Limits(4, 256, ttft_guard=1.0, discipline=discipline)))
        for discipline in ("fcfs", "fair")
    }
    assert index["fair"] > 0.85
    assert index["fcfs"] < index["fair"] - 0.1


def test_served_tokens_are_counted_by_user_and_weighed():
    result = simulate(crowded(), SLOW, Limits(4, 256, ttft_guard=1.0, discipline="fair"))
    served = served_by_user(result)
    assert sum(tokens for tokens, _ in served.values()) == result.generated_tokens[result.slo_met].sum()
    assert [asked for _, asked in served.values()] == [2000] + [40] * 9
    alike = fairness(result, {user: max(tokens, 1) for user, (tokens, _) in served.items()})
    assert alike == pytest.approx(1)
    with pytest.raises(ValueError, match="weight of user 3 is None"):
        fairness(result, {user: 1.0 for user in served if user != 3})
