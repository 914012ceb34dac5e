"""SPEC's comparison run: static 8, 16, 32, 64 against dynamic in a closed loop, and its regression gate."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from batchpilot.baselines import SERVER_DEFAULT
from batchpilot.configs import TunerConfig
from batchpilot.configs.scenario import Scenario
from batchpilot.core.files import write_json
from batchpilot.core.provenance import provenance
from batchpilot.core.tuner import Tuner
from batchpilot.engines import run_engine
from batchpilot.envs.backends import Backend, SimulatedBackend
from batchpilot.envs.scenarios import PreparedRun
from batchpilot.runners.leaderboard.convergence import convergence
from batchpilot.runners.leaderboard.evaluation import tightest_slo
from batchpilot.runners.report.summary import is_static_size, spec_score
from batchpilot.runners.stated import stated
from batchpilot.tuners import make_tuner

CONCURRENCIES = (8, 16, 24, 32)
WARM_UP_RUNS = 3
"""Runs that a tuner serves after its first before it counts as warm: about a minute."""

STRATEGIES = ("static-8", "static-16", "static-32", "static-64", "dynamic")

MIN_THROUGHPUT_RATIO = 0.9
MIN_UTILISATION_RATIO = 0.8
MAX_P95_RATIO = 1.2
MIN_SUCCESS_RATE = 0.99
"""Regression gate of the tuner document."""

Row = dict[str, Any]
Figures = tuple[float, ...]
_COLUMNS = (
    "throughput_tokens_per_s",
    "utilisation",
    "e2e_p50_ms",
    "e2e_p95_ms",
    "e2e_p99_ms",
    "success_rate",
    "slo_attainment",
    "refusal_p50_ms",
    "refusal_p95_ms",
    "convergence_s",
)
_KEY = ("scenario", "tuner")


def compare(
    scenarios: Sequence[Scenario],
    strategies: Sequence[str],
    seeds: int,
    config: TunerConfig,
    backend: Backend | None = None,
) -> list[Row]:
    """Every strategy on every scenario, figures averaged over seeds.

    72 requests last some 20 s, about as long as a probe. So a strategy that learns has two rows: as it starts, and
    "(warm)", on the same requests after it has served other ones from as many clients, as in a running server.

    Args:
        scenarios: closed-loop scenarios, one a concurrency.
        strategies: tuner names.
        seeds: number of seeds, from 0.
        config: the tuners' configuration.
        backend: where they run; None for the simulation.

    Returns:
        One row a scenario and strategy: throughput (tokens/s), utilisation, end-to-end p50, p95 and p99 (ms), success
        rate, share within SLO, what was served where, throughput over that of static-8 and of the best static size
        there, and the score of 0-100 whose gain is over that best size.
    """
    backend = backend or SimulatedBackend()
    rows: list[Row] = []
    for chosen in scenarios:
        figures: dict[str, list[Figures]] = {}
        prepared: list[PreparedRun] = []
        # Seeds outside, strategies inside: a real engine's speed drifts; what is compared is measured close together.
        for seed in range(seeds):
            run, warm_up = backend.prepare(chosen, seed), backend.prepare(chosen, seeds + seed)
            prepared.append(run)
            for name in strategies:
                latency, slo = run.engine.believed_latency(), tightest_slo(run)
                tuner = make_tuner(name, config, base=SERVER_DEFAULT, slo=slo, seed=seed, latency=latency)
                figures.setdefault(name, []).append(_served(run, tuner, backend))
                if not name.startswith("static"):
                    for _ in range(WARM_UP_RUNS):
                        _served(warm_up, tuner, backend)
                    figures.setdefault(f"{name} (warm)", []).append(_served(run, tuner, backend))
        here: list[Row] = [
            {
                "scenario": chosen.name,
                "tuner": name,
                **stated(prepared[0]),
                **dict(zip(_COLUMNS, np.mean(found, axis=0).tolist(), strict=True)),
            }
            for name, found in figures.items()
        ]
        static = {row["tuner"]: row["throughput_tokens_per_s"] for row in here if row["tuner"].startswith("static")}
        best = max(static.values(), default=math.nan)
        best_size = max((value for name, value in static.items() if is_static_size(name)), default=math.nan)
        for row in here:
            row["ratio_to_static_8"] = row["throughput_tokens_per_s"] / static.get("static-8", math.nan)
            row["ratio_to_best_static"] = row["throughput_tokens_per_s"] / best
            gain_percent = 100.0 * (row["throughput_tokens_per_s"] / best_size - 1.0)
            row["spec_score"] = spec_score(gain_percent, row["utilisation"], row["success_rate"], row["convergence_s"])
        rows += here
    return rows


def _served(run: PreparedRun, tuner: Tuner, backend: Backend) -> Figures:
    """The figures of `_COLUMNS` of one run; the tuner goes on from the state it is in."""
    result = run_engine(
        backend.start(run, record_steps=getattr(tuner, "needs_details", False)),
        tuner,
        window_ms=run.window_ms,
        horizon_ms=run.horizon_ms,
    )
    ends = (result.percentile_ms("e2e_ms", q) for q in (50, 95, 99))
    refusals = (result.refusal_ms(q) for q in (50, 95))
    kept = result.success_rate, result.slo_attainment
    return result.throughput_tokens_per_s, result.utilisation, *ends, *kept, *refusals, convergence(result.windows)[0]


def save_baseline(path: Path, rows: Sequence[Row], config: TunerConfig, seeds: int) -> None:
    """Write rows as the baseline that later runs are held against.

    Args:
        path: JSON file to write.
        rows: what `compare` returned.
        config: the tuners' configuration, for the record.
        seeds: number of seeds, for the record.
    """
    origin = provenance(0, {"tuner_config": config.to_dict(), "seeds": seeds})
    write_json(path, {"rows": list(rows), **origin})


def load_baseline(path: Path) -> list[Row]:
    """The rows of a baseline file.

    Args:
        path: what `save_baseline` wrote.

    Raises:
        ValueError: not a baseline; the message names the file and what is missing.
        OSError: the file cannot be read.
    """
    needed = {*_KEY, "throughput_tokens_per_s", "utilisation", "e2e_p95_ms"}
    try:
        rows = json.loads(path.read_text())["rows"]
        missing = needed - set.intersection(*(set(row) for row in rows))
        rows = [{name: math.nan if value is None else value for name, value in row.items()} for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a baseline file ({error!r}); write one with --save-baseline") from None
    if missing:
        raise ValueError(f"{path}: baseline rows lack {', '.join(sorted(missing))}")
    return list(rows)


def regressions(rows: Sequence[Row], baseline: Sequence[Row]) -> list[str]:
    """What got worse than the gate allows, one sentence each; empty when the gate is passed.

    Args:
        rows: the present figures.
        baseline: the stored ones; a row without its counterpart there is a failure too, so that nothing slips out.
    """
    stored = {tuple(row[key] for key in _KEY): row for row in baseline}
    found = []
    for row in rows:
        place = f"{row['tuner']} on {row['scenario']}"
        if row["success_rate"] < MIN_SUCCESS_RATE:
            found.append(f"{place}: success rate {row['success_rate']:.4f} is below {MIN_SUCCESS_RATE}")
        before = stored.pop(tuple(row[key] for key in _KEY), None)
        if before is None:
            found.append(f"{place}: the baseline does not hold it")
            continue
        for column, name, bound in (
            ("throughput_tokens_per_s", "throughput", MIN_THROUGHPUT_RATIO),
            ("utilisation", "utilisation", MIN_UTILISATION_RATIO),
        ):
            # Written so that a NaN fails the gate.
            if not row[column] >= bound * before[column]:
                found.append(
                    f"{place}: {name} {row[column]:.4g} is below {bound} of the baseline's {before[column]:.4g}"
                )
        if not row["e2e_p95_ms"] <= MAX_P95_RATIO * before["e2e_p95_ms"]:
            found.append(
                f"{place}: p95 latency {row['e2e_p95_ms']:.0f} ms is above {MAX_P95_RATIO} of the baseline's "
                f"{before['e2e_p95_ms']:.0f} ms"
            )
    found += [f"{tuner} on {where}: in the baseline, but not measured now" for where, tuner in stored]
    return found
