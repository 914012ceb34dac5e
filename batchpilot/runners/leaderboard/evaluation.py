"""One cell of a leaderboard: every strategy on one scenario at one seed, on the same requests."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from batchpilot.baselines import SERVER_DEFAULT, Setting
from batchpilot.baselines.references.static_best import tightest_tpot_ms
from batchpilot.configs.scenario import Scenario
from batchpilot.configs.tuner import TunerConfig
from batchpilot.core.files import json_text, plain
from batchpilot.core.limits import Limits
from batchpilot.core.metrics import WindowMetrics
from batchpilot.core.provenance import config_hash, git_revision, versions
from batchpilot.core.slo import SLO
from batchpilot.core.tuner import Tuner
from batchpilot.engines.memory import MemoryModel
from batchpilot.engines.simulated.fairness import fairness
from batchpilot.engines.simulated.result import SimulationResult, image_figures
from batchpilot.engines.simulated.simulation import run_engine
from batchpilot.envs.backends import Backend, SimulatedBackend
from batchpilot.envs.scenarios import PreparedRun
from batchpilot.runners.leaderboard.convergence import convergence
from batchpilot.runners.leaderboard.device_use import device_use, largest
from batchpilot.runners.leaderboard.strategies import (
    REFERENCES,
    STATIC_BEST,
    OwnTunerError,
    blaming,
    content_hash,
    label,
    make_strategy,
)
from batchpilot.runners.pasted import limits_option
from batchpilot.runners.stated import stated
from batchpilot.runners.torch.references import best_on_engine

Row = dict[str, Any]
Curves = dict[str, list[float]]
_LIMITS = tuple(one.name for one in fields(Limits) if one.name != "discipline")

_DIGEST = "digest"


@dataclass(frozen=True)
class Task:
    """What one cell computes.

    Attributes:
        scenario: the scenario.
        seed: its seed.
        track: the fields that references may set.
        tuners: strategies as `strategies.make_strategy` knows them, or references.
        config: the tuners' configuration.
        backend: where it runs.
    """

    scenario: Scenario
    seed: int
    track: str
    tuners: tuple[str, ...]
    config: TunerConfig = field(default_factory=TunerConfig)
    backend: Backend = field(default_factory=SimulatedBackend)

    @property
    def fingerprint(self) -> str:
        """Changes whenever the cell's numbers might: configuration, code revision and versions."""
        data = [self.scenario.content(), self.seed, self.track, self.tuners, self.config.to_dict()]
        data += [content_hash(name) for name in self.tuners]
        return config_hash([data, dict(self.backend.origin), git_revision(), versions()])

    def run(self) -> Cell:
        """Compute the cell, see `run_cell`."""
        return run_cell(self)


@dataclass(frozen=True)
class Cell:
    """What one cell found.

    Attributes:
        rows: one result row a strategy.
        curves: what each strategy did over time, by strategy.
        best: the limits of `static-best`, if it was asked for.
        failed: what each tuner of the user's own raised that has no row.
    """

    rows: list[Row]
    curves: dict[str, Curves]
    best: dict[str, Any] | None = None
    failed: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """The cell as JSON, with a digest by which a damaged file is known."""
        data = plain(asdict(self))
        return json_text({**data, _DIGEST: config_hash(data)}) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Cell:
        """A cell from `to_json`; figures that are null are NaN again.

        Args:
            text: what `to_json` gave.

        Raises:
            ValueError: not a cell, or not all of one.
        """
        data = json.loads(text)
        if not isinstance(data, dict) or data.pop(_DIGEST, None) != config_hash(data):
            raise ValueError("not a whole leaderboard cell")
        rows = [{name: _figure(value) for name, value in row.items()} for row in data["rows"]]
        curves = {
            tuner: {name: [_figure(value) for value in values] for name, values in curve.items()}
            for tuner, curve in data["curves"].items()
        }
        return cls(rows, curves, data["best"], data["failed"])


def _figure(value: Any) -> Any:
    return math.nan if value is None else value


def run_cell(task: Task) -> Cell:
    """Run every strategy of a task. A tuner of the user's own that raises has no row; its error is kept.

    Args:
        task: what to run.

    Raises:
        ValueError: an unknown tuner or track, or a scenario that cannot be prepared.
    """
    run = task.backend.prepare(task.scenario, task.seed)
    latency = run.engine.believed_latency()
    setting = Setting(
        task.config, SERVER_DEFAULT, tightest_slo(run), task.seed, task.track, latency, memory=memory_of(run)
    )
    rows: list[Row] = []
    curves: dict[str, Curves] = {}
    best: dict[str, Any] | None = None
    failed: dict[str, str] = {}
    for name in task.tuners:
        shown = label(name)
        try:
            with blaming(name):
                strategy = _strategy(task, name, run, setting)
                shown = label(name, strategy)
                engine = task.backend.start(run, record_steps=getattr(strategy, "needs_details", False))
                result = run_engine(engine, strategy, window_ms=run.window_ms, horizon_ms=run.horizon_ms)
        except OwnTunerError as error:
            failed[shown] = str(error)
            continue
        best = strategy.to_dict() if name == STATIC_BEST and isinstance(strategy, Limits) else best
        rows.append(result_row(task, shown, run, result))
        curves[shown] = result_curves(result.windows)
    return Cell(rows, curves, best, failed)


