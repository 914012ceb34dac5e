"""DESIGN's 24 settings, ten minutes of each: the tuners of a track against its best fixed settings.

Two Azure traces x three devices x two rates x two promises (suite `prototype`), a stretch of engine time from a quarter
of each trace on, since a whole trace on an A10 takes nine hours of decisions. "Best single" is the one fixed setting of
the track's grid that is best on average over these very 24 stretches, "hindsight" the best one of each.

    python benchmarks/prototype_tuners.py --traces ../shared/traces --track limits --jobs 2 [--out prototype.json]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed

from batchpilot.baselines import SERVER_DEFAULT, Setting
from batchpilot.baselines.references.static_best import goodput_of, tightest_tpot_ms, track_grid
from batchpilot.baselines.references.static_suite import static_suite
from batchpilot.configs.prototype import prototype_scenarios
from batchpilot.configs.scenario import Scenario
from batchpilot.configs.tuner import TunerConfig
from batchpilot.core.files import write_atomic
from batchpilot.core.provenance import provenance
from batchpilot.engines.simulated.engine import SimulatedEngine
from batchpilot.engines.simulated.simulation import run_engine
from batchpilot.envs.scenarios import GRACE_S, PreparedRun, prepare
from batchpilot.runners.leaderboard.evaluation import tightest_slo
from batchpilot.tuners import build_tuner

TUNERS = {
    "limits": ("static-default", "queue-tokens-online", "policy-limits", "model-based"),
    "guarded": ("static-default", "guarded-default", "guarded-adaptive", "policy-guarded", "model-based"),
}


def stretch(scenario: Scenario, seconds: float) -> PreparedRun:
    """So many seconds of engine time, from a quarter of the trace on."""
    whole = prepare(scenario, 0)
    start = whole.requests.duration_ms / 4
    requests = whole.requests.window(start, start + 1000.0 * seconds)
    return replace(whole, requests=requests, horizon_ms=1000.0 * (seconds + GRACE_S))


def evaluate(scenario: Scenario, track: str, seconds: float) -> dict[str, list[float]]:
    """Goodput shares on one stretch: of every fixed setting, of static-suite, of each tuner."""
    run = stretch(scenario, seconds)
    found = {"grid": [goodput_of(run, limits) for limits in track_grid(track, tightest_tpot_ms(run))]}
    found["static-suite"] = [goodput_of(run, static_suite(track))]
    setting = Setting(TunerConfig(), SERVER_DEFAULT, tightest_slo(run), 0, track, run.engine.believed_latency())
    for name in TUNERS[track]:
        tuner = build_tuner(name, setting)
        engine = SimulatedEngine(run.engine, run.requests, record_steps=tuner.needs_details)
        result = run_engine(engine, tuner, window_ms=run.window_ms, horizon_ms=run.horizon_ms)
        found[name] = [result.goodput_fraction]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, default=Path("../shared/traces"))
    parser.add_argument("--track", choices=sorted(TUNERS), default="limits")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    scenarios = prototype_scenarios(options.traces)
    work = (delayed(evaluate)(scenario, options.track, options.seconds) for scenario in scenarios)
    results = Parallel(n_jobs=options.jobs)(work)

    grid = np.array([result["grid"] for result in results])
    columns = {"best single": grid[:, grid.mean(axis=0).argmax()], "hindsight": grid.max(axis=1)}
    columns |= {
        name: np.array([result[name][0] for result in results]) for name in ("static-suite", *TUNERS[options.track])
    }
    print(f"{'setting':28s} " + " ".join(f"{name:>19s}" for name in columns))
    for row, scenario in enumerate(scenarios):
        print(f"{scenario.name:28s} " + " ".join(f"{shares[row]:19.3f}" for shares in columns.values()))
    print(f"{'mean':28s} " + " ".join(f"{shares.mean():19.3f}" for shares in columns.values()))
    worst = [float((shares / columns["hindsight"]).min()) for shares in columns.values()]
    print(f"{'worst over hindsight':28s} " + " ".join(f"{share:19.3f}" for share in worst))
    if options.out:
        table = {name: shares.tolist() for name, shares in columns.items()}
        config = {"track": options.track, "seconds": options.seconds, "settings": [one.name for one in scenarios]}
        write_atomic(options.out, json.dumps({"table": table, **provenance(0, config)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
