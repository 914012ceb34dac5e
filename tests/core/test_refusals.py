"""Which quarter of prompt lengths is refused too often, as a server can know it."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchpilot import Limits
from batchpilot.core.limits import DISCIPLINES
from batchpilot.core.refusals import BOUNDED, RefusedShares

prompts = st.lists(st.integers(1, 100_000), min_size=1, max_size=300)


@pytest.mark.parametrize("draw", ["lognormal", "uniform"])
def test_quarters_part_where_those_of_the_prompts_do(draw):
    rng = np.random.default_rng(3)
    lengths = rng.lognormal(6.0, 1.0, 3000) + 1 if draw == "lognormal" else rng.uniform(100, 2000, 3000)
    shares = RefusedShares()
    for length in lengths:
        shares.arrive(length)
    counts = np.bincount([shares.quarter(length) for length in lengths], minlength=4) / len(lengths)
    assert counts == pytest.approx(np.full(4, 0.25), abs=0.06)


def test_quarters_follow_prompts_that_become_longer():
    rng = np.random.default_rng(4)
    shares = RefusedShares()
    for length in rng.uniform(100, 200, 1000):
        shares.arrive(length)
    for length in rng.uniform(800, 1600, 1000):
        shares.arrive(length)
    assert 800 < shares.edges[0] < shares.edges[1] < shares.edges[2] < 1600


def test_a_quarter_goes_first_while_it_is_refused_by_more_than_the_bound_beyond_all():
    shares = RefusedShares()
    for length in (100, 200, 300, 400) * 50:
        shares.arrive(length)
    for _ in range(50):
        for length in (100, 200, 300, 4000):
            shares.decide(length, length == 4000)
    assert shares.overall == pytest.approx(0.25, abs=0.02)
    assert shares.goes_first(4000, 0.5)
    assert not shares.goes_first(4000, 0.8)
    assert not shares.goes_first(4000, math.inf)
    assert not shares.goes_first(100, 0.0)
    for _ in range(300):
        shares.decide(4000, False)
    assert not shares.goes_first(4000, 0.1)


@settings(max_examples=100, deadline=None)
@example([5, 1, 4], [False])
@given(prompts, st.lists(st.booleans(), min_size=1, max_size=300))
def test_edges_ascend_and_shares_are_shares(lengths, refused):
    shares = RefusedShares()
    for length in lengths:
        shares.arrive(length)
        assert all(edge > 0 for edge in shares.edges)
        assert shares.edges == sorted(shares.edges)
    for length, no in zip(lengths * (1 + len(refused) // len(lengths)), refused, strict=False):
        shares.decide(length, no)
        assert all(0.0 <= share <= 1.0 for share in (*shares.shares, shares.overall))


def test_nobody_goes_first_where_all_are_refused_alike():
    shares = RefusedShares()
    for length in range(1, 400):
        shares.arrive(length)
        shares.decide(length, True)
    assert not any(shares.goes_first(length, 0.0) for length in (1, 100, 200, 300, 400))


@pytest.mark.parametrize("bound", [-0.1, 1.1, math.nan])
def test_a_bound_is_a_share(bound):
    with pytest.raises(ValueError, match="refusal_bound"):
        Limits(8, refusal_bound=bound)


def test_disciplines_under_which_it_holds_are_disciplines():
    assert set(BOUNDED) < set(DISCIPLINES)
