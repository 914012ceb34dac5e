"""From a configuration to its decoder layers: which kind each one is, and the parts it is made of."""

from __future__ import annotations

from dataclasses import replace

from batchpilot.configs.models.dimensions import (
    attention_shape,
    expert_count,
    expert_width,
    experts_used,
    feed_forward_width,
    hidden_size,
    window_tokens,
)
from batchpilot.configs.models.families import GATED_ATTENTION, PLAIN_FEED_FORWARD, QKV_BIAS, SHARED_EXPERT_GATE
from batchpilot.configs.models.fields import Fields
from batchpilot.configs.models.parts import (
    Part,
    compressed_attention,
    delta_attention,
    dense,
    experts,
    gated_delta,
    grouped_attention,
    latent_attention,
    linear_attention,
    short_convolution,
    state_space,
)

MOST_LAYERS = 10_000

_KINDS = {
    "full_attention": "full",
    "deepseek_sparse_attention": "full",
    "indexed_attention": "full",
    "attention": "full",
    "global": "full",
    "sliding_attention": "window",
    "local": "window",
    "chunked_attention": "window",
    "linear_attention": "linear",
    "mamba": "mamba",
    "conv": "conv",
    "hybrid": "hybrid",
    "mlp": "dense",
    "moe": "experts",
}
"""Kinds of attention by what `layer_types` calls them."""

_PATTERN = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
"""The same by their letter in `hybrid_override_pattern`."""

_ONE_PART = frozenset(["nemotron_h"])
"""Families whose layers have one part alone."""


def read_layers(fields: Fields, family: str) -> list[list[Part]]:
    """The parts of every decoder layer.

    Args:
        fields: of the language part of a configuration.
        family: its `model_type`.

    Raises:
        ValueError: a figure is missing or wrong, or a layer is of a kind that is not known.
    """
    blocks = fields.items("block_configs")
    if blocks:
        return [_searched(fields, block) for block in blocks]
    listed = _listed_kinds(fields)
    count = fields.count("num_hidden_layers", "n_layer", "n_layers", "num_layers", default=len(listed) or None)
    if count > MOST_LAYERS:
        raise ValueError(f"num_hidden_layers is {count}; it must be at most {MOST_LAYERS} ({fields.where})")
    if listed and len(listed) != count:
        raise ValueError(f"layer_types has {len(listed)} entries for {count} layers ({fields.where})")
    if family in _ONE_PART and listed:
        return [_single(fields, family, kind) for kind in listed]
    kinds = listed or _attention_kinds(fields, family, count)
    ratios = fields.items("compress_ratios")
    if ratios and len(ratios) >= count:
        heads, _, head_dim = attention_shape(fields)
        return [
            [
                compressed_attention(fields, heads, head_dim, hidden_size(fields), int(ratios[index])),
                *_feed_forward(fields, family, index),
            ]
            for index in range(count)
        ]
    shared = fields.count("num_kv_shared_layers", default=0, lowest=0)
    own = fields.inner("per_layer_config")
    layers = []
    for index, kind in enumerate(kinds):
        here = _layer_fields(fields, own, index)
        layers.append([*_attention(here, family, kind, index < count - shared), *_feed_forward(here, family, index)])
    return layers


def _layer_fields(fields: Fields, own: Fields | None, index: int) -> Fields:
    """A layer's figures: those of all layers, and what `per_layer_config` says of this one."""
    inner = own.inner(f"{index:02d}", str(index)) if own is not None else None
    return fields if inner is None else replace(fields, data={**fields.data, **inner.data})


def _listed_kinds(fields: Fields) -> list[str]:
    """Kind of each layer where they are listed, else empty."""
    pattern = fields.text("hybrid_override_pattern")
    listed = [_PATTERN.get(letter, letter) for letter in pattern]
    listed = listed or fields.items("layer_types") or fields.items("layers_block_type") or []
    for kind in listed:
        if not isinstance(kind, str) or kind not in _KINDS:
            raise ValueError(f"layer type {kind!r} is not known (known: {', '.join(_KINDS)}; {fields.where})")
    return [_KINDS[kind] for kind in listed]


