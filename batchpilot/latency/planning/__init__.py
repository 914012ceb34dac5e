"""What a latency model allows: limits, rates, batches and shares, by closed forms.

They need scipy, so their names are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchpilot.latency.planning.demand import Demand
    from batchpilot.latency.planning.inverse import best_step, sla_inverse
    from batchpilot.latency.planning.planner import Plan, plan

__all__ = ["plan", "Plan", "Demand", "best_step", "sla_inverse"]

_HOMES = {"plan": "planner", "Plan": "planner", "Demand": "demand", "best_step": "inverse", "sla_inverse": "inverse"}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name in _HOMES:
        return getattr(import_module(f"batchpilot.latency.planning.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'batchpilot.latency.planning' has no attribute {name!r}")
