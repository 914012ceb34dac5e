"""What is a gateway worth at twice the capacity? The same requests over HTTP, with and without it.

    python benchmarks/overload_gateway.py --seconds 60 --load 2

The upstream is `examples/gateway_upstream.py` (its steps take as long as a formula says) with a bound of 8, 64 or 256
requests a step and no admission of its own; the gateway stands before the one with 256. Capacity is what the formula
allows without any promise. Needs the extra `serve`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from batchpilot.core.provenance import provenance
from batchpilot.core.slo import SLO
from batchpilot.envs.scenarios import capacity_per_s
from batchpilot.latency.saturation import SaturationParameters
from batchpilot.runners.http.load_report import figures, lateness
from batchpilot.serving.load.run import LoadSettings, run_load
from batchpilot.workloads import Lengths, LogNormal, poisson
from batchpilot.workloads.table import RequestTable

ROOT = Path(__file__).parents[1]
UPSTREAM = ROOT / "examples" / "gateway_upstream.py"
SLOWDOWN = 2.0
SLO_OF_ALL = SLO(2000.0, 100.0, "interactive")
LENGTHS = Lengths(LogNormal(160, 0.9, 8, 1500), (LogNormal(50, 0.6, 4, 200),))
GRACE_S = 25.0
"""Longer than the longest answer that keeps its promise."""

COLUMNS = (
    "goodput share",
    "tokens/s in SLO",
    "SLO met",
    "refused",
    "TTFT p95 ms",
    "TPOT p95 ms",
    "failed",
    "client late p99 ms",
)
SHIPPED = (8, 64, 256)
TUNERS = ("guarded-default", "guarded-adaptive", "model-based", "gradient2")


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def running(command: list[str], port: int, path: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a process of its own, from its first answer on."""
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1).read()
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise RuntimeError(f"{command} does not answer")
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


@contextmanager
def upstream(max_batch: int, slowdown: float = SLOWDOWN) -> Iterator[str]:
    """The upstream's address."""
    port = free_port()
    command = [sys.executable, str(UPSTREAM), "--port", str(port), "--max-batch", str(max_batch)]
    with running([*command, "--slowdown", str(slowdown)], port, "/v1/models"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def gateway(address: str, *options: str) -> Iterator[str]:
    """The gateway's address."""
    port = free_port()
    command = [sys.executable, "-m", "batchpilot.runners.main", "gateway", "--upstream", address, "--port", str(port)]
    with running([*command, *options], port, "/gateway/status"):
        yield f"http://127.0.0.1:{port}"


def requests_of(load: float, seconds: float, seed: int) -> RequestTable:
    """Poisson arrivals at a multiple of the capacity."""
    sys.path.insert(0, str(UPSTREAM.parent))
    from gateway_upstream import slower

    rng = np.random.default_rng(seed)
    capacity = capacity_per_s(SaturationParameters(*slower(SLOWDOWN)), 2**40, *LENGTHS.means())
    arrival_ms = poisson(load * capacity, 1000.0 * seconds, rng)
    print(f"capacity {capacity:.1f} requests/s, {len(arrival_ms)} requests in {seconds:g} s", file=sys.stderr)
    return RequestTable.from_arrays(arrival_ms, *LENGTHS.sample(len(arrival_ms), rng), slos=SLO_OF_ALL)


def measured(address: str, requests: RequestTable) -> dict[str, float]:
    """What came of the requests at an address."""
    result = asyncio.run(run_load(requests, LoadSettings(address, "steps", bytes_per_token=4.0, grace_s=GRACE_S)))
    return figures(result.outcome) | lateness(result.late_ms)


def row(name: str, told: dict[str, float]) -> str:
    """One line of the table."""
    refused = told["ended_refused_on_arrival"] + told["ended_refused_by_guard"]
    shown = (
        f"{told['goodput_fraction']:.3f}",
        f"{told['goodput_tokens_per_s']:.0f}",
        f"{told['slo_attainment']:.1%}",
        f"{refused / told['requests']:.1%}",
        f"{told['ttft_p95_ms']:.0f}",
        f"{told['tpot_p95_ms']:.0f}",
        f"{told['ended_failed']}",
        f"{told['client_late_p99_ms']:.0f}",
    )
    return f"| {name} | " + " | ".join(shown) + " |"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--load", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tuners", default=",".join(TUNERS), help="strategies, policy:FILE.onnx among them")
    parser.add_argument("--no-direct", action="store_true", help="leave out the runs without a gateway")
    parser.add_argument("--out", type=Path, help="also write every figure to this JSON file")
    asked = parser.parse_args()
    requests = requests_of(asked.load, asked.seconds, asked.seed)
    found: dict[str, dict[str, float]] = {}
    print(f"| | {' | '.join(COLUMNS)} |\n{'|---' * (len(COLUMNS) + 1)}|", flush=True)
    for max_batch in () if asked.no_direct else SHIPPED:
        with upstream(max_batch) as address:
            found[f"no gateway, batch size {max_batch}"] = told = measured(address, requests)
        print(row(f"no gateway, batch size {max_batch}", told), flush=True)
    for tuner in asked.tuners.split(","):
        with upstream(SHIPPED[-1]) as address, gateway(address, "--tuner", tuner) as front:
            found[tuner] = told = measured(front, requests)
        print(row(f"gateway, `{tuner}`", told), flush=True)
    if asked.out is not None:
        asked.out.write_text(json.dumps(found | provenance(asked.seed, vars(asked)), indent=1, default=str))


if __name__ == "__main__":
    main()
