"""From measured operators to a catalogue entry: query a grid, fit, judge each kind of step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from batchpilot.latency.fitting.observations import Observations
from batchpilot.latency.fitting.saturation_fit import fit
from batchpilot.latency.measured.grid import REGIMES, Step, grid_of_steps
from batchpilot.latency.measured.operators import MeasuredOperators, NotMeasuredError
from batchpilot.latency.model.saturation import SaturationParameters

LONGEST_MS = 3000.0
"""Steps beyond this are left out: no engine is run with them."""

_FEWEST = 20
_RANDOM_STARTS = 12
_DIGITS = 5


@dataclass(frozen=True, slots=True)
class MeasuredFit:
    """A fit to steps composed from measured operators.

    Attributes:
        parameters: of the saturation model, rounded to five digits.
        errors: mean relative error of each kind of step, by its name; NaN where there was none.
        points: steps that were fitted.
    """

    parameters: SaturationParameters
    errors: dict[str, float]
    points: int


def build_fit(source: MeasuredOperators, kv_capacity_tokens: float, experts: bool) -> MeasuredFit:
    """Query, fit and judge one deployment; the same every time.

    Each kind of step counts alike, however many of its steps fit.

    Args:
        source: the step times.
        kv_capacity_tokens: KV tokens of the deployment; steps with more are left out.
        experts: whether the model is a mixture.

    Raises:
        ValueError: too few steps could be queried.
    """
    steps, times = queried(source, kv_capacity_tokens)
    if len(steps) < _FEWEST:
        raise ValueError(f"only {len(steps)} steps of the grid could be queried for {source.deployment}")
    kind = np.array([REGIMES.index(step.regime) for step in steps])
    count = np.bincount(kind, minlength=len(REGIMES))
    observed = Observations(
        np.array([step.batch_size for step in steps], dtype=np.float64),
        np.array([step.tokens for step in steps], dtype=np.float64),
        np.array([step.context_tokens for step in steps], dtype=np.float64),
        times,
    )
    found = fit(observed, weights=len(steps) / (3 * count[kind]), experts=experts, random=_RANDOM_STARTS)
    parameters = rounded(found.parameters)
    predicted = parameters.predict(observed.batch_size, observed.tokens, observed.context_tokens)
    off = np.abs(predicted / times - 1)
    errors = {
        name: round(float(off[kind == place].mean()), 4) if count[place] else float("nan")
        for place, name in enumerate(REGIMES)
    }
    return MeasuredFit(parameters, errors, len(steps))


def queried(source: MeasuredOperators, kv_capacity_tokens: float) -> tuple[list[Step], np.ndarray]:
    """The steps of the grid that the source can tell, and their times in ms.

    Args:
        source: the step times.
        kv_capacity_tokens: KV tokens of the deployment.
    """
    steps, times = [], []
    for step in grid_of_steps(kv_capacity_tokens):
        try:
            time_ms = source.step_ms(step)
        except NotMeasuredError:
            continue
        if 0 < time_ms < LONGEST_MS:
            steps.append(step)
            times.append(time_ms)
    return steps, np.array(times)


def rounded(parameters: SaturationParameters) -> SaturationParameters:
    """Parameters with five digits, as the catalogue keeps them.

    Args:
        parameters: of a fit.
    """
    return SaturationParameters(**{name: float(f"{value:.{_DIGITS}g}") for name, value in parameters.to_dict().items()})
