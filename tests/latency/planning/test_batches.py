"""Greedy batches: never beyond the target, and nothing left out that would still fit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.latency.planning.batches import build_batch

P = SaturationParameters(10.0, 10.0, 0.01, tau_0=5.0, tau_b=0.05, tau_c=1e-4)
candidates = st.lists(st.tuples(st.integers(1, 2000), st.integers(0, 8000)), max_size=40)


@settings(deadline=None)
@given(candidates, st.floats(1, 300), st.booleans())
def test_a_batch_keeps_its_target_and_tells_its_time(asked, target_ms, cut):
    tokens, context = np.array(asked, dtype=np.int64).reshape(-1, 2).T
    batch = build_batch(P, tokens, context, target_ms, cut=cut)
    if len(batch.rows) == 0:
        assert batch.step_ms == 0
        return
    told = float(P.predict(len(batch.rows), batch.tokens.sum(), context[batch.rows].sum()))
    assert batch.step_ms == pytest.approx(told)
    assert batch.step_ms <= target_ms
    assert (batch.tokens <= tokens[batch.rows]).all()


@settings(deadline=None)
@given(candidates, st.floats(1, 300))
def test_no_candidate_that_was_passed_over_would_still_fit(asked, target_ms):
    tokens, context = np.array(asked, dtype=np.int64).reshape(-1, 2).T
    batch = build_batch(P, tokens, context, target_ms)
    for row in set(range(len(asked))) - set(batch.rows.tolist()):
        more = P.predict(
            len(batch.rows) + 1, batch.tokens.sum() + tokens[row], context[batch.rows].sum() + context[row]
        )
        assert float(more) > target_ms


def test_a_long_prompt_is_passed_over_or_cut():
    whole = build_batch(P, [4000, 10], 0, 60.0)
    assert whole.rows.tolist() == [1]
    in_part = build_batch(P, [4000, 10], 0, 60.0, cut=True)
    assert in_part.rows[0] == 0
    assert 10 < in_part.tokens[0] < 4000
    assert float(P.predict(1, in_part.tokens[0] + 1)) > 60.0


SLOW_ALONE = SaturationParameters(20.0, 0.15, 0.005, tau_0=10.0, tau_b=0.02, tau_c=1e-4)
"""One request alone misses what eight meet together."""


def test_requests_that_miss_the_target_alone_may_meet_it_together():
    assert float(SLOW_ALONE.predict(1, 40)) > 60.0
    batch = build_batch(SLOW_ALONE, [40] * 8, 0, 60.0)
    assert batch.rows.tolist() == list(range(8))
    assert batch.step_ms == pytest.approx(float(SLOW_ALONE.predict(8, 320)))
    assert batch.step_ms <= 60.0


def test_a_request_whose_company_is_missing_is_not_taken():
    assert len(build_batch(SLOW_ALONE, [40], 0, 60.0).rows) == 0
    assert len(build_batch(SLOW_ALONE, [40] * 8, 0, 60.0, max_batch_size=1).rows) == 0


def test_a_prompt_that_no_company_makes_fit_does_not_keep_the_others_out():
    batch = build_batch(SLOW_ALONE, [8000] + [40] * 8, 0, 60.0)
    assert batch.rows.tolist() == list(range(1, 9))


@settings(deadline=None)
@given(candidates, st.floats(20, 300), st.booleans(), st.integers(1, 40))
def test_company_that_is_counted_on_comes(asked, target_ms, cut, most):
    tokens, context = np.array(asked, dtype=np.int64).reshape(-1, 2).T
    batch = build_batch(SLOW_ALONE, tokens, context, target_ms, cut=cut, max_batch_size=most)
    assert len(batch.rows) <= most
    assert batch.step_ms <= target_ms
    alone = SLOW_ALONE.predict(1, tokens, context) if len(tokens) else np.zeros(0)
    assert len(batch.rows) or (alone > target_ms).all()


def test_the_batch_size_bounds_the_batch():
    assert len(build_batch(P, [1] * 20, 0, 1000.0, max_batch_size=3).rows) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(([0], 0, 10.0), "tokens holds 0"), (([1], -1, 10.0), "context_tokens"), (([1], 0, 0.0), "target_ms is 0.0")],
)
def test_an_argument_outside_its_bound_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_batch(P, *arguments)


def test_who_runs_already_takes_part_of_the_target_and_of_the_places():
    alone = build_batch(P, [100] * 8, 0, 40.0)
    beside = build_batch(P, [100] * 8, 0, 40.0, running=100, running_context_tokens=50_000)
    assert 0 < len(beside.rows) < len(alone.rows)
    told = float(P.predict(100 + len(beside.rows), 100 + beside.tokens.sum(), 50_000))
    assert beside.step_ms == pytest.approx(told)
    assert len(build_batch(P, [100] * 8, 0, 400.0, running=6, max_batch_size=8).rows) == 2
    full = build_batch(P, [100], 0, 400.0, running=8, max_batch_size=8)
    assert len(full.rows) == 0
    assert full.step_ms == pytest.approx(float(P.predict(8, 8, 0)))
    with pytest.raises(ValueError, match="running is -1"):
        build_batch(P, [100], 0, 40.0, running=-1)


def test_without_overtaking_it_ends_at_the_first_that_does_not_fit():
    needs = [100, 4000, 10]
    assert build_batch(P, needs, 0, 60.0).rows.tolist() == [0, 2]
    assert build_batch(P, needs, 0, 60.0, overtaking=False).rows.tolist() == [0]
