"""The saturation model: how long a step takes, how well that is known, and what it allows.

Fitting needs scipy, so its names are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from batchpilot.latency.model.roofline import LatencyEstimate, roofline
from batchpilot.latency.model.saturation import SaturationParameters, largest_tokens, step_ms

if TYPE_CHECKING:
    from batchpilot.latency.fitting.calibrate import calibrate
    from batchpilot.latency.fitting.judging import compare, judge
    from batchpilot.latency.fitting.measurement_files import read_measurements
    from batchpilot.latency.fitting.observations import Observations
    from batchpilot.latency.fitting.regressors import REGRESSORS, make_regressor
    from batchpilot.latency.fitting.saturation_fit import Fit, fit
    from batchpilot.latency.model.entry import LatencyEntry
    from batchpilot.latency.model.registry import LatencyRegistry, find_latency
    from batchpilot.latency.online import AdaptiveLatency, BackgroundUpdates
    from batchpilot.latency.planning.demand import Demand
    from batchpilot.latency.planning.inverse import best_step, sla_inverse
    from batchpilot.latency.planning.planner import Plan, plan

__all__ = [
    "LatencyEstimate",
    "roofline",
    "SaturationParameters",
    "largest_tokens",
    "step_ms",
    "Observations",
    "read_measurements",
    "calibrate",
    "fit",
    "Fit",
    "make_regressor",
    "REGRESSORS",
    "judge",
    "compare",
    "AdaptiveLatency",
    "BackgroundUpdates",
    "sla_inverse",
    "best_step",
    "Demand",
    "plan",
    "Plan",
    "LatencyRegistry",
    "LatencyEntry",
    "find_latency",
]

_HOMES = {
    "Observations": "fitting.observations",
    "read_measurements": "fitting.measurement_files",
    "calibrate": "fitting.calibrate",
    "fit": "fitting.saturation_fit",
    "Fit": "fitting.saturation_fit",
    "make_regressor": "fitting.regressors",
    "REGRESSORS": "fitting.regressors",
    "judge": "fitting.judging",
    "compare": "fitting.judging",
    "AdaptiveLatency": "online",
    "BackgroundUpdates": "online",
    "sla_inverse": "planning.inverse",
    "best_step": "planning.inverse",
    "Demand": "planning.demand",
    "plan": "planning.planner",
    "Plan": "planning.planner",
    "LatencyRegistry": "model.registry",
    "LatencyEntry": "model.entry",
    "find_latency": "model.registry",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name in _HOMES:
        return getattr(import_module(f"batchpilot.latency.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'batchpilot.latency' has no attribute {name!r}")
