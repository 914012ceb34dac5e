"""What is each limit worth? DESIGN's table of 24 settings, recomputed with this engine.

Two Azure traces x three devices x two loads x two SLOs. For each set of knobs, added one by one, the share of offered
output tokens served within SLO, averaged over the 24 settings: with what servers ship, with the one fixed setting that
is best on average, and with the best fixed setting of each setting in hindsight.

    python benchmarks/knobs.py --traces ../shared/traces --jobs 4 [--out knobs.json]
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed

from batchpilot.baselines import SERVER_DEFAULT
from batchpilot.baselines.references.static_best import goodput_of
from batchpilot.configs.scenario import Scenario
from batchpilot.core.files import write_atomic
from batchpilot.core.limits import Limits
from batchpilot.core.provenance import provenance
from batchpilot.core.slo import SLO
from batchpilot.envs.scenarios import PreparedRun, capacity_per_s, prepare

TRACES = {"conv": "AzureLLMInferenceTrace_conv.csv", "code": "AzureLLMInferenceTrace_code.csv"}
DEVICES = ("A10", "A100-80GB", "H100-80GB")
LOADS = (0.9, 1.3)
SLOS = ((2000.0, 100.0), (1000.0, 60.0))
MODEL = "Llama-3-8B"

BATCH = (8, 16, 32, 64, 128, 256)
BUDGET = (256, 512, 1024, 2048, 4096, 8192)
QUEUED = (1000, 2000, 4000, 8000, 16000, 32000, 64000)
GUARD = (0.5, 0.7, 0.85, 1.0, 1.2)

KNOBS: dict[str, list[Limits]] = {
    "batch size": [SERVER_DEFAULT.replace(batch_size=size) for size in BATCH],
    "+ token budget": [Limits(size, budget) for size, budget in product(BATCH, BUDGET)],
    "+ max_queued_tokens": [Limits(size, budget, queued) for size, budget, queued in product(BATCH, BUDGET, QUEUED)],
    "+ ttft_guard (FCFS)": [Limits(s, b, ttft_guard=g) for s, b, g in product(BATCH, BUDGET, GUARD)],
    "+ shortest prompt first": [
        Limits(s, b, ttft_guard=g, discipline="spf") for s, b, g in product(BATCH, BUDGET, GUARD)
    ],
}
SHIPPED = {
    "batch size": SERVER_DEFAULT,
    "+ ttft_guard (FCFS)": SERVER_DEFAULT.replace(ttft_guard=1.0),
    "+ shortest prompt first": SERVER_DEFAULT.replace(ttft_guard=1.0, discipline="spf"),
}


def setting(trace: str, device: str, load: float, slo: tuple[float, float], folder: Path) -> PreparedRun:
    """One of the 24 settings: the trace replayed at a rate that is `load` times the device's estimated capacity."""
    data = {
        "name": f"{trace}-{device.lower()}-{load}-{slo[0]:.0f}",
        "description": "A setting of the knob table.",
        "family": "trace",
        "device": device,
        "model": MODEL,
        "slos": {"interactive": {"ttft_ms": slo[0], "tpot_ms": slo[1]}},
        "workload": {"trace": {"file": str(folder / TRACES[trace]), "format": "azure2023"}},
    }
    natural = prepare(Scenario.model_validate(data), 0)
    requests = natural.requests
    mean_rate = len(requests) / (requests.duration_ms / 1000.0)
    lengths = float(requests.prompt_tokens.mean()), float(requests.output_tokens.mean())
    capacity = capacity_per_s(natural.engine.latency, natural.engine.capacity_tokens, *lengths)
    data["workload"]["trace"]["rate"] = load * capacity / mean_rate
    return prepare(Scenario.model_validate(data), 0)


def evaluate(arguments: tuple[str, str, float, tuple[float, float]], folder: Path) -> dict[str, list[float]]:
    """Goodput share of every fixed setting, of what is shipped, and of the untuned rule, on one setting."""
    run = setting(*arguments, folder)
    tpot = SLO(*arguments[3]).tpot_ms
    untuned = SERVER_DEFAULT.replace(ttft_guard=1.0, discipline="spf", step_target_ms=tpot)
    found = {name: [goodput_of(run, limits) for limits in grid] for name, grid in KNOBS.items()}
    found |= {f"shipped {name}": [goodput_of(run, limits)] for name, limits in SHIPPED.items()}
    found["untuned"] = [goodput_of(run, untuned)]
    found["requests"] = [len(run.requests)]
    found["rate_per_s"] = [1000.0 * len(run.requests) / run.requests.duration_ms]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, default=Path("../shared/traces"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    settings = list(product(TRACES, DEVICES, LOADS, SLOS))
    results = Parallel(n_jobs=options.jobs)(delayed(evaluate)(chosen, options.traces) for chosen in settings)

    print(f"{'knobs':26s} {'shipped':>8s} {'best single':>12s} {'hindsight':>10s}   best single setting")
    table = {}
    for name, grid in KNOBS.items():
        scores = np.array([result[name] for result in results])
        mean = scores.mean(axis=0)
        shipped = np.mean([result.get(f"shipped {name}", [np.nan])[0] for result in results])
        table[name] = [float(shipped), float(mean.max()), float(scores.max(axis=1).mean())]
        shown = "" if np.isnan(shipped) else f"{shipped:.3f}"
        print(f"{name:26s} {shown:>8s} {table[name][1]:12.3f} {table[name][2]:10.3f}   {grid[int(mean.argmax())]}")
    untuned = float(np.mean([result["untuned"][0] for result in results]))
    table["+ step_target_ms, nothing tuned"] = [untuned]
    print(f"{'+ step_target_ms, untuned':26s} {'':8s} {untuned:12.3f}")

    print(f"\n{'setting':40s} {'req/s':>6s} {'shipped':>8s} {'limits':>8s} {'guarded':>8s} {'untuned':>8s}")
    for chosen, result in zip(settings, results, strict=True):
        shares = [result["shipped batch size"][0], max(result["+ max_queued_tokens"])]
        shares += [max(result["+ shortest prompt first"]), result["untuned"][0]]
        print(f"{chosen!s:40s} {result['rate_per_s'][0]:6.2f} " + " ".join(f"{share:8.3f}" for share in shares))
    if options.out:
        write_atomic(
            options.out, json.dumps({"table": table, **provenance(0, {"settings": settings})}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
