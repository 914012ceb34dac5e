"""What is a prefix cache worth on Mooncake's traces: hits by capacity, goodput by strategy, by router, of the guard?

    python benchmarks/prefix_cache.py capacity --traces FOLDER
    python benchmarks/prefix_cache.py strategies --traces FOLDER --trace synthetic --rate 2
    NUMBA_DISABLE_JIT=1 python benchmarks/prefix_cache.py guard --traces FOLDER
    python benchmarks/prefix_cache.py routers --traces FOLDER --trace conversation --rate 8 --kv-tokens 1000000

FOLDER holds `conversation_trace.jsonl` and `synthetic_trace.jsonl` of github.com/kvcache-ai/Mooncake, FAST25-release.
`--kv-tokens` sets the size of the cache: one device holds too few of these long prompts to find many of them again. The
guard that does not know what is cached is made here by replacing two functions of the scheduler, which plain Python
allows and compiled code does not.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from batchpilot import Limits, SimulationResult
from batchpilot.baselines import SERVER_DEFAULT, Setting
from batchpilot.configs import TunerConfig
from batchpilot.engines import SimulatedEngine, run_engine
from batchpilot.engines.scheduler import admission, queue
from batchpilot.envs.scenarios import PreparedRun, prepare
from batchpilot.fleet import ReplicaSpec, Router, simulate_fleet
from batchpilot.latency.model.saturation import step_ms
from batchpilot.runners.leaderboard.evaluation import tightest_slo
from batchpilot.runners.leaderboard.strategies import make_strategy
from batchpilot.runners.selection import Changes, replay_of

CAPACITIES = (450_000, 1_000_000, 3_000_000, 10_000_000, 50_000_000)
STRATEGIES = ("static-default", "guarded-default", "guarded-adaptive", "model-based")
ROUTERS = ("round-robin", "least-requests", "least-tokens", "predicted-ttft", "prefix")
DEVICE, MODEL = "B200", "Llama-3.1-8B"
TTFT_MS, TPOT_MS = 2000.0, 50.0


def prepared(args: argparse.Namespace, *, cache: bool, promised: bool = True, **how: Any) -> PreparedRun:
    """A trace on the device, its requests promised something or nothing."""
    promise = {"ttft_ms": TTFT_MS, "tpot_ms": TPOT_MS} if promised else {"ttft_ms": 1e9, "tpot_ms": 1e9}
    replay = replay_of(args.traces / f"{args.trace}_trace.jsonl", format="mooncake", **how)
    run = prepare(Changes(DEVICE, MODEL, prefix_cache=cache, **promise).of(replay), 0)
    return replace(run, engine=replace(run.engine, kv_capacity_tokens=args.kv_tokens, memory=None))


def capacity(args: argparse.Namespace) -> None:
    """Hit rate by KV tokens that fit, the whole trace at a quarter of its rate."""
    run = prepared(args, cache=True, promised=False, rate=0.25)
    for tokens in CAPACITIES:
        engine = SimulatedEngine(replace(run.engine, kv_capacity_tokens=tokens), run.requests)
        result = run_engine(engine, Limits(256, token_budget=8192), window_ms=1000.0)
        print(f"{args.trace:13} {tokens:>11,} KV tokens: {result.prefix_hit_rate:6.1%} of prompt tokens found")


def strategies(args: argparse.Namespace) -> None:
    """Goodput by strategy, with and without the cache."""
    for name in STRATEGIES:
        for cache in (False, True):
            run = prepared(args, cache=cache, rate=args.rate, duration_s=args.duration_s)
            latency = run.engine.believed_latency()
            setting = Setting(TunerConfig(), SERVER_DEFAULT, tightest_slo(run), 0, "guarded", latency)
            strategy = SERVER_DEFAULT if name == "static-default" else make_strategy(name, setting)
            engine = SimulatedEngine(run.engine, run.requests, record_steps=getattr(strategy, "needs_details", False))
            result = run_engine(engine, strategy, window_ms=1000.0, horizon_ms=run.horizon_ms)
            print(f"{name:17} cache {'on ' if cache else 'off'} {told(result)}; {typical_limits(result)}", flush=True)


def guard(args: argparse.Namespace) -> None:
    """The guard with and without knowledge of what is cached."""
    known = (admission.predicted_prefill_ms, queue.latest_ms)
    for knows in (True, False):
        predicted, latest = known if knows else (prefill_of_whole_prompts_ms, latest_for_whole_prompts_ms)
        admission.predicted_prefill_ms, queue.latest_ms = predicted, latest
        run = prepared(args, cache=True, rate=args.rate, duration_s=args.duration_s)
        limits = SERVER_DEFAULT.replace(ttft_guard=1.0)
        result = run_engine(SimulatedEngine(run.engine, run.requests), limits, window_ms=1000.0)
        print(f"guard {'knows' if knows else 'does not know'} what is cached: {told(result)}", flush=True)
    admission.predicted_prefill_ms, queue.latest_ms = known


def routers(args: argparse.Namespace) -> None:
    """Four replicas by router, views a second old, with and without caches of `--kv-tokens` each."""
    for cache in (False, True):
        run = prepared(args, cache=cache, rate=args.rate, duration_s=args.duration_s)
        limits = SERVER_DEFAULT.replace(ttft_guard=1.0) if args.guarded else SERVER_DEFAULT
        spec = ReplicaSpec(run.engine, limits, count=args.replicas)
        for rule in ROUTERS:
            result = simulate_fleet(run.requests, spec, Router(rule, poll_ms=1000.0))
            served, each = result.served, result.by_replica()
            print(
                f"{rule:15} cache {'on ' if cache else 'off'} found {result.prefix_hit_rate:6.1%}, TTFT p50 "
                f"{served.percentile_ms('ttft_ms', 50):7,.0f}, p99 {served.percentile_ms('ttft_ms', 99):7,.0f} ms, "
                f"goodput {served.goodput_fraction:6.1%}, refused {served.refused_fraction:6.1%}; the busiest of "
                f"{args.replicas} took {each.max() / max(each.sum(), 1):.0%} of {len(run.requests):,}",
                flush=True,
            )


def prefill_of_whole_prompts_ms(s: Any, r: int, _: int) -> float:
    """Time until the first token if nothing were cached, in full steps beside those that run."""
    c, estimate = s.clock[0], s.parameters[0, 1:]
    budget = min(s.limits[0].token_budget, s.requests[r].prompt + c.plan_total_tokens)
    room = max(budget - c.n_plan, 1)
    whole, last = divmod(int(s.requests[r].prompt), int(room))
    time = whole * step_ms(estimate, float(c.n_plan + 1), float(budget), float(c.plan_context))
    return time + (step_ms(estimate, float(c.n_plan + 1), float(c.n_plan + last), float(c.plan_context)) if last else 0)


def latest_for_whole_prompts_ms(s: Any, r: int) -> float:
    """When a request that waits would be hopeless if nothing were cached."""
    c, request = s.clock[0], s.requests[r]
    fastest_ms = c.fastest_ms + request.prompt * c.fastest_token_ms
    return request.arrival_ms + c.ttft_guard * request.ttft_target_ms - fastest_ms


def told(result: SimulationResult) -> str:
    """The figures that matter, in a line."""
    return (
        f"goodput {result.goodput_fraction:6.1%}, found {result.prefix_hit_rate:5.1%}, refused "
        f"{result.refused_fraction:5.1%}, TTFT p95 {result.percentile_ms('ttft_ms', 95):6,.0f} ms"
    )


def typical_limits(result: SimulationResult) -> str:
    """What was in force for most of the run."""
    texts = [str(window.limits) for window in result.windows]
    return max(set(texts), key=texts.count)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=("capacity", "strategies", "guard", "routers"))
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--trace", choices=("conversation", "synthetic"), default="synthetic")
    parser.add_argument("--rate", type=float, default=2.0)
    parser.add_argument("--kv-tokens", type=int, default=10_000_000)
    parser.add_argument("--duration-s", type=float, default=500.0)
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--guarded", action="store_true", help="replicas refuse what would come too late")
    args = parser.parse_args()
    {"capacity": capacity, "strategies": strategies, "guard": guard, "routers": routers}[args.table](args)


if __name__ == "__main__":
    main()
