"""Fleets: replicas of the one scheduler behind a router, tuned, scaled and struck by faults."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchpilot.fleet.rate_limit import RateLimit
    from batchpilot.fleet.result import FleetResult
    from batchpilot.fleet.routers import Router
    from batchpilot.fleet.simulation import Fleet, simulate_fleet
    from batchpilot.fleet.spec import Fault, Link, ReplicaSpec
    from batchpilot.fleet.tuner import FleetPlan, FleetTuner

__all__ = [
    "simulate_fleet",
    "Fleet",
    "FleetResult",
    "ReplicaSpec",
    "Link",
    "Router",
    "Fault",
    "RateLimit",
    "FleetTuner",
    "FleetPlan",
]

_HOMES = {
    "simulate_fleet": "simulation",
    "Fleet": "simulation",
    "FleetResult": "result",
    "ReplicaSpec": "spec",
    "Link": "spec",
    "Router": "routers",
    "Fault": "spec",
    "RateLimit": "rate_limit",
    "FleetTuner": "tuner",
    "FleetPlan": "tuner",
}


def __getattr__(name: str) -> Any:
    """Import on first use: a gateway that routes needs no compiler."""
    if name in _HOMES:
        return getattr(import_module(f"batchpilot.fleet.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'batchpilot.fleet' has no attribute {name!r}")
