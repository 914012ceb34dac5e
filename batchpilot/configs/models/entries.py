"""A model as a catalogue file tells of it: by its figures, or by the facts of its `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from batchpilot.configs.models.reading import describe_model, read_model
from batchpilot.configs.models.spec import KvLayers, ModelSpec

_BESIDE_CONFIG = ("aliases", "source", "parameters", "active_parameters", "dtype", "kv_dtype", "max_model_len")


def make_model(*, name: str, **figures: Any) -> ModelSpec:
    """A model from a catalogue entry.

    Args:
        name: its name.
        **figures: fields of `ModelSpec`; or `config`, the path of a `config.json` or its content, and beside it only
            what that does not tell or tells otherwise.

    Raises:
        ValueError: a figure is wrong.
        TypeError: one is missing or unknown.
        OSError: the `config` cannot be read.
    """
    if "config" not in figures:
        layers = figures.pop("kv_layers", ())
        return ModelSpec(name=name, kv_layers=tuple(_kv_layers(one) for one in layers), **figures)
    config = figures.pop("config")
    beyond = sorted(set(figures) - set(_BESIDE_CONFIG))
    if beyond:
        raise ValueError(f"{beyond[0]} cannot stand beside config (allowed: {', '.join(_BESIDE_CONFIG)})")
    if isinstance(config, Mapping):
        described = describe_model(config, name, f"config of {name}")
    elif isinstance(config, str):
        described = read_model(config)
    else:
        raise ValueError(f"config is {config!r}; it must be the path of a config.json, or its content")
    return replace(described, **({"name": name} | figures))


def _kv_layers(given: Any) -> KvLayers:
    if not isinstance(given, Mapping):
        raise ValueError(f"kv_layers holds {given!r}; each must be a mapping of layers, values, heads and window")
    return KvLayers(**given)