def _attention_kinds(fields: Fields, family: str, count: int) -> list[str]:
    """Kind of attention of each layer, where they are not listed."""
    windowed = fields.items("hybrid_layer_pattern")
    if windowed:
        return ["window" if at < len(windowed) and windowed[at] else "full" for at in range(count)]
    linear = fields.inner("linear_attn_config")
    if linear is not None:
        full = {int(layer) for layer in linear.items("full_attn_layers") or ()}
        return ["full" if at + 1 in full else "delta" for at in range(count)]
    if family == "falcon_h1":
        return ["hybrid"] * count
    if family == "bamba":
        full = set(fields.items("attn_layer_indices") or ())
        return ["full" if at in full else "mamba" for at in range(count)]
    if fields.value("attn_layer_period") is not None:
        period, offset = fields.count("attn_layer_period"), fields.count("attn_layer_offset", default=0, lowest=0)
        return ["full" if at % period == offset else "mamba" for at in range(count)]
    every, other = 1, "window"
    if fields.value("linear_num_value_heads") is not None:
        every, other = fields.count("full_attention_interval", default=4), "linear"
    elif family == "llama4_text":
        every = fields.count("no_rope_layer_interval", default=4)
    elif window_tokens(fields) is not None and fields.flag("use_sliding_window", default=True):
        every = fields.count("sliding_window_pattern", "_sliding_window_pattern", default=0, lowest=0)
        first = fields.count("max_window_layers", default=0, lowest=0)
        if not every:
            return ["window" if at >= first else "full" for at in range(count)]
    return ["full" if (at + 1) % every == 0 else other for at in range(count)]


def _attention(fields: Fields, family: str, kind: str, cached: bool = True) -> list[Part]:
    """The attention, or what stands for it, of one layer."""
    hidden = hidden_size(fields)
    spaced = kind == "linear" and fields.value("ssm_state_size", "mamba_d_state") is not None
    if kind == "mamba" or spaced:
        return [state_space(fields, hidden)]
    if kind == "linear":
        if fields.value("linear_num_value_heads") is not None:
            return [gated_delta(fields, hidden)]
        heads, _, head_dim = attention_shape(fields)
        return [linear_attention(heads, head_dim, hidden)]
    if kind == "conv":
        return [short_convolution(fields, hidden)]
    if kind == "delta":
        linear = fields.inner("linear_attn_config")
        return [delta_attention(linear, hidden)] if linear is not None else []
    heads, kv_heads, head_dim = attention_shape(fields)
    if fields.value("kv_lora_rank") is not None:
        return [latent_attention(fields, heads, hidden)]
    value_dim = fields.count("v_head_dim", default=head_dim)
    window = window_tokens(fields) if kind == "window" else None
    if kind == "window":
        heads = fields.count("swa_num_attention_heads", default=heads)
        kv_heads = fields.count("swa_num_key_value_heads", default=kv_heads)
        head_dim = fields.count("swa_head_dim", default=head_dim)
        value_dim = fields.count("swa_v_head_dim", default=value_dim)
    elif fields.value("global_head_dim") is not None:
        kv_heads = fields.count("num_global_key_value_heads", default=kv_heads)
        head_dim = value_dim = fields.count("global_head_dim")
    part = grouped_attention(
        heads,
        kv_heads,
        head_dim,
        hidden,
        value_dim=value_dim,
        window=window,
        bias=fields.flag("attention_bias") or family in QKV_BIAS,
        gated=fields.flag("attn_output_gate") or family in GATED_ATTENTION,
        keys_are_values=fields.flag("attention_k_eq_v") and kind != "window",
        cached=cached,
    )
    return [part, state_space(fields, hidden)] if kind == "hybrid" else [part]


