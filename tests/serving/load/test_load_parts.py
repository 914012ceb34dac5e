"""Prompts and timetables of a load test; needs no server."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared_prefixes import in_common

from batchpilot.core import SLO
from batchpilot.runners.http.load.part import Part
from batchpilot.serving.load.prompts import Prompts
from batchpilot.workloads.table import RequestTable


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=5), st.sampled_from([1.0, 3.7, 4.0]))
def test_prompts_are_as_long_as_the_tokens_take(tokens, bytes_per_token):
    prompts = Prompts(np.array(tokens), bytes_per_token)
    for row, wanted in enumerate(tokens):
        assert len(prompts[row].encode()) == max(round(wanted * bytes_per_token), 1)


def test_prompts_repeat_from_their_seed_and_differ_in_how_they_begin():
    lengths = np.full(500, 50)
    prompts, again = (Prompts(lengths, 4.0, seed=3) for _ in range(2))
    assert [prompts[row] for row in range(500)] == [again[row] for row in range(500)]
    assert len({prompts[row][:24] for row in range(500)}) == 500


TABLE = RequestTable.from_arrays([0.0, 1000.0, 2000.0, 3000.0, 4000.0], 10, 5, slos=SLO(500.0, 50.0, "realtime"))


def test_a_mean_rate_is_met():
    sent = Part(requests_per_s=10.0).of(TABLE)
    assert sent.arrival_ms.tolist() == [0.0, 100.0, 200.0, 300.0, 400.0]


def test_a_part_is_cut_in_the_scenarios_own_time_before_the_rate():
    sent = Part(start_s=1.0, duration_s=2.0, rate=2.0).of(TABLE)
    assert sent.arrival_ms.tolist() == [0.0, 500.0]


@pytest.mark.parametrize(("rate", "per_s"), [(2.0, 3.0), (1.0, 0.0), (0.0, None)])
def test_impossible_rates_are_refused(rate, per_s):
    with pytest.raises(ValueError, match=r"rate|requests-per-s"):
        Part(rate=rate, requests_per_s=per_s).of(TABLE)


@given(st.integers(0, 2**20), st.sampled_from([1.0, 3.7]))
def test_prompts_share_just_the_text_of_the_blocks_that_they_share_and_begin(seed, bytes_per_token):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 200, 6)
    prefixes = in_common(tokens + 40, 16, rng)  # the last hashes reach into the answer
    prompts = Prompts(tokens, bytes_per_token, seed, prefixes=prefixes)
    for row, wanted in enumerate(tokens):
        assert len(prompts[row]) == max(round(wanted * bytes_per_token), 1)
        for other in range(row):
            mine, others = (prefixes.hashes[prefixes.starts[r] : prefixes.starts[r + 1]] for r in (row, other))
            whole = min(len(mine), len(others))
            alike = int(np.cumprod(mine[:whole] == others[:whole]).sum())
            length = round(min(alike * 16, wanted, tokens[other]) * bytes_per_token)
            assert prompts[row][:length] == prompts[other][:length]
            more = length + 40
            if min(len(prompts[row]), len(prompts[other])) >= more:
                assert prompts[row][:more] != prompts[other][:more]
