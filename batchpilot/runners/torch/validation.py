"""The same requests and limits through the real engine and through its calibrated simulation, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from batchpilot.configs.scenario import Scenario
from batchpilot.core.limits import Limits
from batchpilot.engines.simulated.config import EngineConfig
from batchpilot.engines.simulated.engine import SimulatedEngine
from batchpilot.engines.simulated.result import SimulationResult
from batchpilot.engines.simulated.simulation import run_engine
from batchpilot.engines.simulated.step_design import steps_of
from batchpilot.envs.scenarios import capacity_per_s, keeping_promise
from batchpilot.latency.fitting.judging import Judgement, judge
from batchpilot.latency.fitting.observations import Observations
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.runners.calibration.grids import percent, plain
from batchpilot.runners.report.grids import Cell, Grid
from batchpilot.runners.torch.clock import Clock, step_clock
from batchpilot.workloads.build import build_requests
from batchpilot.workloads.lengths import Lengths, LogNormal
from batchpilot.workloads.table import RequestTable

if TYPE_CHECKING:
    from batchpilot.engines.torch import ModelRunner

LOAD = 0.6
"""Share of the estimated capacity that the synthetic workload asks for."""

LENGTHS = Lengths(LogNormal(64, 0.8, 4, 256), (LogNormal(24, 0.6, 2, 96),))
"""Prompts and outputs of the synthetic workload."""

QUANTILES = (50, 95)
WINDOW_MS = 1000.0


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure, twice.

    Attributes:
        name: what it is, unit included.
        real: on the real engine, the median of its runs.
        simulated: in its simulation.
        spread: by how much the real runs differ, largest less smallest, of their median; NaN for one run.
    """

    name: str
    real: float
    simulated: float
    spread: float

    @property
    def error(self) -> float:
        """How much more the simulation says, of the real; NaN where there is nothing to divide by."""
        return self.simulated / self.real - 1.0 if self.real else math.nan


@dataclass(frozen=True, slots=True, eq=False)
class Validation:
    """How well the simulation tells what the real engine does.

    Attributes:
        labels: device, model, and what the steps were timed in.
        workload: what was asked, in a line.
        limits: under which both ran.
        requests: how many there were.
        figures: latency quantiles and throughput, side by side.
        steps: errors of the predicted step times over the real runs, whose steps were not fitted.
        parameters: of the simulation.
        runs: real runs.
        finished: how many requests ran to their end, in the real run with the fewest and simulated.
    """

    labels: Mapping[str, str]
    workload: str
    limits: Limits
    requests: int
    figures: tuple[Figure, ...]
    steps: Judgement
    parameters: SaturationParameters
    runs: int
    finished: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, NaN among it."""
        return {
            **self.labels,
            "workload": self.workload,
            "limits": str(self.limits),
            "requests": self.requests,
            "runs": self.runs,
            "finished": dict(zip(("real", "simulated"), self.finished, strict=True)),
            "figures": {figure.name: asdict(figure) | {"error": figure.error} for figure in self.figures},
            "steps": self.steps.to_dict(),
            "parameters": self.parameters.to_dict(),
        }


def synthetic_requests(
    parameters: SaturationParameters, kv_capacity_tokens: int, count: int, *, load: float = LOAD, seed: int = 0
) -> RequestTable:
    """Poisson arrivals at a share of what the engine can serve.

    Args:
        parameters: its step latency.
        kv_capacity_tokens: its KV tokens.
        count: requests, >= 1.
        load: share of the estimated capacity, > 0.
        seed: of arrivals and lengths.

    Raises:
        ValueError: an argument is outside its bound.
    """
    if count < 1 or not (load > 0 and math.isfinite(load)):
        raise ValueError(f"{count} requests at load {load}; need at least one, at a load above 0")
    rng = np.random.default_rng(seed)
    prompt, output = LENGTHS.sample(count, rng)
    rate_per_s = load * capacity_per_s(parameters, kv_capacity_tokens, *LENGTHS.means())
    return RequestTable.from_arrays(1000.0 * np.cumsum(rng.exponential(1.0 / rate_per_s, count)), prompt, output)


def scenario_requests(
    scenario: Scenario, parameters: SaturationParameters, kv_capacity_tokens: int, count: int | None, *, seed: int = 0
) -> RequestTable:
    """The requests of a scenario, its load scaled to the engine at hand.

    Args:
        scenario: its device and model are not looked at.
        parameters: the engine's step latency.
        kv_capacity_tokens: its KV tokens.
        count: only so many, the first; None for all.
        seed: of arrivals and lengths.
    """
    requests = build_requests(
        scenario.workload,
        scenario.slo_classes(),
        np.random.default_rng(seed),
        lambda prompt, output: capacity_per_s(parameters, kv_capacity_tokens, prompt, output),
        scenario.duration_s,
    )
    requests = keeping_promise(requests, scenario)
    return requests if count is None else requests.select(slice(count))


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A run of the real engine.

    Attributes:
        requests: what arrived.
        result: what happened, its steps recorded.
        engine: the same engine as it would be simulated.
        limits: in force.
    """

    requests: RequestTable
    result: SimulationResult
    engine: EngineConfig
    limits: Limits


