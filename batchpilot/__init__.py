"""batchpilot finds, and keeps finding, the batching limits an LLM inference server should run with.

    from batchpilot import Limits, RequestTable, SaturationParameters, make_tuner, read_trace, simulate

    latency = SaturationParameters.from_yaml("latency.yaml")   # of `batchpilot calibrate`
    requests = read_trace("requests.csv", "csv")
    fixed = simulate(requests, latency, Limits(batch_size=64, token_budget=2048))
    tuned = simulate(requests, latency, make_tuner("guarded-adaptive"))
    print(fixed)
    print(tuned)

In a server, `load_policy` and `TunerSession`; as an environment, `gymnasium.make("batchpilot/Batching-v0")` after
`import batchpilot.envs`. Commands: `batchpilot --help`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchpilot.core import SLO, Limits, Tuner, WindowMetrics
    from batchpilot.engines import SimulationResult, simulate
    from batchpilot.fleet import simulate_fleet
    from batchpilot.latency import SaturationParameters, calibrate, plan
    from batchpilot.serving import TunerSession, load_policy
    from batchpilot.tuners import make_tuner
    from batchpilot.workloads import RequestTable, read_trace

__version__ = "0.2.0"
__all__ = [
    "simulate",
    "simulate_fleet",
    "SimulationResult",
    "RequestTable",
    "read_trace",
    "Limits",
    "WindowMetrics",
    "SLO",
    "Tuner",
    "make_tuner",
    "TunerSession",
    "load_policy",
    "SaturationParameters",
    "calibrate",
    "plan",
]

_HOMES = {
    "simulate": "batchpilot.engines",
    "SimulationResult": "batchpilot.engines",
    "simulate_fleet": "batchpilot.fleet",
    "RequestTable": "batchpilot.workloads",
    "read_trace": "batchpilot.workloads",
    "Limits": "batchpilot.core",
    "WindowMetrics": "batchpilot.core",
    "SLO": "batchpilot.core",
    "Tuner": "batchpilot.core",
    "make_tuner": "batchpilot.tuners",
    "TunerSession": "batchpilot.serving",
    "load_policy": "batchpilot.serving",
    "SaturationParameters": "batchpilot.latency",
    "calibrate": "batchpilot.latency",
    "plan": "batchpilot.latency",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import batchpilot.serving` stays light."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'batchpilot' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, those that are not loaded yet among them."""
    return [*__all__, "__version__"]
