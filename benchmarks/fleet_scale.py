"""How a fleet's simulation scales: seconds and memory for many replicas and a million requests.

python benchmarks/fleet_scale.py --replicas 64 --requests 1000000
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
from rich.console import Console
from rich.progress import Progress

from batchpilot import SLO, Limits, RequestTable, SaturationParameters
from batchpilot.engines import EngineConfig
from batchpilot.fleet import FleetResult, ReplicaSpec, Router
from batchpilot.fleet.simulation import Fleet

LATENCY = SaturationParameters(p_max=60.0, k_b=10.0, k_s=0.01, tau_0=8.0, tau_b=0.02, tau_c=2e-5)
"""A device of the year: some 12 requests a second of the lengths below."""


PIECES = 50


def run(table: RequestTable, spec: ReplicaSpec, router: Router, progress: Progress, name: str) -> FleetResult:
    """What `simulate_fleet` does, in pieces, so that it can be watched."""
    bar = progress.add_task(name, total=PIECES)
    fleet = Fleet(table, [spec], router)
    for end_ms in np.linspace(0.0, table.arrival_ms[-1], PIECES + 1)[1:]:
        fleet.run_until(float(end_ms))
        progress.update(bar, advance=1)
    fleet.run_until(float("inf"))
    progress.remove_task(bar)
    return fleet.result()


def main() -> None:
    """Measure and print, a tenth of the requests first so that the growth shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=64)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--rate-per-replica", type=float, default=10.0)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    spec = ReplicaSpec(
        EngineConfig(LATENCY, estimate=LATENCY, kv_capacity_tokens=400_000), Limits(256, 2048), count=options.replicas
    )
    print(f"{'requests':>10}  {'router':<28}{'seconds':>9}{'us a request':>14}", end="")
    print(f"{'over a tenth':>14}{'peak MB':>9}{'goodput':>9}{'TTFT p99':>10}")
    before: dict[str, float] = {}
    for count in (options.requests // 10, options.requests):
        gap_ms = 1000.0 / (options.rate_per_replica * options.replicas)
        table = RequestTable.from_arrays(
            np.cumsum(rng.exponential(gap_ms, count)),
            np.maximum(rng.lognormal(6.5, 1.0, count).astype(int), 1),
            np.maximum(rng.lognormal(4.8, 0.8, count).astype(int), 1),
            slos=SLO(2000.0, 100.0),
        )
        for name, router in (
            ("round robin", Router("round-robin", poll_ms=1000.0)),
            ("least requests, 1 s old", Router("least-requests", poll_ms=1000.0)),
            ("least requests, fresh", Router("least-requests")),
        ):
            with Progress(console=Console(stderr=True), transient=True) as progress:
                run(table.select(slice(0, 100)), spec, router, progress, "compiling")
                started = time.perf_counter()
                result = run(table, spec, router, progress, f"{count:,} requests, {name}").served
            seconds = time.perf_counter() - started
            each_us = 1e6 * seconds / count
            grown = f"{each_us / before[name]:.2f}" if name in before else ""
            before[name] = each_us
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{count:>10,}  {name:<28}{seconds:>9.1f}{each_us:>14.1f}{grown:>14}{peak:>9,.0f}"
                f"{result.goodput_fraction:>9.3f}{result.percentile_ms('ttft_ms', 99):>10,.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