def serve(
    runner: ModelRunner,
    estimate: SaturationParameters,
    requests: RequestTable,
    limits: Limits,
    *,
    mode: str = "continuous",
    prefill: str = "chunked",
    seed: int = 0,
    clock: Clock | None = None,
) -> Served:
    """Send requests through the real engine.

    Args:
        runner: the model.
        estimate: what the scheduler believes the step latency to be.
        requests: what arrives.
        limits: in force.
        mode: "continuous" or "static" batching.
        prefill: "chunked", "whole" or "selective".
        seed: of the prompts' tokens.
        clock: seconds; None for what `step_clock` chooses.
    """
    from batchpilot.engines.torch import TorchEngine, TorchEngineConfig

    config = TorchEngineConfig(estimate=estimate, mode=mode, prefill=prefill, seed=seed)
    engine = TorchEngine(config, requests, runner, record_steps=True, clock=clock or step_clock(runner)[0])
    result = run_engine(engine, limits, window_ms=WINDOW_MS)
    return Served(requests, result, config.scheduler_config(runner), limits)


def validate_runs(
    served: Sequence[Served], parameters: SaturationParameters, *, labels: Mapping[str, str], workload: str
) -> Validation:
    """Simulate what was served, and compare.

    Args:
        served: runs of the real engine on the same requests, at least one.
        parameters: step latency of the simulation; its scheduler believes what the real one believed.
        labels: device, model, and what the steps were timed in.
        workload: the requests in a line.
    """
    first = served[0]
    engine = SimulatedEngine(replace(first.engine, latency=parameters), first.requests)
    simulated = run_engine(engine, first.limits, window_ms=WINDOW_MS)
    real = [run.result for run in served]
    return Validation(
        labels=labels,
        workload=workload,
        limits=first.limits,
        requests=len(first.requests),
        figures=side_by_side(real, simulated),
        steps=judge_steps(parameters, Observations.joined(steps_of(np.asarray(result.step_log)) for result in real)),
        parameters=parameters,
        runs=len(served),
        finished=(min(result.count("length") for result in real), simulated.count("length")),
    )


def side_by_side(real: Sequence[SimulationResult], simulated: SimulationResult) -> tuple[Figure, ...]:
    """Quantiles of TTFT, TPOT and E2E, and throughput, of real runs and their simulation.

    Args:
        real: runs of the real engine, at least one.
        simulated: the simulation.
    """
    figures = {
        f"{name} p{q} ms": partial(SimulationResult.percentile_ms, column=f"{name.lower()}_ms", q=q)
        for name in ("TTFT", "TPOT", "E2E")
        for q in QUANTILES
    }
    named: dict[str, Callable[[SimulationResult], float]] = {**figures, "tokens/s": _throughput}
    return tuple(_figure(name, [of(run) for run in real], of(simulated)) for name, of in named.items())


def judge_steps(parameters: SaturationParameters, steps: Observations) -> Judgement:
    """Errors of predicted step times.

    Args:
        parameters: what predicts.
        steps: what was measured, at least one.

    Raises:
        ValueError: there are no steps.
    """
    return judge(parameters.predict(steps.batch_size, steps.tokens, steps.context_tokens), steps.latency_ms)


def validation_grid(validation: Validation) -> Grid:
    """The figures side by side.

    Args:
        validation: what was found.
    """
    rows = [
        (figure.name, plain(figure.real, ",.1f"), plain(figure.simulated, ",.1f"), *shares(figure))
        for figure in validation.figures
    ]
    ran = f"{validation.labels['device']}, timed {validation.labels['timed']}; real: median of {validation.runs}"
    return Grid(
        f"Does the simulation tell what {validation.labels['model']} does?",
        ("", "Real", "Simulated", "Error", "Real runs differ by"),
        tuple(tuple(map(Cell, row)) for row in rows),
        f"{validation.workload}; {validation.limits}. {ran}.",
    )


def shares(figure: Figure) -> tuple[str, str]:
    """A figure's error, with its sign, and the spread of its real runs, in percent.

    Args:
        figure: real and simulated.
    """
    return ("+" if figure.error > 0 else "") + percent(figure.error), percent(figure.spread)


def _throughput(run: SimulationResult) -> float:
    return run.throughput_tokens_per_s


def _figure(name: str, real: Sequence[float], simulated: float) -> Figure:
    middle = float(np.median(real))
    differing = len(real) > 1 and middle > 0
    return Figure(name, middle, simulated, float(np.ptp(real)) / middle if differing else math.nan)
