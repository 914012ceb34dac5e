"""Shares under a bound on how uneven they may be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpilot.latency.planning.fair_shares import evenness, jain_index, share_fairly
from batchpilot.latency.planning.tenants import Tenant, share_tokens

RANKED = [Tenant("first", 1000, priority=0), Tenant("second", 1000, priority=1), Tenant("third", 1000, priority=2)]


@st.composite
def tenants(draw):
    made = []
    for index in range(draw(st.integers(1, 5))):
        wanted, quota = draw(st.floats(1, 1000)), draw(st.floats(0, 200))
        priority, weight = draw(st.integers(0, 2)), draw(st.floats(0.1, 10))
        made.append(Tenant(f"t{index}", wanted, quota, None, priority, weight))
    return made


@given(st.floats(0, 3000), tenants(), st.floats(0, 1))
def test_nothing_is_lost_and_the_bound_is_kept_wherever_weights_alone_keep_it(capacity, group, bound):
    ranked, fair = share_tokens(capacity, group), share_fairly(capacity, group, bound)
    assert sum(fair.values()) == pytest.approx(sum(ranked.values()), abs=1e-6)
    assert all(-1e-9 <= fair[tenant.name] <= tenant.wanted_tokens + 1e-6 for tenant in group)
    level = share_fairly(capacity, group, 1.0)
    assert evenness(fair, group) >= min(bound, evenness(level, group), 1.0) - 1e-6


def test_a_bound_moves_tokens_from_who_is_first_to_who_is_last_and_no_further_than_it_must():
    thirds = [share_fairly(1500, RANKED, bound)["third"] for bound in (0.0, 0.7, 0.9, 1.0)]
    assert thirds[0] == 0
    assert thirds == sorted(thirds)
    assert thirds[-1] == pytest.approx(500)
    assert evenness(share_fairly(1500, RANKED, 0.7), RANKED) == pytest.approx(0.7, abs=1e-6)


def test_quotas_are_kept_whatever_the_bound():
    group = [Tenant("quota", 900, quota_tokens=900), Tenant("other", 900)]
    assert share_fairly(1000, group, 1.0)["quota"] == pytest.approx(900)


@pytest.mark.parametrize("bound", [-0.1, 1.1])
def test_a_bound_outside_its_range_is_refused(bound):
    with pytest.raises(ValueError, match="least_evenness is"):
        share_fairly(100, RANKED, bound)


def test_the_index_is_one_over_n_for_one_of_n():
    assert jain_index([5, 0, 0, 0]) == pytest.approx(0.25)
