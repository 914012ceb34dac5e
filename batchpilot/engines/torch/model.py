"""Which model is served: any Hugging Face causal LM, its own weights where there are some, random ones otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import model_info
from huggingface_hub.errors import HTTPError
from transformers import AutoConfig, AutoModelForCausalLM

from batchpilot.core.names import lookup, unknown_name
from batchpilot.engines.packaged import PACKAGED
from batchpilot.engines.torch.attention import PAGED_ATTENTION
from batchpilot.engines.torch.quantisation import quantise_weights

_HUB_TIMEOUT_S = 5.0

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "tiny-llama": {
        "model_type": "llama",
        "vocab_size": 256,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.2,
    },
    "tiny-qwen3": {
        "model_type": "qwen3",
        "vocab_size": 256,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "initializer_range": 0.2,
    },
    "small-qwen3": {
        "model_type": "qwen3",
        "vocab_size": 8192,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 32,
    },
    "llama-3-8b": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
    },
}
"""Sizes with random weights: two for tests (wide initial weights, so that attention shows in the tokens), one that a
processor serves in milliseconds, one with the shape of Llama 3 8B."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.bfloat16}
"""Types of weights, and the type that is computed in."""


def load_model(
    source: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    attention: str = PAGED_ATTENTION,
    seed: int = 0,
) -> Any:
    """A causal LM, ready to serve.

    Args:
        source: a name in `PRESETS` or `PACKAGED`; a folder with a `config.json` and, unless random weights will do,
            with weights; or what `from_pretrained` knows.
        device: torch device.
        dtype: "float32", "bfloat16", "float16", or "int8": weights of the layers in 8 bits, the rest in bfloat16.
        attention: the attention implementation; the paged one unless the model is to run on its own.
        seed: of random weights; equal seeds give equal weights, whatever the attention.

    Returns:
        The model in evaluation mode.

    Raises:
        ValueError: the name is no preset and nothing `from_pretrained` can load, its package is missing, or the type
            is unknown.
    """
    weights_type = lookup(DTYPES, dtype, "dtype")
    settings: dict[str, Any] = {"attn_implementation": attention, "dtype": weights_type}
    if str(source) in PRESETS:
        preset = dict(PRESETS[str(source)])
        model = _random(AutoConfig.for_model(preset.pop("model_type"), **preset), settings, device, seed)
    elif str(source) in PACKAGED:
        file = PACKAGED[str(source)].path()
        if hasattr(transformers, "GgufConfig"):  # versions before it unpack the weights in any case
            settings["quantization_config"] = transformers.GgufConfig(gguf_file=file.name, dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, local_files_only=True, **settings
        )
    elif (Path(source) / "config.json").is_file() and not _has_weights(Path(source)):
        model = _random(AutoConfig.from_pretrained(source), settings, device, seed)
    else:
        try:
            model = AutoModelForCausalLM.from_pretrained(source, local_files_only=_only_local(source), **settings)
        except OSError as error:
            raise ValueError(
                unknown_name(str(source), [*PRESETS, *PACKAGED], "model, neither a preset nor loadable:")
            ) from error
    model = model.to(device).eval()
    if dtype == "int8":
        quantise_weights(model)
    return model


def _random(config: Any, settings: dict[str, Any], device: str, seed: int) -> Any:
    """The configuration's model with random weights; the caller's random state is left as it was."""
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        auto: Any = AutoModelForCausalLM
        return auto.from_config(config, **settings)


def _only_local(source: str | Path) -> bool:
    """Whether it is a folder, or the hub does not answer; `from_pretrained` would ask again for half a minute."""
    if Path(source).is_dir():
        return True
    try:
        model_info(str(source), timeout=_HUB_TIMEOUT_S)
    except (HTTPError, OSError, ValueError):
        return True
    return False


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
