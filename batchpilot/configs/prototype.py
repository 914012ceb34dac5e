"""The 24 settings after DESIGN's prototype: two Azure traces, three devices, two rates, two promises.

The prototype's rates were not published. These are chosen so that what servers ship and the best single setting of
track `limits` serve about the shares that DESIGN's table gives (0.41 and 0.72 there; 0.42 and 0.71 here).
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

from batchpilot.configs.recordings import recordings
from batchpilot.configs.scenario import Scenario

PROTOTYPE = "prototype"
"""The suite's name."""

MODEL = "Llama-3-8B"

RATE_AT_CAPACITY: dict[tuple[str, str], float] = {
    ("azure-conv", "A10"): 0.2800,
    ("azure-conv", "A100-80GB"): 1.0591,
    ("azure-conv", "H100-80GB"): 2.7083,
    ("azure-code", "A10"): 0.6489,
    ("azure-code", "A100-80GB"): 1.7738,
    ("azure-code", "H100-80GB"): 5.4411,
}
"""How many times as fast each trace must be replayed to arrive at a device's estimated capacity
(`envs.scenarios.capacity_per_s` at the trace's mean lengths, over its mean rate)."""

LOADS = (0.4, 0.85)
"""Mean rates, as multiples of the capacity."""

PROMISES = ((2000.0, 100.0), (1000.0, 60.0))
"""TTFT and TPOT targets in ms."""


def prototype_scenarios(folder: str | Path) -> list[Scenario]:
    """The 24 settings, each replaying a whole trace.

    Args:
        folder: where the published traces lie, under their own names.

    Raises:
        FileNotFoundError: the folder lacks one of them; the message names it and its source.
    """
    for name, recording in recordings().items():
        if not (Path(folder) / recording.file).is_file():
            raise FileNotFoundError(f"suite {PROTOTYPE} replays {name}, and {folder} has no {recording.file}")
    return [
        _setting(trace, device, load, promise, Path(folder))
        for (trace, device), load, promise in product(RATE_AT_CAPACITY, LOADS, PROMISES)
    ]


def _setting(trace: str, device: str, load: float, promise: tuple[float, float], folder: Path) -> Scenario:
    ttft_ms, tpot_ms = promise
    rate = load * RATE_AT_CAPACITY[trace, device]
    return Scenario.model_validate(
        {
            "name": f"{trace.removeprefix('azure-')}-{device.lower()}-{load:g}-{ttft_ms:.0f}ms",
            "description": f"{trace} at {load:g} of the capacity, TTFT {ttft_ms:.0f} ms and TPOT {tpot_ms:.0f} ms.",
            "family": "trace",
            "device": device,
            "model": MODEL,
            "slos": {"interactive": {"ttft_ms": ttft_ms, "tpot_ms": tpot_ms}},
            "workload": {"trace": {"file": str(folder / recordings()[trace].file), "rate": rate}},
        }
    )
