"""Sizes that all layers of a configuration share, each under whichever name the file gives it."""

from __future__ import annotations

from batchpilot.configs.models.fields import Fields


def hidden_size(fields: Fields) -> int:
    """Width of the residual stream.

    Args:
        fields: of the configuration.
    """
    return fields.count("hidden_size", "n_embd", "d_model", "dim")


def attention_shape(fields: Fields) -> tuple[int, int, int]:
    """Query heads, key and value heads, and numbers in a head.

    Args:
        fields: of the configuration.

    Raises:
        ValueError: one is missing or wrong, or the KV heads do not divide the others.
    """
    heads = fields.count("num_attention_heads", "n_head", "n_heads", "num_heads")
    one = fields.flag("multi_query") and not fields.flag("new_decoder_architecture")
    inner = fields.inner("attn_config")
    default = inner.count("kv_n_heads", default=heads) if inner is not None else heads
    names = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")
    kv_heads = 1 if one else fields.count(*names, default=default)
    if heads % kv_heads:
        raise ValueError(f"num_key_value_heads {kv_heads} does not divide num_attention_heads {heads} ({fields.where})")
    return heads, kv_heads, fields.count("head_dim", "kv_channels", default=max(1, hidden_size(fields) // heads))


def feed_forward_width(fields: Fields) -> int:
    """Width of a dense feed-forward layer.

    Args:
        fields: of the configuration; in Llama 4's, `intermediate_size` is an expert's.
    """
    names = ("intermediate_size_mlp", "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff")
    width = fields.count(*names, default=4 * hidden_size(fields))
    if fields.value("block_auto_adjust_ff_dim") is True:  # of LFM2: two thirds, scaled and rounded up
        multiple = fields.count("block_multiple_of", default=256)
        width = int(fields.number("block_ffn_dim_multiplier", 1.0) * int(2 * width / 3))
        width = -(-width // multiple) * multiple
    return width


def expert_count(fields: Fields) -> int:
    """Routed experts of a layer, 0 for a dense model.

    Args:
        fields: of the configuration.
    """
    names = ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts")
    return fields.count(*names, default=0, lowest=0)


def experts_used(fields: Fields) -> int:
    """Routed experts that a token passes.

    Args:
        fields: of the configuration.
    """
    names = (
        "num_experts_per_tok",
        "experts_per_token",
        "num_experts_per_token",
        "top_k_experts",
        "moe_topk",
        "moe_k",
        "moe_top_k",
    )
    return fields.count(*names)


def expert_width(fields: Fields) -> int:
    """Width of an expert.

    Args:
        fields: of the configuration.
    """
    names = ("moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size", "ffn_hidden_size")
    return fields.count(*names, default=4 * hidden_size(fields))


def window_tokens(fields: Fields) -> int | None:
    """Tokens that a layer with a window keeps, None where no layer has one.

    Args:
        fields: of the configuration.
    """
    for name in ("sliding_window", "attention_chunk_size", "sliding_window_size"):
        if fields.value(name) is not None:
            return fields.count(name)
    return None
