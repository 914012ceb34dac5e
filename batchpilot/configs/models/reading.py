"""A model from its `config.json`, or from the folder that holds it: parameters counted, caches and types told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from batchpilot.configs.models.dimensions import (
    attention_shape,
    expert_count,
    experts_used,
    feed_forward_width,
    hidden_size,
)
from batchpilot.configs.models.families import ALIASES, DEFAULTS, REFUSED, TIED
from batchpilot.configs.models.fields import Fields, read_json
from batchpilot.configs.models.layers import read_layers
from batchpilot.configs.models.parts import Part
from batchpilot.configs.models.quantization import Quantization, read_quantization
from batchpilot.configs.models.spec import KvLayers, ModelSpec

_CONFIG, _QUANTIZATION = "config.json", "hf_quant_config.json"
_LANGUAGE = ("text_config", "language_config", "llm_config")
_STATE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_UNSCALED = ("default", "mrope", "longrope", "su", "llama3", "proportional")
"""Kinds of rope scaling after which the stated context is already the long one."""


def looks_like_model(name: str) -> bool:
    """Whether a name on the command line means a file or folder rather than a catalogued model.

    Args:
        name: as typed.
    """
    path = Path(name)
    return path.suffix == ".json" or path.exists() or name.startswith((".", "~", "/"))


def read_model(path: str | Path) -> ModelSpec:
    """A model from its `config.json`.

    Args:
        path: the file, or a folder that holds it, with its `hf_quant_config.json` where there is one.

    Raises:
        ValueError: the file is not JSON, lacks a figure or has one that makes no sense, or tells of a model that is not
            decoder-only; the message names file and key.
        OSError: it cannot be read.
    """
    path = Path(path).expanduser()
    file = path / _CONFIG if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise ValueError(f"{path} holds no {_CONFIG}; name a model's folder or its {_CONFIG}")
    beside = file.with_name(_QUANTIZATION)
    quantization = read_json(beside) if beside.is_file() else None
    name = path.name if path.is_dir() else path.stem if path.name != _CONFIG else file.resolve().parent.name
    return describe_model(read_json(file), name, str(file), quantization)


def describe_model(
    data: Mapping[str, Any], name: str, where: str, quantization: Mapping[str, Any] | None = None
) -> ModelSpec:
    """A model from the content of its `config.json`.

    Args:
        data: the content.
        name: what tables call it.
        where: what messages call the place it comes from.
        quantization: content of the `hf_quant_config.json` beside it, if any.

    Raises:
        ValueError: as `read_model`.
    """
    whole = Fields(data, where, {})
    family = whole.text("model_type")
    fields = whole
    for key in _LANGUAGE:
        inner = whole.inner(key)
        if inner is not None and inner.value("hidden_size", "model_type", "num_hidden_layers") is not None:
            fields, family = inner, inner.text("model_type") or family
            break
    family = ALIASES.get(family, family)
    if family in REFUSED or fields.flag("is_encoder_decoder"):
        kind = REFUSED.get(family, "an encoder with a decoder")
        raise ValueError(f"model_type {family!r} is {kind}; only decoder-only models are known ({where})")
    fields = replace(fields, defaults=DEFAULTS.get(family, {}))
    types = read_quantization(
        whole if whole.value("quantization_config") is not None else fields,
        Fields(quantization, f"{_QUANTIZATION} beside {where}", {}) if quantization is not None else None,
    )
    return _assembled(fields, whole, family, name, types)


def _assembled(fields: Fields, whole: Fields, family: str, name: str, types: Quantization) -> ModelSpec:
    layers = read_layers(fields, family)
    parts = [part for layer in layers for part in layer]
    hidden, vocabulary = hidden_size(fields), fields.count("vocab_size", "padded_vocab_size", "n_vocab")
    heads, kv_heads, head_dim = attention_shape(fields)
    tied = whole.flag("tie_word_embeddings", fields.flag("tie_word_embeddings", family in TIED))
    outside = vocabulary * hidden * (1 if tied else 2) + hidden * (2 * len(layers) + 1)
    outside += _per_layer_inputs(fields, len(layers), hidden)
    if family in ("gpt2", "opt", "gpt_bigcode"):
        outside += fields.count("n_positions", "max_position_embeddings", "n_ctx") * hidden
    outside += _vision(whole)
    total = outside + sum(part.weights + part.small for part in parts)
    idle = sum(part.weights - part.active for part in parts if part.active is not None)
    kept = outside + sum(part.small for part in parts) + _kept_weights(layers, types)
    state = fields.text("mamba_ssm_dtype", "mamba_ssm_cache_dtype") or "float32"
    widths = [sum(part.width for part in layer) for layer in layers]
    return ModelSpec(
        name=name,
        layers=len(layers),
        hidden_size=hidden,
        intermediate_size=max(widths, default=0) or feed_forward_width(fields),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        parameters=total,
        vocab_size=vocabulary,
        max_model_len=_context(fields),
        bytes_per_parameter=4 if fields.text("torch_dtype", "dtype") == "float32" else 2,
        dtype="fp32" if types.dtype == "fp16" and fields.text("torch_dtype", "dtype") == "float32" else types.dtype,
        kv_dtype=types.kv_dtype,
        unquantised_parameters=kept,
        active_parameters=total - idle if idle else None,
        experts=expert_count(fields),
        experts_per_token=experts_used(fields) if expert_count(fields) else 0,
        kv_layers=_caches(parts),
        state_bytes_per_request=sum(part.state_values for part in parts) * _STATE_BYTES.get(state, 4),
        source=f"counted from {fields.where}",
    )


def _caches(parts: list[Part]) -> tuple[KvLayers, ...]:
    """The layers that cache, those alike together, in the order of their first."""
    counts: dict[KvLayers, int] = {}
    for part in parts:
        for kind in part.cache:
            counts[kind] = counts.get(kind, 0) + 1
    return tuple(replace(kind, layers=count) for kind, count in counts.items())


def _kept_weights(layers: list[list[Part]], types: Quantization) -> int:
    """Weights of the layers' matrices that are not quantised though others are."""
    if types.dtype == "fp16":
        return 0
    leaf = {"mlp": "up_proj", "mlp.experts": "0.up_proj", "experts": "0.up_proj", "mlp.shared_experts": "up_proj"}
    return sum(
        part.weights
        for index, layer in enumerate(layers)
        for part in layer
        if types.keeps(f"model.layers.{index}.{part.module}.{leaf.get(part.module, 'o_proj')}")
    )


