"""Continuous against static batching at one load, and the disciplines beside each other with Jain's index.

    python benchmarks/batching_rules.py modes
    python benchmarks/batching_rules.py modes --outputs 1 --prompts 1024
    python benchmarks/batching_rules.py disciplines

`modes` keeps so many clients asking, one request each: requests a second, end-to-end p50 and p99. Beside static
batches stands what the documents' formula says continuous batching gains on them, 1 / (padding ratio x wait ratio): the
share of computed tokens that was asked for, times the share of places in a batch that were taken. `disciplines`: five
users of unequal demand and three classes at 1.3 times the capacity, the guard on and off.
"""

from __future__ import annotations

import argparse

import numpy as np

from batchpilot import SLO, Limits, RequestTable, SimulationResult, simulate
from batchpilot.baselines import BASELINES, SERVER_DEFAULT, Setting
from batchpilot.configs.scenario import scenario
from batchpilot.core import DISCIPLINES
from batchpilot.engines import SimulatedEngine, run_engine
from batchpilot.engines.simulated.fairness import fairness
from batchpilot.envs.scenarios import latency_of, prepare

STATIC_RULES = (
    *("static-8", "static-32", "static-64", "static-accumulate"),
    *("dynamic-batcher", "adaptive-padding", "padding-bound", "predictive-wait", "smdp"),
)
CONTINUOUS_RULES = ("static-64", "static-default", "delay-factor")
CLASSES = (SLO(500.0, 100.0, "realtime"), SLO(2000.0, 100.0, "interactive"), SLO(10000.0, 500.0, "batch"))


def modes(args: argparse.Namespace) -> None:
    """One closed load, padded and continuous."""
    latency = latency_of(scenario("padded-a100")).parameters
    rng = np.random.default_rng(args.seed)
    lengths = [rng.integers(min(16, most), most + 1, args.requests) for most in (args.prompts, args.outputs)]
    table = RequestTable.from_arrays(np.zeros(args.requests), *lengths, concurrency=args.clients)
    print("| batching | strategy | requests/s | p50 s | p99 s | efficiency | requests a step | 1/(padding x wait) |")
    print("|---|---|---|---|---|---|---|---|")
    for mode, names in (("static", STATIC_RULES), ("continuous", CONTINUOUS_RULES)):
        for name in names:
            base = Limits(64, max_wait_ms=100.0) if mode == "static" else SERVER_DEFAULT
            strategy = BASELINES[name](Setting(base=base))
            result = simulate(table, latency, strategy, mode=mode, window_ms=1000.0)
            print(f"| {mode} | `{name}` | {served(result, mode)} |", flush=True)
    for prefill in ("whole", "selective"):
        result = simulate(table, latency, SERVER_DEFAULT, prefill=prefill, window_ms=1000.0)
        print(f"| continuous, {prefill} prefill | `static-default` | {served(result, 'continuous')} |", flush=True)


def served(result: SimulationResult, mode: str) -> str:
    """The columns of one run."""
    steps = sum(window.steps for window in result.windows)
    mean = sum(window.steps * window.batch_size_mean for window in result.windows) / steps
    taken = mean / max(window.limits.batch_size for window in result.windows)
    rate = 1000.0 * result.count("length") / result.elapsed_ms
    p50, p99 = (result.percentile_ms("e2e_ms", q) / 1000.0 for q in (50, 99))
    gain = f"{1.0 / (result.efficiency * min(taken, 1.0)):.1f}" if mode == "static" else ""
    return f"{rate:.1f} | {p50:.1f} | {p99:.1f} | {result.efficiency:.2f} | {mean:.1f} | {gain}"


def disciplines(args: argparse.Namespace) -> None:
    """Every discipline on the same overloaded requests."""
    run = prepare(scenario("overload-1.3-a100"), args.seed)
    rng = np.random.default_rng(args.seed)
    n = len(run.requests)
    classes = rng.choice(3, n, p=(0.2, 0.5, 0.3))
    table = RequestTable.from_arrays(
        run.requests.arrival_ms,
        run.requests.prompt_tokens,
        run.requests.output_tokens,
        estimated_output_tokens=run.requests.output_tokens * rng.lognormal(0.0, 0.3, n),
        slo_class=classes,
        priority=classes,
        user=rng.choice(5, n, p=(0.6, 0.2, 0.1, 0.06, 0.04)),
        slos=CLASSES,
    )
    columns = ("goodput", "Jain of demand", "of tokens", "TTFT p50 s", "p99 s", "realtime", "interactive", "batch")
    print(f"| discipline | guard | {' | '.join(columns)} | refused |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for guard in (None, 1.0):
        for name in DISCIPLINES:
            limits = Limits(64, token_budget=2048, ttft_guard=guard, discipline=name)
            result = run_engine(SimulatedEngine(run.engine, table), limits, window_ms=1000.0, horizon_ms=run.horizon_ms)
            p50, p99 = (result.percentile_ms("ttft_ms", q) / 1000.0 for q in (50, 99))
            kept = " | ".join(f"{result.slo_met[classes == k].mean():.2f}" for k in range(3))
            equal = fairness(result, dict.fromkeys(range(5), 1.0))
            figures = f"{result.goodput_fraction:.3f} | {fairness(result):.3f} | {equal:.3f} | {p50:.1f} | {p99:.1f}"
            print(f"| `{name}` | {'on' if guard else 'off'} | {figures} | {kept} | {result.refused_fraction:.2f} |")


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("modes", "disciplines"))
    parser.add_argument("--clients", type=int, default=256)
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--prompts", type=int, default=128, help="longest prompt")
    parser.add_argument("--outputs", type=int, default=256, help="longest output")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    {"modes": modes, "disciplines": disciplines}[args.what](args)


if __name__ == "__main__":
    main()
