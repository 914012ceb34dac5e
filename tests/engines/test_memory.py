"""How many bytes weights and cache take, and what is left for serving."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from batchpilot.configs.catalogue import device, devices, model, models
from batchpilot.engines.memory import kv_bytes, kv_bytes_per_token, memory_model, weight_bytes
from batchpilot.latency.model.vision_tower import tower_bytes

MB = 2**20


def test_kv_bytes_of_the_documents_example():
    # SPEC 4: 40 layers, 40 heads of 128, 8 requests of 1088 tokens, 16-bit.
    assert kv_bytes(layers=40, kv_heads=40, head_dim=128, tokens=8 * 1088) == 7_130_316_800


def test_four_bit_weights_of_seven_billion_parameters():
    # SPEC 4: 0.5 bytes and 6.25 % for scales: 3.72 of 14 GB.
    seven_billion = replace(model("Llama-2-7B"), parameters=7_000_000_000)
    assert weight_bytes(seven_billion, "int4") == pytest.approx(3.72e9, rel=1e-3)
    assert weight_bytes(seven_billion, "int8") == 7e9
    assert weight_bytes(seven_billion) == 14e9


def test_grouped_queries_shrink_the_cache():
    # Llama-2-70B has 8 KV heads for 64 query heads: 2 * 80 * 8 * 128 * 2 bytes.
    assert kv_bytes_per_token(model("Llama-2-70B")) == 327_680


def test_kv_heads_are_shared_until_each_device_has_one():
    large = model("Llama-2-70B")
    assert kv_bytes_per_token(large, 8) == kv_bytes_per_token(large) / 8
    assert kv_bytes_per_token(large, 16) == kv_bytes_per_token(large, 8)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"layers": 0}, "layers is 0"),
        ({"tokens": -1}, "tokens is -1"),
        ({"bytes_per_value": 0}, "bytes_per_value is 0"),
    ],
)
def test_impossible_dimensions_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        kv_bytes(**{"layers": 1, "kv_heads": 1, "head_dim": 1, "tokens": 1} | arguments)


def test_an_unknown_dtype_is_answered_with_the_closest():
    with pytest.raises(ValueError, match="unknown dtype 'fp61'; did you mean 'fp16'"):
        weight_bytes(model("Llama-2-7B"), "fp61")


def test_a_vision_tower_takes_its_weights_from_the_cache():
    # InternViT-6B: 5.9 billion parameters of two bytes, 10 % of workspace, shared by the group; 0.5 MB a KV token.
    place = (device("A100-80GB"), model("Llama-2-7B"))
    alone, beside = (memory_model(*place, tower_bytes=size) for size in (0.0, tower_bytes("internvit-6b")))
    assert beside.fixed_mb - alone.fixed_mb == pytest.approx(1.1 * 11.8e9 / MB)
    assert alone.kv_capacity_tokens - beside.kv_capacity_tokens == pytest.approx(1.1 * 11.8e9 / 2**19, abs=1)
    shared = [memory_model(*place, 2, tower_bytes=size).fixed_mb for size in (0.0, tower_bytes("internvit-6b"))]
    assert shared[1] - shared[0] == pytest.approx(1.1 * 5.9e9 / MB)


def test_a_stage_holds_its_share_of_the_weights_and_its_layers_cache_of_every_batch():
    # Four stages of Llama-2-70B: 34.5 GB of weights a device; a batch's tokens take what its stage keeps of all four.
    place = (device("A100-80GB"), model("Llama-2-70B"))
    memory = memory_model(*place, pipeline_parallel=4)
    assert memory.fixed_mb == pytest.approx(1.1 * weight_bytes(model("Llama-2-70B")) / 4 / MB)
    assert memory.kv_mb_per_token == kv_bytes_per_token(model("Llama-2-70B")) / MB
    with pytest.raises(ValueError, match="does not fit on 1 x A100-80GB in 2 stages"):
        memory_model(*place, pipeline_parallel=2, memory_fraction=0.8)


def test_where_only_a_tower_is_too_much_the_message_counts_it():
    place = (device("A10-24GB"), model("Llama-2-7B"))
    assert memory_model(*place).kv_capacity_tokens > 0
    with pytest.raises(ValueError, match=r"11,253 MB of them a vision tower's"):
        memory_model(*place, tower_bytes=tower_bytes("internvit-6b"))
    with pytest.raises(ValueError, match="tower_bytes is -1"):
        memory_model(*place, tower_bytes=-1)


@given(
    st.sampled_from(devices()),
    st.sampled_from(models()),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from(["fp16", "int8", "int4"]),
    st.floats(0.3, 1.0),
    st.integers(1, 16_384),
)
def test_a_full_cache_and_a_full_step_fit_and_one_token_more_does_not(
    serving, served, tensor_parallel, dtype, fraction, budget
):
    try:
        memory = memory_model(serving, served, tensor_parallel, dtype, fraction, budget)
    except ValueError:
        assume(False)
    available_mb = memory.total_mb * fraction
    assert memory.used_mb(memory.kv_capacity_tokens, budget) <= available_mb * (1 + 1e-12)
    assert memory.used_mb(memory.kv_capacity_tokens + 1, budget) > available_mb * (1 - 1e-12)


def test_weights_and_ten_percent_workspace_are_there_whatever_is_served():
    served = model("Llama-2-13B")
    assert memory_model(device("A100-40GB"), served).fixed_mb * MB == pytest.approx(1.1 * weight_bytes(served))


def test_a_larger_token_budget_leaves_less_for_the_cache():
    sizes = [
        memory_model(device("T4"), model("Qwen3-0.6B"), token_budget=budget).kv_capacity_tokens
        for budget in (512, 2048, 8192)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


def test_a_step_beyond_the_budget_can_run_out_of_memory():
    memory = memory_model(device("A10"), model("Llama-2-7B"), memory_fraction=1.0, token_budget=512)
    assert memory.used_mb(memory.kv_capacity_tokens, 512) <= memory.total_mb
    assert memory.used_mb(memory.kv_capacity_tokens, 1024) > memory.total_mb


def test_a_model_that_does_not_fit_is_refused_with_numbers_and_the_way_out():
    serving, served = device("A100-80GB"), model("Llama-2-70B")
    with pytest.raises(ValueError, match=r"144,719 MB .* may use 73,728 MB .*; tensor_parallel 2 is the smallest"):
        memory_model(serving, served)
    assert memory_model(serving, served, tensor_parallel=2).kv_capacity_tokens > 0


def test_a_device_without_a_link_cannot_share_a_model():
    with pytest.raises(ValueError, match="no tensor_parallel fits"):
        memory_model(device("M3-Pro"), model("Llama-2-70B"))
    with pytest.raises(ValueError, match="tensor_parallel is 2; Llama-2-70B on M3-Pro allows 1"):
        memory_model(device("M3-Pro"), model("Llama-2-70B"), tensor_parallel=2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"tensor_parallel": 3}, "tensor_parallel is 3; Llama-2-7B on A100-40GB allows 1, 2, 4, 8"),
        ({"memory_fraction": 1.1}, "memory_fraction is 1.1"),
        ({"token_budget": 0}, "token_budget is 0"),
    ],
)
def test_arguments_outside_their_bound_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        memory_model(device("A100-40GB"), model("Llama-2-7B"), **arguments)
