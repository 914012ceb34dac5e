"""How many KV tokens fit: from what is free once the weights are loaded, less what a step was measured to need."""

from __future__ import annotations

import torch

from batchpilot.engines.memory import MB, MemoryModel
from batchpilot.engines.torch.device import free_and_total_bytes

GATHER_COPIES = 2
"""Attention copies one layer's contexts out of the cache, padded to at most twice their length on average."""


def weight_bytes(model: torch.nn.Module) -> int:
    """Parameters and buffers of a model, shared ones once.

    Args:
        model: any module.
    """
    held = {tensor.data_ptr(): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}
    return sum(held.values())


def divide_memory(
    device: torch.device,
    *,
    fraction: float,
    weights: int,
    token_bytes: int,
    gathered_bytes: float,
    activation_peak: int,
    step_tokens: int,
    kv_capacity_tokens: int | None,
) -> MemoryModel:
    """Divide what is free between the KV cache and the largest step.

    Args:
        device: the engine's, weights loaded.
        fraction: share of the free memory to take, in (0, 1]; the rest is the safety margin.
        weights: bytes of the weights.
        token_bytes: KV cache of one token.
        gathered_bytes: keys and values of one token in one layer, as attention reads them.
        activation_peak: bytes that a step of `step_tokens` held at its peak.
        step_tokens: tokens of that step.
        kv_capacity_tokens: KV tokens to set aside, None for all that fit.

    Raises:
        ValueError: the fraction is outside its bound, or the tokens do not fit.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"memory_fraction is {fraction}; it must be above 0 and at most 1")
    free, total = free_and_total_bytes(device)
    spent_per_token = token_bytes + GATHER_COPIES * gathered_bytes
    fitting = max(int((free * fraction - activation_peak) // spent_per_token), 0)
    capacity = fitting if kv_capacity_tokens is None else kv_capacity_tokens
    if not 1 <= capacity <= fitting:
        raise ValueError(
            f"kv_capacity_tokens {capacity:,} must be from 1 to the {fitting:,} that fit: {device} has "
            f"{free / MB:,.0f} MB free, of which {fraction:g} may be used, a step of {step_tokens} tokens takes "
            f"{activation_peak / MB:,.0f} MB and a KV token {token_bytes / 1024:,.1f} KB"
        )
    return MemoryModel(
        total_mb=total / MB,
        fixed_mb=weights / MB,
        kv_mb_per_token=token_bytes / MB,
        activation_mb_per_token=activation_peak / step_tokens / MB,
        kv_capacity_tokens=capacity,
    )
