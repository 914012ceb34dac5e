"""batchpilot finds, and keeps finding, the batching limits an LLM inference server should run with."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchpilot.core import SLO, Limits, Tuner, WindowMetrics
    from batchpilot.engines import SimulationResult, simulate
    from batchpilot.latency import SaturationParameters
    from batchpilot.tuners import make_tuner
    from batchpilot.workloads import RequestTable

__version__ = "0.1.0"
__all__ = [
    "simulate",
    "SimulationResult",
    "RequestTable",
    "Limits",
    "WindowMetrics",
    "SLO",
    "Tuner",
    "SaturationParameters",
    "make_tuner",
]

_HOMES = {
    "simulate": "batchpilot.engines",
    "SimulationResult": "batchpilot.engines",
    "RequestTable": "batchpilot.workloads",
    "Limits": "batchpilot.core",
    "WindowMetrics": "batchpilot.core",
    "SLO": "batchpilot.core",
    "Tuner": "batchpilot.core",
    "SaturationParameters": "batchpilot.latency",
    "make_tuner": "batchpilot.tuners",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import batchpilot.serving` stays light."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'batchpilot' has no attribute {name!r}")
