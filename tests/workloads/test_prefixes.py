"""Block hashes of requests: kept through whatever a table does, drawn from a model, mapped onto KV blocks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared_prefixes import in_common, reference_contents

from batchpilot import RequestTable
from batchpilot.configs.workload_spec import Workload
from batchpilot.core.slo import SLO_CLASSES
from batchpilot.engines.simulated.contents import block_contents
from batchpilot.workloads.build import build_requests
from batchpilot.workloads.prefixes import Prefixes
from batchpilot.workloads.sharing import SharedLevel, draw_prefixes
from batchpilot.workloads.table import concatenate


def rows_of(prefixes):
    return [prefixes.hashes[a:b].tolist() for a, b in zip(prefixes.starts[:-1], prefixes.starts[1:], strict=True)]


def table(rows, arrival_ms=None, block_tokens=16):
    arrival_ms = np.arange(float(len(rows))) if arrival_ms is None else arrival_ms
    return RequestTable.from_arrays(arrival_ms, 100, 5, prefixes=Prefixes.from_lists(rows, block_tokens))


def in_common_with_first(prefixes):
    first = prefixes.hashes[: prefixes.starts[1]]
    return [int(np.isin(row, first).sum()) for row in rows_of(prefixes)]


def test_hashes_follow_their_requests_when_these_are_sorted_selected_and_windowed():
    requests = table([[1, 2], [], [1, 3], [4]], [30.0, 10.0, 20.0, 0.0])
    assert rows_of(requests.prefixes) == [[4], [], [1, 3], [1, 2]]
    assert rows_of(requests.select(np.array([3, 2])).prefixes) == [[1, 2], [1, 3]]
    assert rows_of(requests.window(5.0, 25.0).prefixes) == [[], [1, 3]]
    assert rows_of(requests.scale_rate(2.0).prefixes) == rows_of(requests.prefixes)


def test_a_looped_request_shares_nothing_with_itself_of_another_period():
    looped = table([[1, 2], [1, 3]]).loop(4.0)
    assert in_common_with_first(looped.prefixes) == [2, 1, 0, 0]
    assert len(looped.prefixes) == len(looped) == 4


def test_tables_put_together_share_nothing_across_them():
    joined = concatenate([table([[1, 2], [1, 3]]), RequestTable.from_arrays([0.5], 10, 1), table([[1, 2]])])
    assert len(joined.prefixes) == len(joined) == 4
    numbers = [set(row) for row in rows_of(joined.prefixes)]
    assert sorted(len(row) for row in numbers) == [0, 2, 2, 2]
    assert len(set.union(*numbers)) == 5
    assert concatenate([RequestTable.from_arrays([0.5], 10, 1)] * 2).prefixes is None
    with pytest.raises(ValueError, match=r"of \[8, 16\] tokens cannot be put together"):
        concatenate([table([[1]]), table([[1]], block_tokens=8)])


def test_there_are_hashes_of_every_request_or_of_none():
    with pytest.raises(ValueError, match="block hashes of 1 requests; there must be of all 2"):
        RequestTable.from_arrays([0.0, 1.0], 5, 5, prefixes=Prefixes.from_lists([[1]], 16))
    with pytest.raises(ValueError, match="block_tokens is 0"):
        Prefixes.from_lists([[1]], 0)


@given(
    seed=st.integers(0, 10_000),
    hash_block=st.sampled_from([4, 16, 24, 64, 512]),
    block_size=st.sampled_from([1, 5, 16, 24, 32, 128]),
)
def test_kv_blocks_are_equal_just_where_the_hash_of_their_last_token_is(seed, hash_block, block_size):
    rng = np.random.default_rng(seed)
    prompts, outputs = rng.integers(1, 1500, 12), rng.integers(1, 60, 12)
    prefixes = in_common(prompts + outputs, hash_block, rng)
    requests = RequestTable.from_arrays(np.arange(12.0), prompts, outputs, prefixes=prefixes)
    contents = block_contents(prefixes, prompts + outputs, block_size)
    ours = [contents.content[a : a + n].tolist() for a, n in zip(contents.first, contents.hashed, strict=True)]
    told = reference_contents(requests, block_size)
    assert [len(row) for row in ours] == [len(row) for row in told]
    pairs = {(a, b) for left, right in zip(ours, told, strict=True) for a, b in zip(left, right, strict=True)}
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)
    assert max((a for a, _ in pairs), default=0) < max(contents.room, 1)


def test_levels_of_text_are_shared_by_those_who_drew_the_same():
    rng = np.random.default_rng(0)
    levels = [SharedLevel(64, kinds=2, zipf=0.0), SharedLevel(160, kinds=3, share=0.5)]
    prefixes = draw_prefixes(np.full(4000, 300), levels, 16, rng)
    lengths = prefixes.blocks()
    assert set(lengths.tolist()) == {4, 14}
    assert 0.45 < (lengths == 14).mean() < 0.55
    assert prefixes.different == 2 * 4 + 2 * 3 * 10
    first = prefixes.numbers[prefixes.starts[:-1]]
    assert 0.45 < (first == first[0]).mean() < 0.55


def test_texts_that_end_within_a_block_share_their_whole_blocks_only():
    levels = [SharedLevel(40, kinds=1), SharedLevel(40, kinds=2, zipf=0.0)]
    prefixes = draw_prefixes(np.full(500, 200), levels, 16, np.random.default_rng(0))
    # Blocks end at 16 and 32 in the common text; 48, 64 and 80 lie in one of two.
    assert prefixes.different == 2 + 2 * 3
    assert draw_prefixes(np.array([50]), levels, 16, np.random.default_rng(0)).blocks().tolist() == [3]


def test_popular_texts_are_asked_for_more():
    prefixes = draw_prefixes(np.full(5000, 64), [SharedLevel(16, kinds=100, zipf=1.0)], 16, np.random.default_rng(1))
    asked = np.sort(np.bincount(prefixes.numbers))[::-1]
    assert asked[0] == pytest.approx(5000 / (1 / np.arange(1, 101)).sum(), rel=0.15)


def test_a_scenario_says_what_its_prompts_have_in_common():
    phase = {
        "duration_s": 60,
        "arrivals": {"kind": "poisson", "rate_per_s": 5},
        "lengths": {"kind": "fixed", "prompt_tokens": 500, "output_tokens": 10},
    }
    sharing = {"levels": [{"tokens": 320, "kinds": 2}]}
    told = Workload.model_validate({"phases": [phase, phase], "sharing": sharing})
    slos = SLO_CLASSES
    requests = build_requests(told, slos, np.random.default_rng(3), lambda prompt, output: 1.0)
    assert set(requests.prefixes.blocks().tolist()) == {20}
    assert requests.prefixes.different == 40
    again = build_requests(told, slos, np.random.default_rng(3), lambda prompt, output: 1.0)
    np.testing.assert_array_equal(again.prefixes.hashes, requests.prefixes.hashes)
    without = build_requests(
        Workload.model_validate({"phases": [phase, phase]}), slos, np.random.default_rng(3), lambda prompt, output: 1.0
    )
    assert without.prefixes is None
    np.testing.assert_array_equal(without.arrival_ms, requests.arrival_ms)
