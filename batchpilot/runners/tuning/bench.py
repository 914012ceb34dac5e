"""Benches that `tune` tries limits on: the simulated engine of a scenario, or the torch engine of this machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from batchpilot.baselines.references.static_best import tightest_tpot_ms
from batchpilot.configs.catalogue import powers
from batchpilot.configs.scenario import Scenario
from batchpilot.configs.tuner import TunerConfig
from batchpilot.core.limits import Limits
from batchpilot.core.metrics import WindowMetrics
from batchpilot.core.names import lookup
from batchpilot.engines import SimulatedEngine, SimulationResult, run_engine, simulate
from batchpilot.envs.scenarios import PreparedRun, prepare
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.runners.leaderboard.device_use import joules_per_token
from batchpilot.runners.torch.validation import scenario_requests, serve
from batchpilot.tuners.probe.sample import measured_nothing, read
from batchpilot.tuners.probe.score import ScoreBoard
from batchpilot.workloads.table import RequestTable

if TYPE_CHECKING:
    from batchpilot.engines.torch import ModelRunner


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run under fixed limits came to.

    Attributes:
        value: what is maximised.
        slo_attainment: share of the requests within their SLO.
        failures: steps that failed.
        memory_fraction: largest mean share of memory in use over a window.
        refused_fraction: share of the requests that were refused.
    """

    value: float
    slo_attainment: float
    failures: int
    memory_fraction: float
    refused_fraction: float = 0.0


class Bench(Protocol):
    """Runs limits at a seed."""

    def tpot_ms(self, seed: int) -> float:
        """The tightest TPOT target of the requests of a seed, infinity without one."""

    def run(self, limits: Limits, seed: int) -> Figures:
        """One whole run."""

    def imitated(self, latency: SaturationParameters, limits: Limits, seed: int) -> Figures:
        """One whole run on a simulation of it whose steps take what is given."""


def goodput(result: SimulationResult, run: PreparedRun | None) -> float:
    """Share of the offered output tokens that was served within SLO.

    Args:
        result: of a whole run.
        run: what was simulated.
    """
    return result.goodput_fraction


def tokens_per_joule(result: SimulationResult, run: PreparedRun | None) -> float:
    """Output tokens served within SLO for each joule, idle time included, by the model of `latency.planning.energy`.

    Args:
        result: of a whole run.
        run: what was simulated.

    Raises:
        ValueError: it ran on a device whose power is not known.
    """
    known = None if run is None else powers().get(run.scenario.device)
    if run is None or known is None:
        where = "this machine's engine" if run is None else run.scenario.device
        raise ValueError(f"the power of {where} is not known; {ENERGY} needs a device of configs/catalogue/power.yaml")
    each = joules_per_token(run, result)
    return 0.0 if math.isnan(each) else 1.0 / each


def score(result: SimulationResult, run: PreparedRun | None) -> float:
    """The tuner document's score with its default weights, mean over time; windows without a token count as 0.

    Args:
        result: of a whole run.
        run: what was simulated.
    """
    board = ScoreBoard(TunerConfig())
    total_ms = sum(window.duration_ms for window in result.windows)
    scored = (w.duration_ms * board.score(read(w)) for w in result.windows if not measured_nothing(w))
    return sum(scored) / total_ms if total_ms > 0 else 0.0


ENERGY = "tokens-per-joule"

OBJECTIVES: dict[str, Callable[[SimulationResult, PreparedRun | None], float]] = {
    "goodput": goodput,
    "score": score,
    ENERGY: tokens_per_joule,
}
"""What a run can be judged by; the run is None on a real engine."""