def _strategy(task: Task, name: str, run: PreparedRun, setting: Setting) -> Limits | Tuner:
    if name not in REFERENCES:
        return make_strategy(name, setting)
    real = name == STATIC_BEST and not isinstance(task.backend, SimulatedBackend)
    return best_on_engine(run, task.track, task.backend) if real else REFERENCES[name](run, task.track)


def tightest_slo(run: PreparedRun) -> SLO | None:
    """The tightest targets promised to any request of a run, which is what its operator knows; None without requests.

    Args:
        run: the run.
    """
    if not len(run.requests):
        return None
    return SLO(float(run.requests.ttft_target_ms.min()), tightest_tpot_ms(run), "tightest")


def memory_of(run: PreparedRun) -> MemoryModel | None:
    """Where the device's memory goes, as far as the run's model says.

    Args:
        run: the run.
    """
    memory = run.engine.memory
    return memory if isinstance(memory, MemoryModel) else None


def result_row(task: Task, name: str, run: PreparedRun, result: SimulationResult) -> Row:
    """The columns of `results.csv` for one strategy.

    Args:
        task: the cell.
        name: the strategy.
        run: what was run.
        result: what came of it.
    """
    converged_s, stability = convergence(result.windows)
    settling = [window for window in result.windows if 1000.0 * converged_s > window.start_ms]
    row: Row = {
        "scenario": task.scenario.name,
        "family": task.scenario.family,
        **stated(run),
        "track": task.track,
        "tuner": name,
        "seed": task.seed,
        "requests": len(run.requests),
        "goodput_fraction": result.goodput_fraction,
        "goodput_tokens_per_s": result.goodput_tokens_per_s,
        "throughput_tokens_per_s": result.throughput_tokens_per_s,
        "throughput_max_tokens_per_s": largest([window.throughput_tokens_per_s for window in result.windows]),
        "requests_per_s": 1000.0 * result.count("length") / result.elapsed_ms if result.elapsed_ms else math.nan,
        "efficiency": result.efficiency,
    }
    for column in ("ttft", "tpot"):
        row |= {f"{column}_p{q}_ms": result.percentile_ms(f"{column}_ms", q) for q in (50, 95, 99)}
    row |= {f"e2e_p{q}_ms": result.percentile_ms("e2e_ms", q) for q in (50, 95, 99)}
    row |= {f"refusal_p{q}_ms": result.refusal_ms(q) for q in (50, 95)}
    row["disciplines"] = " ".join(result.disciplines)
    row["limits"] = limits_option(result.windows[-1].limits) if result.windows else ""
    row |= {
        "slo_attainment": result.slo_attainment,
        "utilisation": result.utilisation,
        **device_use(run, result),
        "fairness": fairness(result),
        "success_rate": result.success_rate,
        "refused_fraction": result.refused_fraction,
        "failed": result.count("failed"),
        "preemptions": result.preemptions,
        "prefix_hit_rate": result.prefix_hit_rate,
        **image_figures(result),
        "convergence_s": converged_s,
        "convergence_decisions": math.nan if math.isnan(converged_s) else len(settling),
        "size_stability": stability,
    }
    row |= {f"refused_q{k + 1}": float(share) for k, share in enumerate(result.refused_by_prompt_quartile())}
    row["refused_worst_quarter"] = result.refused_worst_quarter
    row["tuner_overhead"] = 1000.0 * result.tuner_seconds / result.elapsed_ms if result.elapsed_ms else math.nan
    row |= {
        "config_hash": config_hash([task.scenario.content(), task.track, task.config.to_dict()]),
        "git_revision": git_revision(),
        "versions": " ".join(f"{package}={version}" for package, version in versions().items()),
    }
    return row


def result_curves(windows: Sequence[WindowMetrics]) -> Curves:
    """What a strategy did over time, one value a window.

    Args:
        windows: every window of the run.
    """
    limits = {name: [_limit(getattr(w.limits, name)) for w in windows] for name in _LIMITS}
    return {
        "time_s": [w.end_ms / 1000.0 for w in windows],
        **limits,
        "queue": [float(w.queue) for w in windows],
        "running": [float(w.running) for w in windows],
        "goodput_tokens_per_s": [w.goodput_tokens_per_s for w in windows],
        "ttft_p95_over_promise": [w.ttft_ms_p95 / w.ttft_target_ms for w in windows],
        "tpot_p95_over_promise": [w.tpot_ms_p95 / w.tpot_target_ms for w in windows],
        "oldest_wait_over_promise": [w.oldest_wait_ms / w.ttft_target_ms for w in windows],
        "arrivals_per_s": [_per_s(w, w.arrivals) for w in windows],
        "refused_per_s": [_per_s(w, w.refused_on_arrival + w.refused_by_guard) for w in windows],
        "ttft_p95_ms": [w.ttft_ms_p95 for w in windows],
    }


def _limit(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _per_s(window: WindowMetrics, count: int) -> float:
    return 1000.0 * count / window.duration_ms if window.duration_ms > 0 else math.nan
