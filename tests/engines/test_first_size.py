"""A first batch size from memory and from compute, before anything was served."""

import pytest

from batchpilot.configs.catalogue import device, model
from batchpilot.engines.first_size import first_size, size_from_compute, size_from_memory
from batchpilot.engines.memory import memory_model

A100, LLAMA = device("A100-40GB"), model("Llama-2-7B")


def test_memory_holds_as_many_requests_as_their_caches_fit():
    memory = memory_model(A100, LLAMA)
    assert size_from_memory(memory, 1000) == memory.kv_capacity_tokens // 1000
    assert size_from_memory(memory, 2000) < size_from_memory(memory, 1000)


def test_compute_pays_up_to_the_device_s_operations_a_byte():
    # Two bytes and two operations a weight: the ridge itself, 312 TFLOPS over 1,555 GB/s.
    assert size_from_compute(A100, LLAMA, "fp16") == pytest.approx(312e12 / 1.555e12, rel=0.03)
    assert size_from_compute(A100, LLAMA, "int8") == pytest.approx(0.5 * 312e12 / 1.555e12, rel=0.08)


def test_the_smaller_of_both_is_taken_within_the_range():
    found = first_size(A100, LLAMA, 2048)
    assert found.batch_size == found.from_memory < found.from_compute
    assert first_size(A100, LLAMA, 64).batch_size == found.from_compute
    assert first_size(A100, LLAMA, 2048, highest=8).batch_size == 8
    assert first_size(A100, LLAMA, 10**6, lowest=4).batch_size == 4


@pytest.mark.parametrize("range_", [(0, 8), (9, 8)])
def test_a_range_that_is_none_is_refused(range_):
    with pytest.raises(ValueError, match="the range is"):
        first_size(A100, LLAMA, 100, lowest=range_[0], highest=range_[1])


def test_a_model_that_does_not_fit_is_told_by_its_numbers():
    with pytest.raises(ValueError, match="does not fit on 1 x T4"):
        first_size(device("T4"), model("Llama-2-70B"), 1000)
