"""In which type a checkpoint keeps its weights and its cache, and which of its modules stay as they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

from batchpilot.configs.models.fields import Fields

Key = TypeVar("Key")
Type = TypeVar("Type")

_BY_BITS = {("int", 8): "int8", ("int", 4): "int4", ("float", 8): "fp8", ("float", 4): "nvfp4"}

_BY_METHOD = {
    "fp8": "fp8",
    "fbgemm_fp8": "fp8",
    "ptpc_fp8": "fp8",
    "mxfp4": "mxfp4",
}

_DEFAULT_BITS = {"awq": 4, "gptq": 4, "auto-round": 4, "gptqmodel": 4, "quanto": 8}
"""Methods that store integers, and of how many bits where the file does not say."""

_BY_ALGORITHM = {
    "FP8": "fp8",
    "FP8_PB_WO": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "FP8_BLOCK_SCALES": "fp8",
    "NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
    "W4A16_AWQ": "int4",
    "W4A8_AWQ": "int4",
    "INT4_AWQ": "int4",
    "W4A8_NVFP4_FP8": "nvfp4",
    "W4A16_MXFP4": "mxfp4",
    "W8A8_SQ_PER_CHANNEL": "int8",
    "MIXED_PRECISION": "nvfp4",
}

_ALWAYS_KEPT = ("embed_tokens", "lm_head")


@dataclass(frozen=True)
class Quantization:
    """How the weights of a checkpoint are stored.

    Attributes:
        dtype: type of the quantised ones; "fp16" where none is.
        kv_dtype: type that the cache is asked to be kept in, None where the file does not say.
        kept: patterns of module names that are not quantised.
    """

    dtype: str = "fp16"
    kv_dtype: str | None = None
    kept: tuple[str, ...] = ()

    def keeps(self, module: str) -> bool:
        """Whether a module stays as it was.

        Args:
            module: its full name, "model.layers.3.self_attn.q_proj".
        """
        return self.dtype == "fp16" or any(_matches(pattern, module) for pattern in (*_ALWAYS_KEPT, *self.kept))


def read_quantization(fields: Fields, beside: Fields | None = None) -> Quantization:
    """What a configuration says of its weights' type.

    Args:
        fields: of the configuration.
        beside: of the `hf_quant_config.json` in the same folder, where there is one.

    Raises:
        ValueError: a method or algorithm that is not known; the message names the known ones.
    """
    own = fields.inner("quantization_config")
    other = beside.inner("quantization") if beside is not None else None
    given = own or other
    if given is None:
        return Quantization()
    method, algorithm = given.text("quant_method").lower(), given.text("quant_algo").upper()
    cache = _cache_type(given)
    kept = tuple(
        str(name)
        for key in ("modules_to_not_convert", "ignore", "ignored_layers", "exclude_modules")
        for name in given.items(key) or ()
    )
    if given.inner("config_groups") is not None and not algorithm:
        return Quantization(_of_groups(given), cache, kept)
    if algorithm:
        return Quantization(_known(_BY_ALGORITHM, algorithm, "quant_algo", given), cache, kept)
    if method in ("bitsandbytes", ""):
        if given.flag("load_in_4bit"):
            return Quantization("int4", cache, kept)
        return Quantization("int8" if given.flag("load_in_8bit") else "fp16", cache, kept)
    if fields.text("expert_dtype") == "fp4":
        return Quantization("mxfp4", cache, kept)
    if method in _DEFAULT_BITS:
        bits = given.count("bits", "w_bit", default=_DEFAULT_BITS[method])
        return Quantization(_known(_BY_BITS, ("int", bits), "bits", given), cache, kept)
    return Quantization(_known(_BY_METHOD, method, "quant_method", given), cache, kept)


def _of_groups(given: Fields) -> str:
    """The narrowest type of any group: most weights have it."""
    found = []
    groups = given.inner("config_groups")
    for name in groups.data if groups is not None else ():
        group = groups.inner(name) if groups is not None else None
        weights = group.inner("weights") if group is not None else None
        if weights is not None:
            bits = weights.count("num_bits")
            kind = (weights.text("type") or "int", bits)
            if kind == ("float", 4) and weights.count("group_size", default=16, lowest=-1) == 32:
                found.append((bits, "mxfp4"))
            else:
                found.append((bits, _known(_BY_BITS, kind, "weights", given)))
    return min(found)[1] if found else "fp16"


def _cache_type(given: Fields) -> str | None:
    named = given.text("kv_cache_quant_algo").upper()
    if named:
        return {"FP8": "fp8", "INT8": "int8"}.get(named)
    if isinstance(given.value("kv_cache_scheme"), str):
        return (
            given.text("kv_cache_scheme").lower() if given.text("kv_cache_scheme").lower() in ("fp8", "int8") else None
        )
    scheme = given.inner("kv_cache_scheme")
    return "fp8" if scheme is not None and scheme.count("num_bits", default=8) == 8 else None


def _known(known: Mapping[Key, Type], key: Key, name: str, given: Fields) -> Type:
    if key not in known:
        names = ", ".join(str(one) for one in known)
        raise ValueError(f"{name} {key!r} of {given.where} is not known (known: {names})")
    return known[key]


def _matches(pattern: str, module: str) -> bool:
    """Whether a file's pattern names a module: `re:` before a regular expression, `*` as in file names, else a part."""
    pattern = pattern.replace("language_model.", "")
    if pattern.startswith("re:"):
        try:
            return re.match(pattern[3:], module) is not None
        except re.error:
            return False
    if any(mark in pattern for mark in "*?["):
        return (
            fnmatchcase(module, pattern) or fnmatchcase(module, f"{pattern}.*") or fnmatchcase(module, f"*.{pattern}")
        )
    return f".{pattern}." in f".{module}."
