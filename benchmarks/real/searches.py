"""What a calibration from outside, and searches, make of the settings that `settings.py` measured.

    python benchmarks/real/searches.py reports/settings [--seeds 50]

How well `calibrate --url` foretells the settings' order and their percentiles; and after how many starts, and minutes
of starting and sending, each search has a setting whose mean over all repeats lies within 2 points of the best. A
search sees one repeat's figure of each setting that it starts, as it would have. `vllm-optimizer` 0.1.0a21 needs an
NVIDIA GPU; what it searches with is Optuna's TPE.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from settings import DEFAULT, GRACE_S, KV_TOKENS, SECONDS, SETTINGS, read_runs, requests_in

from batchpilot.core.files import json_text
from batchpilot.core.limits import Limits
from batchpilot.core.provenance import provenance
from batchpilot.engines import EngineConfig, SimulatedEngine
from batchpilot.engines.simulated.simulation import run_engine
from batchpilot.latency.model.parameter_file import read_parameters
from batchpilot.runners.tuning.live.study import Bounds, run_study
from batchpilot.runners.tuning.live.trials import Trial
from batchpilot.runners.tuning.live.twin import Twin
from batchpilot.workloads.table import RequestTable

ENOUGH = 0.02
FEW = 4
"""Starts after which it is asked what the setting that looks best by then keeps on average."""

Table = dict[Limits, list[Trial]]

Start = Callable[[Limits], Trial]
Search = Callable[[Sequence[Limits], Start, np.random.Generator, RequestTable], None]
"""Settings, what starts one, a generator, the requests that trials are sent."""


def main() -> None:
    """Print the table of settings, the calibration's figures, and the searches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what settings.py measured")
    parser.add_argument("--partial", action="store_true", help="go by the token budgets that were measured whole")
    parser.add_argument("--seeds", type=int, default=50, help="searches of each kind")
    asked = parser.parse_args()
    runs = read_runs(asked.folder)
    table: Table = {limits: [] for limits in SETTINGS}
    starts: dict[Limits, float] = {}
    for run in runs:
        table[run.limits].append(run.trial)
        starts[run.limits], rate = run.start_s, run.rate_per_s
    if not all(table.values()):
        missing = sum(not those for those in table.values())
        if not asked.partial:
            sys.exit(f"{missing} settings were not measured yet; run settings.py again, or add --partial")
        whole = {budget for budget in {one.token_budget for one in table} if all(_column(table, budget))}
        table = {limits: those for limits, those in table.items() if limits.token_budget in whole}
        print(
            f"{len(table)} of {len(SETTINGS)} settings, those of token budgets that were measured with every batch size"
        )
    found = {"settings": told_settings(table), "calibration": told_calibration(asked.folder, table, rate)}
    found["searches"] = told_searches(asked.seeds, table, starts, rate)
    found["measured"] = provenance(0, {"repeats": min(map(len, table.values())), "seeds": asked.seeds})
    (asked.folder / "compared.json").write_text(json_text(found, indent=1))


def _column(table: Table, token_budget: int | None) -> list[list[Trial]]:
    return [those for limits, those in table.items() if limits.token_budget == token_budget]


def told_settings(table: Table) -> list[dict[str, Any]]:
    """Means over repeats, the best first."""
    rows = []
    print("| batch size | token budget | goodput % | each run | TTFT, TPOT p95 ms |\n|---|---|---|---|---|")
    for limits, those in sorted(table.items(), key=lambda item: -mean(item[1])):
        each = [round(100 * one.goodput, 1) for one in those]
        p95 = [float(np.mean([one.figures[f"{name}_p95_ms"] for one in those])) for name in ("ttft", "tpot")]
        shown = f"{100 * mean(those):.1f} | {', '.join(map(str, each))} | {p95[0]:.0f}, {p95[1]:.0f}"
        print(f"| {limits.batch_size} | {limits.token_budget:,} | {shown} |")
        rows.append({"limits": limits.to_dict(), "goodput": each, "p95_ms": p95})
    return rows


def mean(those: Sequence[Trial]) -> float:
    """Goodput share over repeats."""
    return float(np.mean([one.goodput for one in those]))


def told_calibration(folder: Path, table: Table, rate_per_s: float) -> dict[str, Any]:
    """How what `calibrate --url` fitted says the settings' order and the default's percentiles."""
    read = read_parameters(folder / "calibration.yaml")
    simulated, real = [], []
    errors: dict[str, list[float]] = {}
    for limits, those in table.items():
        outcomes = []
        for repeat, run in enumerate(those):
            config = EngineConfig(
                latency=read.parameters,
                kv_capacity_tokens=KV_TOKENS,
                noise=read.noise or 0.0,
                front_ms=read.front_ms,
                seed=repeat,
            )
            engine = SimulatedEngine(config, requests_in(rate_per_s, repeat))
            outcome = run_engine(engine, limits, window_ms=1000.0, horizon_ms=1000.0 * (SECONDS + GRACE_S))
            outcomes.append(outcome.goodput_fraction)
            for name in run.figures:
                column, q = name.split("_p")
                value = outcome.percentile_ms(f"{column}_ms", float(q.removesuffix("_ms")))
                errors.setdefault(name, []).append(value / run.figures[name] - 1)
        simulated.append(float(np.mean(outcomes)))
        real.append(mean(those))
    tau = float(stats.kendalltau(simulated, real).statistic)
    within = {name: float(np.mean(np.abs(values) <= 0.15)) for name, values in errors.items()}
    middle = {name: float(np.median(values)) for name, values in errors.items()}
    repeats = np.array([[one.goodput for one in those] for those in table.values()])
    among = [
        float(stats.kendalltau(*repeats[:, pair].T).statistic) for pair in combinations(range(repeats.shape[1]), 2)
    ]
    print(f"\ncalibrate --url: Kendall's tau of the settings' goodput {tau:.2f}, of real runs among themselves {among}")
    for name in errors:
        print(f"{name}: median error {100 * middle[name]:+.0f} %, within 15 % in {100 * within[name]:.0f} % of runs")
    return {
        "kendall_tau": tau,
        "kendall_tau_of_repeats": among,
        "within_15_percent": within,
        "median_error": middle,
        "simulated": simulated,
    }


