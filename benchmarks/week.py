"""A week of 44 million requests, the size of the Azure trace of 2024, in memory that does not grow with it.

    python benchmarks/week.py [--requests 44000000] [--tuner hybrid]

Arrivals and lengths are made table by table (a day's rhythm around the mean rate, log-normal lengths with the means of
that trace's conversations), served as one run by `simulate_stream` and added up. Several servers of one kind would
share such a load: the simulated one is as fast as all of them.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from batchpilot.baselines import SERVER_DEFAULT
from batchpilot.core import SLO, Limits
from batchpilot.engines.scheduler.state import FINISH_REASONS
from batchpilot.engines.simulated.config import EngineConfig
from batchpilot.engines.simulated.stream import simulate_stream
from batchpilot.latency import SaturationParameters
from batchpilot.tuners import make_tuner
from batchpilot.workloads import Lengths, LogNormal
from batchpilot.workloads.table import RequestTable

WEEK_MS, DAY_MS = 7 * 86_400_000.0, 86_400_000.0
LENGTHS = Lengths(LogNormal(1155, 1.1, 1, 8192), (LogNormal(211, 0.9, 1, 1500),))
LATENCY = SaturationParameters(p_max=1200.0, k_b=10.0, k_s=0.004, tau_0=5.0, tau_b=0.002, tau_c=3e-6)
"""As fast as the servers that such a load is shared between."""

LIMITS = Limits(2048, token_budget=32_768, max_queued_tokens=2_000_000)


def tables(requests: int, at_once: int, seed: int) -> Iterator[RequestTable]:
    """The week, table by table: twice the load at the middle of a day as at its ends.

    Args:
        requests: in the week.
        at_once: in a table.
        seed: of all draws.
    """
    rng = np.random.default_rng(seed)
    now_ms = 0.0
    for made in range(0, requests, at_once):
        n = min(at_once, requests - made)
        gaps = rng.exponential(WEEK_MS / requests, n)
        # Time runs faster where more comes; a gap is short beside a day.
        load = 1.0 - np.cos(2.0 * np.pi * (now_ms + np.cumsum(gaps)) / DAY_MS) / 3.0
        arrival_ms = now_ms + np.cumsum(gaps / load)
        now_ms = float(arrival_ms[-1])
        yield RequestTable.from_arrays(arrival_ms, *LENGTHS.sample(n, rng), slos=SLO())


def main() -> None:
    """Serve the week and print what became of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=44_000_000)
    parser.add_argument("--at-once", type=int, default=250_000, help="requests in a table")
    parser.add_argument("--tuner", help="a strategy without details, as hybrid; else constant limits")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    config = EngineConfig(latency=LATENCY, kv_capacity_tokens=4_000_000, seed=options.seed)
    limits = make_tuner(options.tuner, base=SERVER_DEFAULT) if options.tuner else LIMITS
    ended, tokens, in_slo, windows = np.zeros(len(FINISH_REASONS), np.int64), 0, 0, 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    started, elapsed_ms = time.perf_counter(), 0.0
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        bar = progress.add_task("requests", total=options.requests)
        for result in simulate_stream(tables(options.requests, options.at_once, options.seed), config, limits):
            ended += np.bincount(result.finish_code, minlength=len(ended))
            tokens += int(result.generated_tokens.sum())
            in_slo += int(result.slo_met.sum())
            windows += len(result.windows)
            elapsed_ms = result.elapsed_ms
            progress.update(bar, advance=len(result.requests))
    seconds = time.perf_counter() - started
    print(
        json.dumps(
            {
                "requests": int(ended.sum()),
                "ended": dict(zip(FINISH_REASONS, ended.tolist(), strict=True)),
                "in SLO": in_slo,
                "generated tokens": tokens,
                "windows": windows,
                "simulated hours": round(elapsed_ms / 3.6e6, 2),
                "s": round(seconds, 1),
                "us a request": round(1e6 * seconds / int(ended.sum()), 2),
                "peak memory MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
