"""Limits say what is wrong with them."""

import math

import numpy as np
import pytest

from batchpilot.core import DISCIPLINES, TRACKS, Limits


def test_numpy_integers_become_plain_ones():
    limits = Limits(np.int64(8), token_budget=np.int32(512), max_queued_tokens=np.uint8(0))
    assert [type(value) for value in (limits.batch_size, limits.token_budget, limits.max_queued_tokens)] == [int] * 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; it must be a whole number >= 1"),
        ({"batch_size": 8.0}, r"batch_size is 8\.0"),
        ({"batch_size": True}, "batch_size is True"),
        ({"batch_size": None}, "batch_size is None"),
        ({"batch_size": 8, "token_budget": 0}, "token_budget is 0"),
        ({"batch_size": 8, "max_queued_tokens": -1}, "max_queued_tokens is -1"),
        ({"batch_size": 8, "max_wait_ms": -1.0}, "max_wait_ms is -1.0"),
        ({"batch_size": 8, "step_target_ms": 0.0}, "step_target_ms is 0.0"),
        ({"batch_size": 8, "ttft_guard": math.nan}, "ttft_guard is nan"),
        ({"batch_size": 8, "discipline": "fcsf"}, "did you mean 'fcfs'"),
    ],
)
def test_a_value_out_of_bounds_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        Limits(**fields)


def test_limits_survive_plain_data():
    limits = Limits(8, 512, 0, 50.0, 20.0, 1.5, "spf")
    assert Limits.from_dict(limits.to_dict()) == limits
    with pytest.raises(ValueError, match="did you mean 'batch_size'"):
        Limits.from_dict({"batchsize": 8})
    with pytest.raises(ValueError, match="need a batch_size"):
        Limits.from_dict({"token_budget": 8})


def test_only_what_is_on_is_printed():
    assert str(Limits(8, ttft_guard=1.0)) == "batch_size=8, ttft_guard=1.0"


def test_larger_tracks_hold_the_smaller_ones():
    assert set(TRACKS["batch"]) < set(TRACKS["limits"]) < set(TRACKS["guarded"])
    assert set(DISCIPLINES) == {"fcfs", "sjf", "spf", "slo", "fair", "priority", "deadline", "vision", "value"}