def told_searches(seeds: int, table: Table, starts: dict[Limits, float], rate_per_s: float) -> dict[str, Any]:
    """Starts and minutes of each search until it has a setting within `ENOUGH` of the best."""
    best = max(map(mean, table.values()))
    good = {limits for limits, those in table.items() if mean(those) >= best - ENOUGH}
    repeats = min(map(len, table.values()))
    told = {}
    print(f"\n{len(good)} of {len(table)} settings lie within {100 * ENOUGH:g} points of the best")
    print("| search | starts, quartiles | minutes, median | ended without | has after 4 starts, % | at its end, % |")
    print("|---|---|---|---|---|---|")
    for name, search in SEARCHES.items():
        needed: list[float] = []
        minutes: list[float] = []
        after_few: list[float] = []
        at_end: list[float] = []
        for seed in range(seeds):
            repeat = seed % repeats
            tried: list[Limits] = []

            def start(limits: Limits, repeat: int = repeat, tried: list[Limits] = tried) -> Trial:
                tried.append(limits)
                return replace(table[limits][repeat], number=len(tried))

            search(list(table), start, np.random.default_rng(seed), requests_in(rate_per_s, repeat))
            first = next((place for place, limits in enumerate(tried, 1) if limits in good), None)
            needed.append(first or np.inf)
            minutes.append(sum(starts[one] + SECONDS + GRACE_S for one in tried[: first or None]) / 60)
            worth = [(table[limits][repeat].goodput, mean(table[limits])) for limits in tried]
            after_few.append(max(worth[:FEW])[1])
            at_end.append(max(worth)[1])
        quartiles = [float(value) for value in np.percentile(needed, (25, 50, 75), method="inverted_cdf")]
        missed = float(np.isinf(needed).mean())
        told[name] = {"starts": quartiles, "minutes": float(np.median(minutes)), "missed": missed}
        told[name] |= {"goodput_after_few": float(np.mean(after_few)), "goodput_at_end": float(np.mean(at_end))}
        shown = " / ".join(f"{value:g}" for value in quartiles)
        has = f"{100 * np.mean(after_few):.1f} | {100 * np.mean(at_end):.1f}"
        print(f"| {name} | {shown} | {np.median(minutes):.0f} | {100 * missed:.0f} % | {has} |")
    return told


def by_model(settings: Sequence[Limits], start: Start, rng: np.random.Generator, load: RequestTable) -> None:
    """`tune --server`'s own study, from the default on."""
    candidates = [DEFAULT, *(one for one in settings if one != DEFAULT)]
    seed = int(rng.integers(2**31))
    with tempfile.TemporaryDirectory() as folder:
        run_study(
            candidates,
            [],
            Path(folder) / "trials.jsonl",
            Bounds(len(candidates)),
            run=lambda number, limits, expected: replace(start(limits), expected=expected),
            twin_of=lambda so_far: Twin.of(load, so_far, KV_TOKENS, seed),
            tell=lambda trial: None,
        )


def by_tpe(settings: Sequence[Limits], start: Start, rng: np.random.Generator, load: RequestTable) -> None:
    """Optuna's TPE on the same grid, the default first."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    batches, budgets = (sorted({getattr(one, name) for one in settings}) for name in ("batch_size", "token_budget"))
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=int(rng.integers(2**31))))
    study.enqueue_trial({"batch_size": DEFAULT.batch_size, "token_budget": DEFAULT.token_budget})
    tried: dict[Limits, float] = {}

    def asked(trial: Any) -> float:
        limits = Limits(
            trial.suggest_categorical("batch_size", batches), trial.suggest_categorical("token_budget", budgets)
        )
        if limits not in tried:  # what was started once is not started again
            tried[limits] = start(limits).goodput
        return tried[limits]

    study.optimize(asked, n_trials=4 * len(settings))


def by_chance(settings: Sequence[Limits], start: Start, rng: np.random.Generator, load: RequestTable) -> None:
    """The default, then the others in any order."""
    start(DEFAULT)
    for place in rng.permutation(len(settings)):
        if settings[place] != DEFAULT:
            start(settings[place])


def by_grid(settings: Sequence[Limits], start: Start, rng: np.random.Generator, load: RequestTable) -> None:
    """One after another, ascending, as vLLM's own auto-tune script goes through its lists."""
    for limits in settings:
        start(limits)


def by_sweep(settings: Sequence[Limits], start: Start, rng: np.random.Generator, load: RequestTable) -> None:
    """The default, every batch size, then every budget at the best batch size: the stages of polyserve 0.1.0."""
    tried = {DEFAULT: start(DEFAULT).goodput}
    for name in ("batch_size", "token_budget"):
        best = max(tried, key=lambda one: tried[one])
        for value in sorted({getattr(one, name) for one in settings}):
            limits = best.replace(**{name: value})
            if limits not in tried:
                tried[limits] = start(limits).goodput


SEARCHES: dict[str, Search] = {
    "twin": by_model,
    "tpe": by_tpe,
    "random": by_chance,
    "sweep": by_sweep,
    "grid": by_grid,
}


if __name__ == "__main__":
    main()
