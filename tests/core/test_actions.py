import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpilot.core import TRACKS, Limits
from batchpilot.core.actions import ActionTable
from batchpilot.core.grids import GRIDS, Grid
from batchpilot.core.limit_arrays import limit_arrays, limits_at

BASE = Limits(batch_size=256, token_budget=2048)


def table(track="guarded", mode="relative", base=BASE):
    return ActionTable(TRACKS[track], base, mode)


@st.composite
def journeys(draw):
    """A table and some of its actions."""
    moved = table(draw(st.sampled_from(sorted(TRACKS))), draw(st.sampled_from(["relative", "absolute"])))
    action = st.tuples(*(st.integers(0, size - 1) for size in moved.sizes))
    return moved, draw(st.lists(action, max_size=20))


@given(journeys(), st.floats(0.1, 1e4) | st.sampled_from([math.nan, math.inf]))
def test_every_journey_stays_on_the_grid_and_gives_valid_limits(journey, tpot_target_ms):
    moved, actions = journey
    position = moved.start(tpot_target_ms)
    for action in actions:
        position = moved.move(position, action)
        assert all(0 <= notch < len(grid.values) for notch, grid in zip(position, moved.grids, strict=True))
        limits = moved.to_limits(position, tpot_target_ms)
        assert 1 <= limits.batch_size <= 1024


@given(journeys())
def test_holding_changes_nothing(journey):
    moved, actions = journey
    position = moved.start(100.0)
    for action in actions:
        position = moved.move(position, action)
        np.testing.assert_array_equal(moved.move(position, moved.hold(position)), position)


@given(journeys())
def test_many_positions_give_the_limits_of_each(journey):
    moved, actions = journey
    start = moved.start(100.0)
    positions = np.array([start, *(moved.move(start, action) for action in actions)])
    targets = np.linspace(10.0, 500.0, len(positions))
    together = moved.to_arrays(positions, targets)
    for i, (position, target) in enumerate(zip(positions, targets, strict=True)):
        assert limits_at(together, i) == moved.to_limits(position, float(target))


@given(journeys())
def test_a_table_survives_json(journey):
    moved, actions = journey
    again = ActionTable.from_description(json.loads(json.dumps(moved.describe())))
    assert again.describe() == moved.describe()
    position = moved.start(80.0)
    for action in actions:
        position = moved.move(position, action)
    assert again.to_limits(position, 80.0) == moved.to_limits(position, 80.0)


def test_four_notches_double_a_limit_and_the_ends_hold():
    moved = table("limits")
    halved = moved.move(moved.start(100.0), [0, 0, 2])
    assert moved.to_limits(halved, 100.0) == Limits(batch_size=128, token_budget=1024)
    lowest = halved
    for _ in range(20):
        lowest = moved.move(lowest, [0, 0, 0])
    assert moved.to_limits(lowest, 100.0) == Limits(batch_size=1, token_budget=64, max_queued_tokens=256)


def test_an_absolute_action_names_the_notch():
    moved = table("batch", "absolute")
    sizes = [moved.to_limits(moved.move([35], [notch]), 100.0).batch_size for notch in range(moved.sizes[0])]
    assert sizes == list(GRIDS["batch_size"].values)


def test_neighbouring_notches_differ_by_a_quarter_doubling_or_one():
    for grid in GRIDS.values():
        finite = np.array([value for value in grid.values if math.isfinite(value)])
        if grid.ordered:
            steps = finite[1:] / np.maximum(finite[:-1], 1e-9)
            assert np.all((steps <= 1.25) | (np.diff(finite) == 1)), grid.field


def test_the_queue_limit_and_the_guard_end_in_off():
    moved = table("guarded", "absolute")
    top = [len(grid.values) - 1 for grid in moved.grids]
    limits = moved.to_limits(np.array(top), 100.0)
    assert limits.max_queued_tokens is limits.step_target_ms is limits.ttft_guard is None


def test_step_target_follows_the_promise_and_is_off_without_one():
    moved = ActionTable(["step_target_ms"], BASE, "absolute")
    as_promised = GRIDS["step_target_ms"].values.index(1.0)
    position = np.array([as_promised])
    assert moved.to_limits(position, 80.0).step_target_ms == 80.0
    assert moved.to_limits(position, 40.0).step_target_ms == 40.0
    assert moved.to_limits(position, math.inf).step_target_ms is None
    assert moved.to_limits(position, math.nan).step_target_ms is None


def test_a_table_starts_at_the_notches_nearest_to_its_base():
    base = Limits(batch_size=11, max_queued_tokens=5000, step_target_ms=60.0, discipline="spf")
    moved = table(base=base)
    assert moved.to_limits(moved.start(60.0), 60.0) == Limits(
        batch_size=11, token_budget=16384, max_queued_tokens=4871, step_target_ms=60.0, discipline="spf"
    )


def test_fields_that_are_not_moved_keep_the_base():
    base = Limits(batch_size=32, token_budget=700, max_wait_ms=50.0, ttft_guard=1.5, discipline="fair")
    moved = table("batch", base=base)
    assert moved.to_limits(moved.move(moved.start(100.0), [4]), 100.0) == base.replace(batch_size=64)


def test_disciplines_are_named_in_both_modes():
    for mode in ("relative", "absolute"):
        moved = ActionTable(["discipline"], BASE, mode)
        assert moved.to_limits(moved.move([0], [2]), 100.0).discipline == "spf"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fields": ["batch_sise"]}, "did you mean 'batch_size'"),
        ({"fields": []}, "needs fields"),
        ({"fields": ["batch_size", "batch_size"]}, "each of them once"),
        ({"mode": "sideways"}, "unknown action mode"),
        ({"moves": (-1, 1)}, "hold 0"),
        ({"grids": [Grid("token_budget", (1.0, 2.0))]}, "do not belong"),
    ],
)
def test_a_wrong_table_is_refused_with_a_reason(arguments, message):
    with pytest.raises(ValueError, match=message):
        ActionTable(**({"fields": ["batch_size"], "base": BASE} | arguments))


@pytest.mark.parametrize("broken", [{}, {"grids": 3}, {"grids": [{"field": "batch_size"}], "base": {}, "moves": [0]}])
def test_a_wrong_description_is_refused(broken):
    with pytest.raises(ValueError, match=r"lacks|no description|need a batch_size"):
        ActionTable.from_description(broken)


@given(
    st.builds(
        Limits,
        batch_size=st.integers(1, 2**40),
        token_budget=st.none() | st.integers(1, 2**40),
        max_queued_tokens=st.none() | st.integers(0, 2**40),
        max_wait_ms=st.none() | st.floats(0, 1e6),
        step_target_ms=st.none() | st.floats(1e-3, 1e6),
        ttft_guard=st.none() | st.floats(1e-3, 1e6),
        discipline=st.none() | st.sampled_from(["fcfs", "priority", "deadline"]),
        delay_factor=st.none() | st.floats(0, 1e6),
        max_padding_tokens=st.none() | st.integers(0, 2**40),
        max_padding_share=st.none() | st.floats(0, 1e6),
    )
)
def test_limits_survive_the_way_through_arrays(limits):
    assert limits_at(limit_arrays([Limits(batch_size=1), limits]), 1) == limits
