"""The real engine: a Hugging Face causal LM with a paged KV cache, driven by the simulator's own scheduler.

Needs the extra `torch`; nothing else in the package imports this folder.
"""

from __future__ import annotations

from batchpilot.core.extras import needing

with needing("the torch engine", "torch"):
    import torch  # noqa: F401
    import transformers  # noqa: F401

from batchpilot.core.sampling import Sampling
from batchpilot.engines.torch.engine import TorchEngine, TorchEngineConfig
from batchpilot.engines.torch.live import LiveEngine
from batchpilot.engines.torch.live_events import OUT_OF_MEMORY, Event, LiveStep
from batchpilot.engines.torch.model import PRESETS, load_model
from batchpilot.engines.torch.runner import ModelRunner
from batchpilot.engines.torch.telemetry import Telemetry, TelemetrySample

__all__ = [
    "TorchEngine",
    "TorchEngineConfig",
    "LiveEngine",
    "LiveStep",
    "Event",
    "OUT_OF_MEMORY",
    "ModelRunner",
    "Sampling",
    "Telemetry",
    "TelemetrySample",
    "load_model",
    "PRESETS",
]
