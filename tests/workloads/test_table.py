import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpilot.core import SLO
from batchpilot.workloads import RequestTable, concatenate

COLUMNS = ("prompt_tokens", "output_tokens", "estimated_output_tokens", "slo_class", "user", "priority")


@st.composite
def tables(draw, min_size=1):
    arrivals = draw(st.lists(st.integers(0, 10**6), min_size=min_size, max_size=30))
    rng = np.random.default_rng(draw(st.integers(0, 100)))
    n = len(arrivals)
    return RequestTable.from_arrays(
        np.array(arrivals, dtype=float),
        rng.integers(1, 1000, n),
        rng.integers(1, 100, n),
        slo_class=rng.integers(0, 2, n),
        user=rng.integers(0, 5, n),
        priority=rng.integers(0, 3, n),
        slos=(SLO(500.0, 50.0, "realtime"), SLO(2000.0, 100.0, "interactive")),
    )


def rows(table):
    """Every request as a tuple, its SLO by value."""
    slos = [table.slos[index] for index in table.slo_class]
    columns = (table.prompt_tokens, table.output_tokens, table.estimated_output_tokens, table.user, table.priority)
    return list(zip(*(column.tolist() for column in columns), slos, strict=True))


@given(table=tables())
def test_arrivals_are_sorted_and_ties_keep_their_order(table):
    assert (np.diff(table.arrival_ms) >= 0).all()
    tied = RequestTable.from_arrays([5.0, 1.0, 5.0, 1.0], [1, 2, 3, 4], 1)
    assert tied.prompt_tokens.tolist() == [2, 4, 1, 3]


@given(table=tables(), factor=st.floats(0.1, 10.0))
def test_scaling_the_rate_and_back_changes_nothing(table, factor):
    there_and_back = table.scale_rate(factor).scale_rate(1 / factor)
    assert there_and_back.arrival_ms == pytest.approx(table.arrival_ms, abs=1e-6)
    assert rows(there_and_back) == rows(table)


@given(table=tables(min_size=2), factor=st.floats(0.1, 10.0))
def test_scaling_the_rate_divides_the_duration_and_keeps_the_first_arrival(table, factor):
    scaled = table.scale_rate(factor)
    assert scaled.duration_ms == pytest.approx(table.duration_ms / factor, abs=1e-6)
    assert scaled.arrival_ms[0] == table.arrival_ms[0]


@given(table=tables(), cut=st.integers(1, 10**6))
def test_windows_side_by_side_hold_every_request_once(table, cut):
    early, late = table.window(0.0, cut), table.window(cut, 2e6)
    assert rows(early) + rows(late) == rows(table)
    assert np.concatenate([early.arrival_ms, late.arrival_ms + cut]) == pytest.approx(table.arrival_ms)


def test_a_window_is_closed_at_its_start_and_open_at_its_end():
    table = RequestTable.from_arrays([0.0, 10.0, 20.0], 1, 1)
    assert table.window(10.0, 20.0).arrival_ms.tolist() == [0.0]


@given(table=tables(min_size=2), copies=st.integers(1, 5))
def test_a_loop_repeats_the_requests_in_order_at_the_same_mean_rate(table, copies):
    if table.duration_ms == 0:
        return
    gap = table.duration_ms / (len(table) - 1)
    looped = table.loop(copies * (table.duration_ms + gap) - gap / 2)
    assert rows(looped) == rows(table) * copies
    assert (np.diff(looped.arrival_ms) >= 0).all()
    assert looped.arrival_ms[0] == 0.0


@given(parts=st.lists(tables(), min_size=1, max_size=4))
def test_concatenating_keeps_every_request_with_its_promise(parts):
    merged = concatenate(parts)
    assert sorted(map(repr, rows(merged))) == sorted(repr(row) for part in parts for row in rows(part))
    assert np.array_equal(merged.arrival_ms, np.sort(np.concatenate([part.arrival_ms for part in parts])))
    assert len(merged.slos) == 2