def _per_layer_inputs(fields: Fields, layers: int, hidden: int) -> int:
    """Embeddings that every layer has of its own, as small Gemma models do."""
    width = fields.count("hidden_size_per_layer_input", default=0, lowest=0)
    if not width:
        return 0
    vocabulary = fields.count("vocab_size_per_layer_input", "vocab_size")
    return layers * width * (vocabulary + hidden + 2 * hidden)


def _vision(whole: Fields) -> int:
    """Weights of a vision tower of the usual kind, 0 without one: they lie in memory though text passes them by."""
    tower = whole.inner("vision_config")
    if tower is None or tower.value("hidden_size", "embed_dim") is None:
        return 0
    hidden = tower.count("hidden_size", "embed_dim")
    width = tower.count("intermediate_size", default=4 * hidden)
    depth = tower.count("num_hidden_layers", "depth", default=0, lowest=0)
    return depth * (4 * hidden**2 + 2 * hidden * width)


def _context(fields: Fields) -> int:
    """Longest prompt plus output: what the file states, lengthened by a rope scaling that the statement leaves out."""
    names = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "model_max_length")
    stated = fields.count(*names, "max_seq_len", "n_ctx", default=2048)
    scaling = fields.inner("rope_scaling", "rope_parameters")
    if scaling is None:
        return stated
    kind = scaling.text("rope_type", "type")
    if kind in _UNSCALED or scaling.value("factor") is None:
        return stated
    if kind == "yarn":
        stated = scaling.count("original_max_position_embeddings", default=stated)
    return int(stated * scaling.number("factor", 1.0))
