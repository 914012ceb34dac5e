"""What works find in whichever revision they run in, and what both revisions are given alike."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

Run = Callable[[], dict[str, Any]]
"""Does the work once; its figure is under "value"."""


FAST = {"p_max": 200.0, "k_b": 10.0, "k_s": 0.008, "tau_0": 4.7, "tau_c": 1e-5}
"""A device on which the hour takes 623,000 steps."""


SLOW = {"p_max": 80.0, "k_b": 10.0, "k_s": 0.01, "tau_0": 60.0, "tau_c": 1e-5}
"""A device on which 860 requests run at a time, in 5,200 steps."""


SERVED = {
    "p_max": 8.0,
    "k_b": 0.15,
    "k_s": 0.004,
    "w_0": 20.0,
    "tau_0": 8.0,
    "tau_b": 0.1,
    "tau_s": 0.01,
    "tau_c": 1e-4,
}
"""What stands for every scenario's engine, since the catalogue's devices differ between revisions."""


class NotAvailableError(Exception):
    """A side lacks what a work needs."""


def found(*places: str) -> Any:
    """The first of some `module:name` that this revision has.

    Args:
        *places: newest first.
    """
    for place in places:
        module, _, name = place.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except (ModuleNotFoundError, AttributeError):
            continue
    raise NotAvailableError(f"it has none of {', '.join(places)}")


def timed(run: Callable[[], Any], times: int = 1, scale: float = 1e3) -> dict[str, Any]:
    """The mean time of a call, in ms unless scaled otherwise."""
    started = time.perf_counter()
    for _ in range(times):
        run()
    return {"value": scale * (time.perf_counter() - started) / times}


def parameters(values: dict[str, float]) -> Any:
    """Saturation parameters."""
    return found("batchpilot:SaturationParameters")(**values)


@cache
def same_devices() -> None:
    """Every scenario's engine is `SERVED`, whatever the revision's catalogue says."""
    scenarios = importlib.import_module("batchpilot.envs.scenarios")
    scenarios.find_latency = lambda *_, **__: SimpleNamespace(parameters=parameters(SERVED), provenance="the same")
