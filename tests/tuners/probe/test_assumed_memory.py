"""What the model says of memory holds the probe back before windows at two sizes could."""

import json

import pytest

from batchpilot.configs.catalogue import device, model
from batchpilot.core import Limits
from batchpilot.engines.memory import MemoryModel, memory_model
from batchpilot.tuners import ProbeTuner

GB = 1024.0
MEMORY = MemoryModel(
    total_mb=100 * GB, fixed_mb=20 * GB, kv_mb_per_token=1.0, activation_mb_per_token=0.5, kv_capacity_tokens=60_000
)
NEARLY_FULL = {"memory_used_mb": 85 * GB, "memory_peak_mb": 85 * GB, "memory_total_mb": 100 * GB}
OF_EACH = 1022.0
"""Tokens held for each request, and four computed: 1 GB."""


def held(requests):
    return {"context_tokens_mean": OF_EACH * requests, "tokens_per_step_mean": 4.0 * requests}


def test_a_request_takes_its_cache_and_the_activations_of_what_it_computes():
    assert MEMORY.request_mb(1022.0, 4.0) == pytest.approx(GB)
    known = memory_model(device("A100-40GB"), model("Llama-2-7B"))
    # 2 x 32 layers x 32 heads x 128 x 2 bytes a token of cache.
    assert known.request_mb(1024, 0) == pytest.approx(2 * 32 * 32 * 128 * 2 * 1024 / 2**20)


def test_a_size_that_the_model_says_does_not_fit_is_not_tried(drive):
    blind, knowing = (drive(lambda size: 0.1 * size, {"memory": memory}) for memory in (None, MEMORY))
    for driven in (blind, knowing):
        assert driven(1, **NEARLY_FULL, **held(8)) == [8]
    # 0.9 of the 99.5 GB that the margin leaves hold 4 more requests of 1 GB, and not 8.
    assert blind.size == 16
    assert knowing.size == 12


def test_where_there_is_room_nothing_is_different(drive):
    room = {"memory_used_mb": 40 * GB, "memory_peak_mb": 40 * GB, "memory_total_mb": 100 * GB}
    blind, knowing = (drive(lambda size: 0.1 * size, {"memory": memory}) for memory in (None, MEMORY))
    assert blind(3, **room, **held(8)) == knowing(3, **room, **held(8)) == [8, 16, 32]


def test_a_saved_assumption_is_taken_along(drive):
    driven = drive(lambda size: 0.1 * size, {"memory": MEMORY})
    driven(1, **NEARLY_FULL, **held(8))
    again = ProbeTuner(base=Limits(1))
    again.load_state_dict(json.loads(json.dumps(driven.tuner.state_dict())))
    assert again.ask() == driven.tuner.ask()
    assert again.state_dict() == driven.tuner.state_dict()
