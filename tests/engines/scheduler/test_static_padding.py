"""Adaptive padding and the padding bound of static batches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchpilot import Limits, RequestTable, SaturationParameters, simulate

LATENCY = SaturationParameters(p_max=12.0, k_b=10.0, k_s=0.01, tau_0=5.0, tau_b=0.02, tau_c=3e-4)


def batches(prompts, limits, **options):
    """Requests and padded prompt tokens of each batch, of requests that all come at once and say one token."""
    table = RequestTable.from_arrays(np.zeros(len(prompts)), prompts, 1)
    result = simulate(table, LATENCY, limits, mode="static", record_steps=True, **options)
    assert result.finish_reason == ["length"] * len(prompts)
    return [(int(requests), int(tokens)) for _, requests, tokens, _, _ in result.step_log]


def test_a_wasteful_batch_is_split_in_two_by_length():
    # The documents' example wastes 57 %; its shorter half pads to 104 tokens, the longer one to 504.
    assert batches([100, 500, 50], Limits(3)) == [(3, 1500)]
    assert batches([100, 500, 50], Limits(3, max_padding_share=0.3)) == [(2, 208), (1, 504)]


def test_the_half_of_whoever_is_first_goes_first():
    assert batches([500, 50, 400, 60], Limits(4, max_padding_share=0.3)) == [(2, 1008), (2, 128)]


def test_a_batch_that_wastes_little_is_only_padded_to_a_multiple_of_eight():
    assert batches([97, 100], Limits(2, max_padding_share=0.3)) == [(2, 208)]


def test_equal_lengths_are_split_by_turn_if_at_all():
    assert batches([1, 1, 1], Limits(3, max_padding_share=0.3)) == [(2, 16), (1, 8)]


def test_what_was_split_off_is_filled_up_with_those_that_wait():
    assert batches([500, 50, 60, 480], Limits(2, max_padding_share=0.3)) == [(1, 504), (2, 128), (1, 480)]


def test_a_cache_without_room_for_padding_gets_none():
    assert batches([33], Limits(1, max_padding_share=0.3), kv_capacity_tokens=48) == [(1, 40)]
    table = RequestTable.from_arrays([0.0], [44], [5])
    result = simulate(
        table, LATENCY, Limits(1, max_padding_share=0.3), mode="static", kv_capacity_tokens=48, record_steps=True
    )
    assert result.step_log[0, 2] == 44


def test_nobody_joins_who_would_have_more_padded_than_is_allowed():
    assert batches([400, 100, 100, 390], Limits(4, max_padding_tokens=300)) == [(2, 800), (2, 780)]
    assert batches([400, 100], Limits(4, max_padding_tokens=299)) == [(1, 400), (1, 100)]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 700), min_size=1, max_size=30),
    st.integers(1, 12),
    st.none() | st.integers(0, 800),
    st.none() | st.floats(0.0, 1.0),
    st.sampled_from(["fcfs", "spf", "deadline"]),
)
def test_everybody_is_served_within_the_bound_and_only_once(prompts, size, bound, share, discipline):
    limits = Limits(size, max_padding_tokens=bound, max_padding_share=share, discipline=discipline)
    formed = batches(prompts, limits)
    assert sum(requests for requests, _ in formed) == len(prompts)
    padding = sum(tokens for _, tokens in formed) - sum(prompts)
    assert padding >= 0
    if bound is not None and share is None:
        assert padding <= bound * len(formed)


@pytest.mark.parametrize("limit", [{"max_padding_share": 0.3}, {"max_padding_tokens": 256}])
def test_mixed_lengths_are_served_with_less_padding(limit):
    rng = np.random.default_rng(3)
    table = RequestTable.from_arrays(np.zeros(200), np.where(rng.random(200) < 0.5, 40, 900), 1)
    plain, bounded = (simulate(table, LATENCY, limits, mode="static") for limits in (Limits(16), Limits(16, **limit)))
    assert bounded.efficiency > plain.efficiency
