"""From measured steps to latency parameters: read, cleaned, fitted, and held against simpler models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from batchpilot.configs.catalogue import device, model
from batchpilot.core.provenance import provenance
from batchpilot.latency.fitting.judging import Comparison, Judgement, compare
from batchpilot.latency.fitting.measurement_files import LABELS, MeasurementFile, read_measurement_files
from batchpilot.latency.fitting.observations import HIGHEST_MS, LOWEST_MS, Dropped, Observations
from batchpilot.latency.fitting.regressor import LatencyRegressor
from batchpilot.latency.fitting.regressors import GivenRegressor, SaturationRegressor, make_regressor
from batchpilot.latency.fitting.saturation_fit import Fit, fit
from batchpilot.latency.model.roofline import roofline
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.runners.calibration.asking import ask_server

LONGEST_STEP_MS = 60_000.0
"""What a calibration takes for a step: the document's 500 ms would leave long prefills out."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What measurements say about step latency.

    Attributes:
        source: name of the file, or what was measured.
        labels: device, model and tensor_parallel, where anybody said.
        observations: what was fitted.
        dropped: what was left out.
        fit: the saturation model.
        comparisons: every model's errors, the saturation model's last.
        remarks: what a reader should know besides the fit's own problems and notes.
        noise: standard deviation of the logarithm of a step's time beside what the parameters say.
        front_ms: what a server adds to the TTFT of a lone request, beside its steps; None where only steps were seen.
    """

    source: str
    labels: Mapping[str, str]
    observations: Observations
    dropped: Dropped
    fit: Fit
    comparisons: tuple[Comparison, ...]
    remarks: tuple[str, ...]
    noise: float
    front_ms: float | None = None

    @property
    def judgement(self) -> Judgement:
        """The saturation model's errors on what it was fitted on."""
        return self.comparisons[-1].fitted

    @property
    def title(self) -> str:
        """What was calibrated, in a line."""
        named = [self.labels[label] for label in ("model", "device") if label in self.labels]
        share = f"{self.labels['tensor_parallel']} x " if "tensor_parallel" in self.labels and len(named) == 2 else ""
        return f"{named[0]} on {share}{named[1]}" if len(named) == 2 else " ".join(named) or self.source

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, for machines."""
        fitted = self.fit
        return {
            "source": self.source,
            **self.labels,
            "parameters": fitted.parameters.to_dict(),
            "intervals": {name: list(ends) for name, ends in fitted.intervals.items()},
            "sensitivity": dict(fitted.sensitivity),
            "loss": fitted.loss,
            "robust": fitted.robust,
            "observations": fitted.observations,
            "points": fitted.points,
            "dropped": asdict(self.dropped),
            "degenerate": fitted.degenerate,
            "problems": list(fitted.problems),
            "notes": [*fitted.notes, *self.remarks],
            "noise": self.noise,
            "front_ms": self.front_ms,
            "models": [asdict(comparison) for comparison in self.comparisons],
        }

    def to_entry(self, measured_on: str) -> dict[str, Any]:
        """What a parameter file holds: the parameters, and where they come from.

        Args:
            measured_on: the date, as text.
        """
        share = {"tensor_parallel": int(self.labels["tensor_parallel"])} if "tensor_parallel" in self.labels else {}
        entry = {
            **self.labels,
            **share,
            "parameters": self.fit.parameters.to_dict(),
            "kind": "measured",
            "source": self.source,
            "points": self.fit.observations,
            "mean_relative_error": self.judgement.mape,
            "noise": self.noise,
            "measured_on": measured_on,
        }
        if self.front_ms is not None:
            entry["front_ms"] = self.front_ms
        problems = {"problems": list(self.fit.problems)} if self.fit.degenerate else {}
        return entry | problems | {"provenance": provenance(config={"loss": self.fit.loss, "robust": self.fit.robust})}


def calibrate_files(
    *paths: str | Path,
    columns: Mapping[str, str] | None = None,
    select: Mapping[str, str] | None = None,
    lowest_ms: float = LOWEST_MS,
    highest_ms: float = LONGEST_STEP_MS,
    loss: str = "relative",
    robust: bool = True,
    fixed: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Calibration:
    """Calibrate the latency model on files of measured steps.

    Args:
        *paths: CSV files, at least one; see `read_measurements`.
        columns: the file's names of columns.
        select: device, model and tensor_parallel of the rows to use; labels where the file has no such column.
        lowest_ms: steps as short or shorter are dropped.
        highest_ms: steps as long or longer are dropped.
        loss: of the fit.
        robust: whether the fit holds outliers back.
        fixed: parameters that are not fitted.
        seed: of the fit's random starts.

    Raises:
        ValueError: a file is not as it should be, they do not belong together, no step is left, or an argument is
            outside its bound.
        OSError: a file cannot be read.
    """
    file = read_measurement_files(paths, columns, select)
    return calibrate_steps(
        file.observations,
        source=", ".join(Path(path).name for path in paths),
        labels=_labels(file, select or {}),
        lowest_ms=lowest_ms,
        highest_ms=highest_ms,
        loss=loss,
        robust=robust,
        fixed=fixed,
        seed=seed,
    )


def calibrate_steps(
    steps: Observations,
    *,
    source: str,
    labels: Mapping[str, str],
    lowest_ms: float = LOWEST_MS,
    highest_ms: float = LONGEST_STEP_MS,
    loss: str = "relative",
    robust: bool = True,
    fixed: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Calibration:
    """Calibrate the latency model on measured steps.

    Args:
        steps: as they were measured, in their order.
        source: where they come from.
        labels: device, model and tensor_parallel, where anybody said.
        lowest_ms: steps as short or shorter are dropped.
        highest_ms: steps as long or longer are dropped.
        loss: of the fit.
        robust: whether the fit holds outliers back.
        fixed: parameters that are not fitted.
        seed: of the fit's random starts.

    Raises:
        ValueError: no step is left, or an argument is outside its bound.
    """
    observations, dropped = steps.cleaned(lowest_ms, highest_ms)
    if not len(observations):
        raise ValueError(f"{source}: no step is left to fit; dropped {dropped}")
    baselines, remarks = _baselines(labels)
    options: dict[str, Any] = {"loss": loss, "robust": robust, "fixed": fixed, "seed": seed}
    comparisons = [compare(make, observations) for make in (*baselines, lambda: SaturationRegressor(**options))]
    long_ones = int((observations.latency_ms >= HIGHEST_MS).sum())
    if long_ones:
        remarks.append(f"{long_ones} steps of {HIGHEST_MS:g} ms or more are in; the document's own bound drops them")
    fitted = fit(observations, **options)
    return Calibration(
        source=source,
        labels=labels,
        observations=observations,
        dropped=dropped,
        fit=fitted,
        comparisons=tuple(comparisons),
        remarks=tuple(remarks),
        noise=scatter(fitted.parameters, observations),
    )


def scatter(parameters: SaturationParameters, steps: Observations) -> float:
    """Standard deviation of the logarithm of steps' times beside what parameters say, by the middle 68 % of them.

    Args:
        parameters: fitted.
        steps: measured.
    """
    predicted = parameters.predict(steps.batch_size, steps.tokens, steps.context_tokens)
    low, high = np.percentile(np.log(steps.latency_ms / predicted), (16.0, 84.0))
    return float(high - low) / 2.0


def calibrate_server(
    url: str,
    labels: Mapping[str, str],
    *,
    model: str | None,
    api_key: str | None,
    chat: bool,
    largest_batch: int,
    largest_prompt: int,
    minutes: float,
    show: Callable[[str], None],
    seed: int = 0,
    **options: Any,
) -> tuple[Calibration, Observations]:
    """Calibrate the latency model on a running server, from outside.

    Args:
        url: see `ask_server`, like the following.
        labels: device and tensor_parallel, where anybody said.
        model: see `ask_server`.
        api_key: bearer token.
        chat: whether prompts are sent as conversations.
        largest_batch: most requests at a time.
        largest_prompt: longest prompt.
        minutes: how long to ask.
        show: hears what goes on.
        seed: of texts, order and the fit's random starts.
        **options: of `calibrate_steps`.

    Returns:
        The calibration, and the steps.

    Raises:
        ValueError: no server answers, or it served too little.
    """
    asked = ask_server(
        url, model=model, api_key=api_key, chat=chat, largest_batch=largest_batch, largest_prompt=largest_prompt,
        minutes=minutes, seed=seed, show=show,
    )  # fmt: skip
    found = calibrate_steps(
        asked.steps, source=f"{asked.groups} groups of requests to a running server",
        labels={**labels, "model": asked.model}, seed=seed, **options,
    )  # fmt: skip
    remarks = [f"a lone request's TTFT holds {asked.front_ms:.1f} ms beside its step: the way to the engine and back"]
    if asked.refused:
        remarks.append(f"{asked.refused} of {asked.groups + asked.refused} groups were not served whole and left out")
    noise = found.noise if asked.noise is None else asked.noise
    return replace(found, noise=noise, front_ms=asked.front_ms, remarks=(*found.remarks, *remarks)), asked.steps


def _labels(file: MeasurementFile, select: Mapping[str, str]) -> dict[str, str]:
    """What was measured, in the catalogue's spelling where it knows the name."""
    labels = {label: file.labels.get(label) or select.get(label, "") for label in LABELS}
    for label, find in (("device", device), ("model", model)):
        try:
            labels[label] = find(labels[label]).name
        except ValueError:
            continue
    return {label: text for label, text in labels.items() if text}


def _baselines(labels: Mapping[str, str]) -> tuple[list[Callable[[], LatencyRegressor]], list[str]]:
    """Other models to be held against: simple ones, a switch, a learner, and the roofline where hardware is known."""
    makers: list[Callable[[], LatencyRegressor]] = [
        lambda kind=kind, loss=loss: make_regressor(kind, loss=loss)  # type: ignore[misc]
        for kind in ("linear", "polynomial")
        for loss in ("absolute", "relative")
    ]
    makers += [lambda kind=kind: make_regressor(kind) for kind in ("bottleneck", "gaussian process")]  # type: ignore[misc]
    if not {"device", "model"} <= labels.keys():
        return makers, ["no roofline beside it, and plan will ask what was measured: name --device and --model"]
    try:
        share = int(labels.get("tensor_parallel", "1"))
        estimate = roofline(device(labels["device"]), model(labels["model"]), share)
    except ValueError as error:
        return makers, [f"no roofline beside it: {error}"]
    return [*makers, lambda: GivenRegressor("roofline (not fitted)", estimate.parameters)], []
