"""From measured steps to parameters in one call; `batchpilot calibrate` does the same and says how far to trust it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchpilot.latency.fitting.measurement_files import read_measurements
from batchpilot.latency.fitting.observations import HIGHEST_MS, Observations
from batchpilot.latency.fitting.saturation_fit import Fit, fit


def calibrate(
    steps: str | Path | Observations,
    *,
    columns: Mapping[str, str] | None = None,
    select: Mapping[str, str] | None = None,
    highest_ms: float = HIGHEST_MS,
    **how: Any,
) -> Fit:
    """Fit the saturation model to measured steps.

        found = calibrate("steps.csv")
        simulate(requests, found.parameters, Limits(batch_size=64))

    Args:
        steps: a CSV file of measured steps, as `read_measurements` takes it, or the steps.
        columns: of the file, as there.
        select: rows of the file, as there.
        highest_ms: slower steps are left out; raise it where prefills of a large model were measured.
        **how: further arguments of `fit`.

    Returns:
        `parameters`, and in `problems` why they should not be trusted, if anything speaks against it.

    Raises:
        ValueError: the file or an argument is wrong, or no usable step is left.
        OSError: the file cannot be read.
    """
    if isinstance(steps, Observations):
        observations, named = steps, "the steps"
    else:
        observations, named = read_measurements(steps, columns, select).observations, str(steps)
    usable, dropped = observations.cleaned(highest_ms=highest_ms)
    if not len(usable):
        raise ValueError(f"{named}: no usable step is left ({dropped})")
    return fit(usable, **how)
