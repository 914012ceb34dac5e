"""What configurations leave unsaid: the defaults of the software that reads them, by `model_type`."""

from __future__ import annotations

from typing import Any


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


TIED: frozenset[str] = _names(
    "gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text gemma4 gemma4_text gpt2 gpt_bigcode gpt_neo "
    "bloom opt falcon mpt cohere cohere2 starcoder2 smollm3 ernie4_5 ernie4_5_moe lfm2 lfm2_moe"
)
"""Embeddings serve as output matrix too unless the file says otherwise."""

PLAIN_FEED_FORWARD: frozenset[str] = _names(
    "gpt2 gpt_neo gpt_neox gptj gpt_bigcode falcon phi opt bloom mpt starcoder2 nemotron nemotron_h "
    "codegen apertus arcee"
)
"""Two matrices, without a gate."""

QKV_BIAS: frozenset[str] = _names("qwen2 qwen2_moe qwen2_vl_text gpt2 gpt_neox gpt_bigcode opt bloom phi starcoder2")
"""Biases that no key tells of."""

GATED_ATTENTION: frozenset[str] = _names("qwen3_next qwen3_5_text qwen3_5_moe_text")
"""A gate beside the queries, which not every file tells of by `attn_output_gate`."""

SHARED_EXPERT_GATE: frozenset[str] = _names("qwen2_moe qwen3_next qwen3_5_moe qwen3_5_moe_text qwen3_omni_moe_text")

REFUSED: dict[str, str] = {
    **dict.fromkeys(
        ["bert", "roberta", "xlm-roberta", "deberta-v2", "electra", "modernbert", "distilbert"], "an encoder"
    ),
    **dict.fromkeys(
        ["t5", "mt5", "bart", "mbart", "whisper", "m2m_100", "pegasus", "marian"], "an encoder with a decoder"
    ),
    **dict.fromkeys(_names("clip siglip vit dinov2"), "a vision model"),
    **dict.fromkeys(
        ["mamba", "mamba2", "zamba", "zamba2", "recurrent_gemma", "rwkv", "longcat_flash"], "not counted here yet"
    ),
}
"""What no figures are told for, and why."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma3_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
    },
    "gemma2": {"head_dim": 256, "sliding_window": 4096, "sliding_window_pattern": 2},
    "gemma": {"head_dim": 256},
    "cohere2": {"sliding_window_pattern": 4},
    "gpt_oss": {"sliding_window": 128, "sliding_window_pattern": 2},
    "llama4_text": {"attention_chunk_size": 8192},
    "mistral": {"num_key_value_heads": 8, "sliding_window": None},
    "gpt2": {"n_positions": 1024},
    "falcon": {"multi_query": True},
    "phi3": {"sliding_window": None},
    "deepseek_v2": {"qk_rope_head_dim": 64},
}
"""By `model_type`, as `transformers` has them: files that were written by it leave out what equals its default."""

ALIASES: dict[str, str] = {"gemma3": "gemma3_text", "gemma4": "gemma4_text", "llama4": "llama4_text"}
"""Types of the whole whose language part has a type of its own."""
