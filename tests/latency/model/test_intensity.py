"""Compute density of steps: decoding reads, prefill computes, as every text on inference says."""

from __future__ import annotations

import pytest

from batchpilot.configs.catalogue import device, model
from batchpilot.latency.model.intensity import step_intensity

A100, LLAMA = device("A100-80GB"), model("Llama-2-7B")


def test_decoding_alone_is_bound_by_memory_and_reads_the_weights_once():
    step = step_intensity(A100, LLAMA, tokens=1, context_tokens=0, step_ms=10.0, dtype="fp16")
    assert step.bound_by == "memory"
    assert step.flop_per_byte == pytest.approx(1.0, rel=0.01)
    assert step.bandwidth_utilisation == pytest.approx(2 * LLAMA.parameters / 10e-3 / 2.039e12, rel=0.02)


def test_a_large_prefill_is_bound_by_arithmetic():
    step = step_intensity(A100, LLAMA, tokens=2048, context_tokens=2048, step_ms=150.0, dtype="fp16")
    assert step.bound_by == "compute"
    assert step.compute_utilisation == pytest.approx(2 * LLAMA.parameters * 2048 / 0.15 / 312e12, rel=0.01)


def test_context_adds_its_kv_cache_and_smaller_types_move_fewer_bytes():
    alone = step_intensity(A100, LLAMA, 8, 0, 10.0, dtype="fp16")
    longer = step_intensity(A100, LLAMA, 8, 10_000, 10.0, dtype="fp16")
    assert longer.moved_bytes - alone.moved_bytes == pytest.approx(10_000 * 2 * 32 * 32 * 128 * 2)
    assert step_intensity(A100, LLAMA, 8, 0, 10.0, dtype="int8").moved_bytes == pytest.approx(alone.moved_bytes / 2)


def test_a_mixture_reads_all_of_its_experts_only_with_many_tokens():
    mixture = model("Mixtral-8x7B")
    few = step_intensity(device("H200"), mixture, 1, 0, 10.0, dtype="fp16", tensor_parallel=2)
    many = step_intensity(device("H200"), mixture, 500, 0, 10.0, dtype="fp16", tensor_parallel=2)
    assert few.moved_bytes == pytest.approx(mixture.active, rel=0.05)
    assert many.moved_bytes == pytest.approx(mixture.parameters, rel=0.01)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"tokens": 0}, "tokens is 0"), ({"step_ms": 0.0}, "step_ms is 0"), ({"context_tokens": -1}, "context_tokens")],
)
def test_what_is_out_of_bounds_is_named(changes, said):
    with pytest.raises(ValueError, match=said):
        step_intensity(A100, LLAMA, **({"tokens": 1, "context_tokens": 0, "step_ms": 1.0} | changes))