def _feed_forward(fields: Fields, family: str, index: int) -> list[Part]:
    hidden, gated = hidden_size(fields), family not in PLAIN_FEED_FORWARD
    bias = fields.flag("mlp_bias")
    plain = dense(hidden, feed_forward_width(fields), gated=gated, bias=bias)
    if not expert_count(fields):
        return [plain]
    if fields.flag("enable_moe_block"):
        return [plain, replace(_experts(fields, family), module="experts")]
    return [_experts(fields, family), *_shared(fields, family)] if _has_experts(fields, family, index) else [plain]


def _has_experts(fields: Fields, family: str, index: int) -> bool:
    kinds = fields.items("mlp_layer_types")
    if kinds:
        return index < len(kinds) and kinds[index] == "sparse"
    frequency = fields.value("moe_layer_freq")
    if isinstance(frequency, list):
        return index < len(frequency) and bool(frequency[index])
    if index in (fields.items("mlp_only_layers") or ()):
        return False
    if index < fields.count("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index", default=0, lowest=0):
        return False
    listed = fields.items("moe_layers")
    if listed:
        return index in listed
    step = fields.count("decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_freq", default=1)
    period = fields.count("expert_layer_period", default=0, lowest=0)
    if period:
        return index % period == fields.count("expert_layer_offset", default=0, lowest=0)
    if fields.value("moe_layer_freq") is not None:
        return index % step == 0
    return (index + 1) % step == 0


def _experts(fields: Fields, family: str) -> Part:
    width = expert_width(fields)
    used, count = experts_used(fields), expert_count(fields)
    if used > count:
        raise ValueError(f"num_experts_per_tok is {used}, of {count} experts ({fields.where})")
    return experts(
        hidden_size(fields),
        width,
        count,
        used,
        gated=family not in PLAIN_FEED_FORWARD,
        bias=family == "gpt_oss",
        routed=fields.count("moe_latent_size", "routed_expert_hidden_size", default=0, lowest=0) or None,
    )


def _shared(fields: Fields, family: str) -> list[Part]:
    """The expert that every token passes, where there is one."""
    names = ("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "share_expert_dim")
    width = fields.count(*names, "shared_intermediate_size", default=0, lowest=0)
    if not width:
        number = fields.count("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", default=0, lowest=0)
        width = number * expert_width(fields)
    if not width and family == "llama4_text":
        width = expert_width(fields)
    if not width:
        return []
    part = dense(hidden_size(fields), width, gated=family not in PLAIN_FEED_FORWARD)
    gate = hidden_size(fields) if family in SHARED_EXPERT_GATE else 0
    return [Part("mlp.shared_experts", part.weights, part.small + gate, width=width)]


def _single(fields: Fields, family: str, kind: str) -> list[Part]:
    """A layer of one part."""
    if kind == "dense":
        return [dense(hidden_size(fields), feed_forward_width(fields), gated=False)]
    if kind == "experts":
        return [_experts(fields, family), *_shared(fields, family)]
    return _attention(fields, family, kind)


def _searched(fields: Fields, block: object) -> list[Part]:
    """A layer whose parts were chosen by architecture search; each may be missing."""
    inner = Fields(block if isinstance(block, dict) else {}, f"block_configs of {fields.where}", {})
    attention, feed = inner.inner("attention"), inner.inner("ffn")
    if attention is None or feed is None:
        raise ValueError(f"a layer of block_configs lacks attention or ffn ({fields.where})")
    hidden, parts = hidden_size(fields), []
    heads = fields.count("num_attention_heads")
    if not attention.flag("no_op") and not attention.flag("replace_with_linear"):
        kv_heads = max(1, heads // attention.count("n_heads_in_group", default=1))
        parts.append(grouped_attention(heads, kv_heads, hidden // heads, hidden))
    if not feed.flag("no_op"):
        width = int(2 * feed.number("ffn_mult", 4.0) * hidden / 3)
        parts.append(dense(hidden, -(-width // 256) * 256))
    return parts