@dataclass
class SimulatedBench:
    """The simulated engine of a scenario; the requests of a seed are drawn once.

    Attributes:
        scenario: what is served.
        objective: one of `OBJECTIVES`.
    """

    scenario: Scenario
    objective: str = "goodput"
    _prepared: dict[int, PreparedRun] = field(default_factory=dict, repr=False)

    def prepared(self, seed: int) -> PreparedRun:
        """The scenario at a seed.

        Args:
            seed: of requests and noise.
        """
        if seed not in self._prepared:
            self._prepared[seed] = prepare(self.scenario, seed)
        return self._prepared[seed]

    def tpot_ms(self, seed: int) -> float:
        """The tightest TPOT target of the requests of a seed, infinity without one.

        Args:
            seed: of the requests.
        """
        return tightest_tpot_ms(self.prepared(seed))

    def run(self, limits: Limits, seed: int) -> Figures:
        """One whole simulated run.

        Args:
            limits: in force throughout.
            seed: of requests and noise.
        """
        return figures(self.served(limits, seed), self.objective, self.prepared(seed))

    def served(self, limits: Limits, seed: int) -> SimulationResult:
        """What came of one whole simulated run.

        Args:
            limits: in force throughout.
            seed: of requests and noise.
        """
        run = self.prepared(seed)
        engine = SimulatedEngine(run.engine, run.requests)
        return run_engine(engine, limits, window_ms=run.window_ms, horizon_ms=run.horizon_ms)

    def imitated(self, latency: SaturationParameters, limits: Limits, seed: int) -> Figures:
        """One whole run on another engine: it knows neither the noise of this one nor its drift.

        Args:
            latency: what its steps take.
            limits: in force throughout.
            seed: of the requests.
        """
        run = self.prepared(seed)
        config = replace(run.engine, latency=latency, estimate=latency, noise=0.0, drift=())
        engine = SimulatedEngine(config, run.requests)
        result = run_engine(engine, limits, window_ms=run.window_ms, horizon_ms=run.horizon_ms)
        return figures(result, self.objective, run)

    def __getstate__(self) -> dict[str, object]:
        """Without the prepared runs, which another process draws itself."""
        return {"scenario": self.scenario, "objective": self.objective, "_prepared": {}}


@dataclass
class TorchBench:
    """The torch engine; a scenario's load is scaled to it.

    Attributes:
        runner: the model, started.
        estimate: its step latency, which scales the load and which step targets and guards believe in.
        scenario: whose requests are served.
        requests: how many of them, at most.
        objective: one of `OBJECTIVES`.
    """

    runner: ModelRunner
    estimate: SaturationParameters
    scenario: Scenario
    requests: int
    objective: str = "goodput"

    def tpot_ms(self, seed: int) -> float:
        """The tightest TPOT target of the requests of a seed, infinity without one.

        Args:
            seed: of the requests.
        """
        return float(min(self.asked(seed).tpot_target_ms, default=math.inf))

    def run(self, limits: Limits, seed: int) -> Figures:
        """One whole run on the device.

        Args:
            limits: in force throughout.
            seed: of requests and prompts.
        """
        spec = self.scenario.engine
        served = serve(
            self.runner, self.estimate, self.asked(seed), limits, mode=spec.mode, prefill=spec.prefill, seed=seed
        )
        return figures(served.result, self.objective)

    def imitated(self, latency: SaturationParameters, limits: Limits, seed: int) -> Figures:
        """One whole run on a simulated engine instead.

        Args:
            latency: what its steps take.
            limits: in force throughout.
            seed: of arrivals and lengths.
        """
        spec = self.scenario.engine
        result = simulate(
            self.asked(seed),
            latency,
            limits,
            kv_capacity_tokens=self.runner.kv_capacity_tokens,
            estimate=latency,
            mode=spec.mode,
            prefill=spec.prefill,
        )
        return figures(result, self.objective)

    def asked(self, seed: int) -> RequestTable:
        """The requests of a seed.

        Args:
            seed: of arrivals and lengths.
        """
        capacity = self.runner.kv_capacity_tokens
        return scenario_requests(self.scenario, self.estimate, capacity, self.requests, seed=seed)


def figures(result: SimulationResult, objective: str, run: PreparedRun | None = None) -> Figures:
    """A run's figures.

    Args:
        result: the run.
        objective: one of `OBJECTIVES`.
        run: what was simulated, None on a real engine.

    Raises:
        ValueError: no such objective, or it needs what is not known of the device.
    """
    value = lookup(OBJECTIVES, objective, "objective")(result, run)
    return Figures(
        value if math.isfinite(value) else 0.0,
        result.slo_attainment if math.isfinite(result.slo_attainment) else 1.0,
        sum(window.failures for window in result.windows),
        max((_memory_fraction(window) for window in result.windows), default=0.0),
        result.refused_fraction if math.isfinite(result.refused_fraction) else 0.0,
    )


def _memory_fraction(window: WindowMetrics) -> float:
    return window.memory_used_mb / window.memory_total_mb if window.memory_total_mb > 0 else window.kv_used_fraction
