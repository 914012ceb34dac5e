"""Models: the facts that decide how much memory and work a token takes, catalogued or read from a `config.json`."""

from batchpilot.configs.models.reading import describe_model, looks_like_model, read_model
from batchpilot.configs.models.spec import KvLayers, ModelSpec

__all__ = ["KvLayers", "ModelSpec", "describe_model", "looks_like_model", "read_model"]
