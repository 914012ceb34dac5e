"""The source documents' own problem: dynamic and hybrid against one static 8, on every catalogued device.

Stationary saturating load: a closed loop of chat requests with more clients than any batch, a model that fits each
device, ten minutes of engine time, several seeds. Printed per device: throughput gain over static-8, throughput
relative to the best static size in hindsight (by exhaustive search on the same requests), and the document's targets:
convergence < 120 s, batch-size std/mean <= 10 % once stable, success >= 99.9 %.

    python benchmarks/devices.py [--seeds 3] [--jobs 2] [--documented] [--out devices.json]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from batchpilot.baselines import SERVER_DEFAULT
from batchpilot.baselines.references.static_best import track_grid
from batchpilot.configs import devices
from batchpilot.configs.scenario import Scenario
from batchpilot.core.files import write_atomic
from batchpilot.core.limits import Limits
from batchpilot.core.provenance import provenance
from batchpilot.core.tuner import Tuner
from batchpilot.engines import SimulatedEngine, SimulationResult, run_engine
from batchpilot.envs.scenarios import PreparedRun, prepare
from batchpilot.runners.leaderboard.convergence import convergence
from batchpilot.tuners import make_tuner

MINUTES = 10.0
CLIENTS = 600
SMALL_DEVICES = {"T4": "Qwen3-0.6B", "CPU": "Qwen3-0.6B", "A10": "Llama-3-8B", "Arc-A770": "Qwen3-0.6B"}
STRATEGIES = ("static-8", "dynamic", "hybrid")


def scenario_on(device: str) -> Scenario:
    """Saturating chat on a device, with the largest catalogued chat model that suits it."""
    return Scenario.model_validate(
        {
            "name": f"saturated-{device.lower()}",
            "description": "A closed loop that never lets the engine idle.",
            "family": "closed-loop",
            "device": device,
            "model": SMALL_DEVICES.get(device, "Llama-2-7B"),
            "duration_s": 60.0 * MINUTES,
            "workload": {
                "closed_loop": {
                    "concurrency": CLIENTS,
                    "requests": 100_000,
                    "lengths": {"kind": "azure-conv", "max_prompt_tokens": 2048, "max_output_tokens": 512},
                }
            },
        }
    )


def run(prepared: PreparedRun, strategy: Limits | Tuner) -> SimulationResult:
    engine = SimulatedEngine(prepared.engine, prepared.requests)
    return run_engine(engine, strategy, window_ms=prepared.window_ms, horizon_ms=60_000.0 * MINUTES)


def evaluate(device: str, seed: int) -> dict[str, Any]:
    """Every strategy on one device at one seed."""
    prepared = prepare(scenario_on(device), seed)
    found: dict[str, Any] = {"device": device, "model": prepared.scenario.model, "seed": seed}
    sizes = [(run(prepared, limits).throughput_tokens_per_s, limits) for limits in track_grid("batch", np.inf)]
    best, limits = max(sizes, key=lambda pair: pair[0])
    found |= {"best_throughput": best, "best_size": limits.batch_size}
    for name in STRATEGIES:
        result = run(prepared, make_tuner(name, base=SERVER_DEFAULT, seed=seed))
        converged, stability = convergence(result.windows)
        found[name] = {
            "throughput": result.throughput_tokens_per_s,
            "converged_s": converged,
            "stability": stability,
            "success": result.success_rate,
            "final_size": result.windows[-1].limits.batch_size,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--documented", action="store_true", help="Only devices whose optimum the document expects.")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    shown = [device for device in devices() if device.optimal_batch or not options.documented]
    cells = [(device.name, seed) for device in shown for seed in range(options.seeds)]
    results = Parallel(n_jobs=options.jobs)(delayed(evaluate)(*cell) for cell in cells)
    heads = ("device", "model", "strategy", "gain %", "of best %", "best", "doc", "final", "conv s", "worst", "success")
    print("{:12s} {:12s} {:9s} {:>7s} {:>10s} {:>5s} {:>8s} {:>6s} {:>7s} {:>6s} {:>8s}".format(*heads))
    for device in shown:
        expected = "{}-{}".format(*device.optimal_batch) if device.optimal_batch else ""
        here = [result for result in results if result["device"] == device.name]
        for name in STRATEGIES[1:]:
            gain = np.mean([r[name]["throughput"] / r["static-8"]["throughput"] for r in here]) - 1.0
            share = np.mean([r[name]["throughput"] / r["best_throughput"] for r in here])
            best, final = np.median([(r["best_size"], r[name]["final_size"]) for r in here], axis=0)
            converged = [r[name]["converged_s"] for r in here]
            success = min(r[name]["success"] for r in here)
            print(
                f"{device.name:12s} {here[0]['model']:12s} {name:9s} {100 * gain:7.1f} {100 * share:10.1f} {best:5.0f} "
                f"{expected:>8s} {final:6.0f} {np.median(converged):7.0f} {np.max(converged):6.0f} {success:8.4f}"
            )
    print("doc: where the tuner document expects the optimum, of no model and load that it names")
    print("conv s: engine time from which size std/mean stays <= 10 % to the end, median and worst seed; nan: never")
    if options.out:
        origin = provenance(0, {"minutes": MINUTES, "clients": CLIENTS, "seeds": options.seeds})
        write_atomic(options.out, json.dumps({"results": results, **origin}, indent=1) + "\n")


if __name__ == "__main__":
    main()