def test_concatenating_keeps_different_promises_apart_and_adds_up_skipped_rows():
    first = RequestTable.from_arrays([0.0], 1, 1, slos=SLO(100.0, 10.0), skipped_rows=2)
    second = RequestTable.from_arrays([5.0], 1, 1, slos=SLO(900.0, 90.0), skipped_rows=3)
    merged = concatenate([first, second])
    assert merged.ttft_target_ms.tolist() == [100.0, 900.0]
    assert merged.tpot_target_ms.tolist() == [10.0, 90.0]
    assert merged.skipped_rows == 5


def test_closed_loops_and_nothing_cannot_be_concatenated():
    closed = RequestTable.from_arrays([0.0], 1, 1, concurrency=4)
    with pytest.raises(ValueError, match="closed loop"):
        concatenate([closed])
    with pytest.raises(ValueError, match="at least one"):
        concatenate([])


def test_new_promises_replace_the_old_ones():
    table = RequestTable.from_arrays([0.0, 1.0], 1, 1, slo_class=[0, 1], slos=(SLO(), SLO()))
    assert table.with_slos(SLO(123.0, 4.0)).ttft_target_ms.tolist() == [123.0, 123.0]
    assert table.with_slos([SLO(1.0), SLO(2.0)]).ttft_target_ms.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="slo_class of request 1 is 1"):
        table.with_slos([SLO()])


@given(table=tables())
def test_selecting_everything_changes_nothing(table):
    for everything in (slice(None), np.arange(len(table)), np.ones(len(table), dtype=bool)):
        same = table.select(everything)
        assert np.array_equal(same.arrival_ms, table.arrival_ms)
        assert rows(same) == rows(table)


def test_without_a_predictor_the_estimate_is_the_truth():
    table = RequestTable.from_arrays([0.0, 1.0], 5, [7, 9])
    assert table.estimated_output_tokens.tolist() == [7.0, 9.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arrival_ms": [0.0, np.nan]}, "arrival_ms of request 1 is nan"),
        ({"arrival_ms": [[0.0], [1.0]]}, "one-dimensional"),
        ({"prompt_tokens": [1, 0]}, "prompt_tokens of request 1 is 0; it must be a whole number from 1 to 2147483647"),
        ({"output_tokens": [1, 2**31]}, "output_tokens of request 1 is 2.147"),
        ({"prompt_tokens": [1, 2, 3]}, r"prompt_tokens has shape \(3,\)"),
        ({"output_tokens": 1.5}, "output_tokens of request 0 is 1.5"),
        ({"estimated_output_tokens": [1.0, -1.0]}, "estimated_output_tokens of request 1 is -1"),
        ({"slo_class": [0, 1]}, "slo_class of request 1 is 1; it must be a whole number from 0 to 0"),
        ({"user": -1}, "user of request 0 is -1"),
        ({"priority": 3}, "priority of request 0 is 3; it must be a whole number from 0 to 2"),
        ({"slos": ()}, "at least one SLO"),
        ({"concurrency": -1}, "concurrency is -1"),
    ],
)
def test_impossible_columns_are_refused_by_name_and_row(change, message):
    columns = {"arrival_ms": [0.0, 1.0], "prompt_tokens": 10, "output_tokens": 5} | change
    with pytest.raises(ValueError, match=message):
        RequestTable.from_arrays(**columns)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda table: table.scale_rate(0.0), "rate factor is 0"),
        (lambda table: table.scale_rate(np.inf), "rate factor is inf"),
        (lambda table: table.window(5.0, 5.0), "is empty"),
        (lambda table: table.loop(0.0), "cannot loop"),
        (lambda table: table.select(slice(0)).loop(10.0), "cannot loop 0 requests"),
    ],
)
def test_impossible_changes_are_refused(act, message):
    with pytest.raises(ValueError, match=message):
        act(RequestTable.from_arrays([0.0, 1.0], 1, 1))
