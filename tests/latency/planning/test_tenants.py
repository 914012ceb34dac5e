"""Shares of an engine: nobody beyond its want, nothing idle, quotas first, then priority, then weight."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.latency.planning.inverse import sla_inverse
from batchpilot.latency.planning.tenants import Tenant, share_step, share_tokens

amounts = st.floats(0, 1000)


@st.composite
def tenants(draw):
    made = []
    for index in range(draw(st.integers(1, 6))):
        quota = draw(amounts)
        ceiling = draw(st.none() | st.floats(quota, 2000))
        priority, weight = draw(st.integers(0, 2)), draw(st.floats(0.1, 10))
        made.append(Tenant(f"t{index}", draw(amounts), quota, ceiling, priority, weight))
    return made


@given(amounts, tenants())
def test_nobody_gets_more_than_it_wants_and_nothing_stays_idle(capacity, group):
    shares = share_tokens(capacity, group)
    for tenant in group:
        assert -1e-9 <= shares[tenant.name] <= tenant.wanted_tokens + 1e-6
    wanted = sum(tenant.wanted_tokens for tenant in group)
    assert sum(shares.values()) == pytest.approx(min(capacity, wanted), abs=1e-6)


@given(amounts, tenants())
def test_quotas_are_kept_when_they_fit_together(capacity, group):
    guaranteed = {tenant.name: min(tenant.quota_tokens, tenant.wanted_tokens) for tenant in group}
    shares = share_tokens(capacity, group)
    if sum(guaranteed.values()) <= capacity:
        assert all(shares[name] >= least - 1e-6 for name, least in guaranteed.items())


def test_the_urgent_go_first_and_equals_share_by_weight():
    shares = share_tokens(
        100, [Tenant("urgent", 40, priority=0), Tenant("a", 1000, weight=2.0), Tenant("b", 1000, weight=1.0)]
    )
    assert shares == pytest.approx({"urgent": 40, "a": 40, "b": 20})


def test_what_a_modest_tenant_leaves_goes_to_its_equals():
    shares = share_tokens(90, [Tenant("modest", 10), Tenant("a", 1000), Tenant("b", 1000)])
    assert shares == pytest.approx({"modest": 10, "a": 40, "b": 40})


def test_a_quota_protects_the_least_urgent():
    shares = share_tokens(100, [Tenant("urgent", 1000, priority=0), Tenant("night", 50, quota_tokens=30, priority=2)])
    assert shares == pytest.approx({"urgent": 70, "night": 30})


def test_a_step_is_shared_up_to_its_latency_target():
    p = SaturationParameters(10.0, 10.0, 0.01, tau_0=5.0)
    shares = share_step(p, 8, 4000, 50.0, [Tenant("a", 600), Tenant("b", 600)])
    assert sum(shares.values()) == pytest.approx(float(sla_inverse(p, 8, 50.0, 4000, 1200)))
    assert shares["a"] == pytest.approx(shares["b"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"demand_tokens": -1}, "demand_tokens of tenant x is -1"),
        ({"demand_tokens": 1, "weight": 0}, "weight of tenant x is 0"),
        ({"demand_tokens": 1, "quota_tokens": 5, "ceiling_tokens": 4}, "ceiling_tokens 4 of tenant x is below"),
    ],
)
def test_a_tenant_outside_its_bounds_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Tenant("x", **fields)


def test_two_tenants_of_one_name_are_refused():
    with pytest.raises(ValueError, match="name of their own"):
        share_tokens(1, [Tenant("x", 1), Tenant("x", 2)])
