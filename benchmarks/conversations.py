"""Conversations and agents with and without a prefix cache: what is found, what is kept, which limits are set.

    python benchmarks/conversations.py [--suite agents-held-out] [--seeds 3] [--strategies a,b]

Every strategy serves the same conversations; turns follow its own answers. "Could be found" is the share of prompt
tokens that an earlier turn of the conversation had, its answer among them; the system prompts that conversations share
come on top. Intervals are of the mean over seeds (Student's t, 95 %).
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace

import numpy as np
from scipy import stats

from batchpilot.baselines import SERVER_DEFAULT
from batchpilot.configs.scenario import suite
from batchpilot.configs.seeds import seeds_of
from batchpilot.engines import SimulatedEngine
from batchpilot.engines.simulated.result import SimulationResult
from batchpilot.engines.simulated.simulation import run_engine
from batchpilot.envs import prepare
from batchpilot.envs.scenarios import PreparedRun
from batchpilot.tuners import make_tuner
from batchpilot.workloads.conversations import new_tokens

STRATEGIES = "static-default,guarded-default,guarded-adaptive,model-based"


def served(run: PreparedRun, strategy: str, *, cache: bool) -> tuple[SimulationResult, str]:
    """One run, and the limits that were in force most often."""
    tuner = make_tuner(strategy, base=SERVER_DEFAULT, latency=run.engine.believed_latency(), track="guarded")
    engine = SimulatedEngine(replace(run.engine, prefix_cache=cache), run.requests, record_steps=True)
    result = run_engine(engine, tuner, window_ms=run.window_ms, horizon_ms=run.horizon_ms)
    limits = [str(window.limits) for window in result.windows]
    return result, max(set(limits), key=limits.count)


def interval(values: list[float]) -> str:
    """Mean and half the width of its 95 % interval, in per cent."""
    mean = 100.0 * float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.1f}"
    half = 100.0 * float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return f"{mean:.1f} +- {half:.1f}"


def main() -> None:
    """Print a table a scenario."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", default="agents-held-out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--strategies", default=STRATEGIES)
    options = parser.parse_args()
    for one in suite(options.suite):
        runs = [prepare(one, seed) for seed in seeds_of(options.suite, 0, options.seeds)]
        turns = sum(len(run.requests) for run in runs)
        prompt = sum(int(run.requests.prompt_tokens.sum()) for run in runs)
        known = 1.0 - sum(int(new_tokens(run.requests).sum()) for run in runs) / prompt
        print(
            f"\n{one.name}: {turns} turns in {options.seeds} runs, prompts of {prompt / turns:,.0f} tokens, "
            f"{100 * known:.1f} % could be found in the turn before\n"
        )
        print("| strategy | cache | goodput % | kept tokens/s | found % | turns asked | lost % | TTFT p95 s | limits |")
        print("|---|---|---|---|---|---|---|---|---|")
        for strategy in options.strategies.split(","):
            for cache in (False, True):
                results, limits = zip(*(served(run, strategy, cache=cache) for run in runs), strict=True)
                asked = [np.isfinite(result.requests.arrival_ms).sum() for result in results]
                lost = [
                    1.0 - result.count("length") / max(np.count_nonzero(result.finish_code), 1) for result in results
                ]
                print(
                    f"| {strategy} | {'on' if cache else 'off'} "
                    f"| {interval([result.goodput_fraction for result in results])} "
                    f"| {np.mean([result.goodput_tokens_per_s for result in results]):.0f} "
                    f"| {interval([result.prefix_hit_rate if cache else 0.0 for result in results])} "
                    f"| {np.mean(asked):.0f} | {100 * np.mean(lost):.1f} "
                    f"| {np.mean([np.nanpercentile(r.ttft_ms, 95) for r in results]) / 1000:.2f} | {limits[0]} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
