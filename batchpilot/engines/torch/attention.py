"""Attention over the paged KV cache, registered with `transformers` so that any of its causal LMs can run on it."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from batchpilot.engines.torch.packing import AttentionGroup, PackedStep

PAGED_ATTENTION = "batchpilot_paged"
"""The name under which models find it: their `attn_implementation`."""

_UNSUPPORTED = ("softcap", "s_aux", "position_bias")
"""Arguments of attentions that compute something else; ignoring them would give wrong tokens."""


def paged_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    paged: PackedStep,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Write a step's keys and values into the cache, then attend to each request's own context.

    Args:
        module: the attention layer; its `layer_idx` says whose cache it is.
        query: shape (1, heads, S, head_dim), the packed tokens of all requests.
        key: shape (1, kv_heads, S, head_dim).
        value: the same.
        attention_mask: None; the mask follows from `paged`.
        paged: the step, passed through the model's forward.
        scaling: of the scores, None for one over the root of head_dim.
        sliding_window: tokens that this layer sees, None for all.
        **others: what else the model passes.

    Returns:
        Shape (1, S, heads, head_dim), and no weights.

    Raises:
        NotImplementedError: the model's attention does more than scale and mask.
    """
    for name in _UNSUPPORTED:
        if others.get(name) is not None:
            raise NotImplementedError(f"paged attention has no {name!r}, which {type(module).__name__} needs")
    cache, layer = paged.cache, module.layer_idx
    cache.write(layer, paged.slots, key[0].transpose(0, 1), value[0].transpose(0, 1))
    queries = query[0].transpose(0, 1)
    rows = []
    for group in paged.groups:
        keys, values = cache.contexts(layer, group.table)
        rows.append(_attend(queries[group.rows], keys, values, group, scaling, sliding_window).flatten(0, 1))
    return torch.cat(rows).index_select(0, paged.unpadded).unsqueeze(0), None


def _attend(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    group: AttentionGroup,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Attention of one group, queries and result of shape (n, T, heads, head_dim).

    The contexts of its requests, n times L keys and values, lie one after the other: shape (n * L, kv_heads, head_dim).
    """
    n, tokens, heads, size = queries.shape
    kv_heads = keys.shape[1]
    context_keys = keys.view(n, -1, kv_heads, size).transpose(1, 2)
    context_values = values.view(n, -1, kv_heads, size).transpose(1, 2)
    mask = group.mask(context_keys.shape[2], window, queries.dtype)
    if tokens == 1:
        # The heads that share keys stand in for queries, so that no key is read once a head.
        folded = queries.reshape(n, kv_heads, heads // kv_heads, size)
        out = scaled_dot_product_attention(folded, context_keys, context_values, mask, scale=scaling)
        return out.reshape(n, 1, heads, size)
    out = scaled_dot_product_attention(
        queries.transpose(1, 2), context_keys, context_values, mask, scale=scaling, enable_gqa=heads != kv_heads
    )
    return out.transpose(1, 2)


AttentionInterface.register(PAGED_ATTENTION, paged_attention)
