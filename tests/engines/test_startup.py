"""What an engine's start needs outside its share of memory, where servers run out of it."""

import pytest

from batchpilot.configs.catalogue import device, model
from batchpilot.engines.startup import startup_memory


def test_a_thousand_requests_of_a_large_vocabulary_do_not_start_on_a_small_device():
    start = startup_memory(device("A10"), model("Qwen3-0.6B"), 1024)
    assert start.sampler_mb > start.free_mb
    assert not start.fits


def test_the_largest_number_of_requests_that_is_named_does_start():
    start = startup_memory(device("A10"), model("Qwen3-0.6B"), 1024)
    assert startup_memory(device("A10"), model("Qwen3-0.6B"), start.most_requests).fits
    assert not startup_memory(device("A10"), model("Qwen3-0.6B"), start.most_requests + 1).fits


def test_a_smaller_share_of_memory_leaves_more_for_the_start():
    assert startup_memory(device("A10"), model("Qwen3-0.6B"), 1024, memory_fraction=0.7).fits


def test_impossible_arguments_are_refused():
    with pytest.raises(ValueError, match="requests 0 must be >= 1"):
        startup_memory(device("A10"), model("Qwen3-0.6B"), 0)
