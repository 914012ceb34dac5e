"""What is a gateway worth at twice the capacity? The same requests over HTTP, with and without it.

    python benchmarks/overload_gateway.py --seconds 30 --load 2 --seeds 3

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
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from scipy import stats

from batchpilot.core.files import write_atomic
from batchpilot.core.provenance import provenance
from batchpilot.core.slo import SLO
from batchpilot.envs.scenarios import capacity_per_s
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.runners.http.load.report import figures, lateness
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

COLUMNS = {
    "goodput share": "goodput_fraction",
    "tokens/s in SLO": "goodput_tokens_per_s",
    "SLO met %": "slo_met_percent",
    "refused %": "refused_percent",
    "TTFT p95 ms": "ttft_p95_ms",
    "TPOT p95 ms": "tpot_p95_ms",
    "failed": "ended_failed",
    "client late p99 ms": "client_late_p99_ms",
}
SHIPPED = (8, 64, 256)
FIXED = "limits:batch_size=40,max_queued_tokens=1000"
"""What an operator might set who knows this upstream: a batch within 100 ms a token, and a queue of a second."""

TUNERS = ("guarded-default", "guarded-adaptive", "model-based", "policy-guarded", FIXED)


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
        for _ in range(1200):  # the first start of an installation compiles
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1).read()
                break
            except urllib.error.HTTPError:
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
def gateway_process(address: str, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The gateway's address and its process."""
    port = free_port()
    command = [sys.executable, "-m", "batchpilot.runners.main", "gateway", "--upstream", address, "--port", str(port)]
    with running([*command, *options], port, "/gateway/status") as process:
        yield f"http://127.0.0.1:{port}", process


@contextmanager
def gateway(address: str, *options: str) -> Iterator[str]:
    """The gateway's address."""
    with gateway_process(address, *options) as (front, _):
        yield front


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


def in_percent(told: dict[str, float]) -> dict[str, float]:
    """Figures of a run with those that a table shows in percent."""
    refused = told["ended_refused_on_arrival"] + told["ended_refused_by_guard"]
    percent = {"refused_percent": refused / told["requests"], "slo_met_percent": told["slo_attainment"]}
    return told | {name: 100.0 * share for name, share in percent.items()}


def row(name: str, *runs: dict[str, float]) -> str:
    """One line of the table: means over seeds, and half the width of their 95 % intervals (Student's t)."""
    shown = []
    for column in COLUMNS.values():
        values = np.array([in_percent(run)[column] for run in runs], np.float64)
        digits = 3 if column == "goodput_fraction" else 0
        text = f"{values.mean():.{digits}f}"
        if len(values) > 1:
            half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
            text += f" ± {half:.{digits}f}"
        shown.append(text)
    return f"| {name} | " + " | ".join(shown) + " |"


def arrangements(tuners: list[str], direct: bool) -> Iterator[tuple[str, Callable[[], AbstractContextManager[str]]]]:
    """What is compared: a name, and how to set it up."""
    for max_batch in SHIPPED if direct else ():
        yield f"no gateway, batch size {max_batch}, no admission", partial(upstream, max_batch)
    for tuner in tuners:
        kind, _, rest = tuner.partition(":")
        options = ("--limits", rest) if kind == "limits" else ("--tuner", tuner)
        yield f"gateway, `{rest if kind == 'limits' else tuner}`", partial(behind_gateway, *options)


@contextmanager
def behind_gateway(*options: str) -> Iterator[str]:
    """The address of a gateway before an upstream of its own."""
    with upstream(SHIPPED[-1]) as address, gateway(address, *options) as front:
        yield front


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--load", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tuner", action="append", help="a strategy, policy:FILE.onnx or limits:NAME=VALUE,...; again")
    parser.add_argument("--no-direct", action="store_true", help="leave out the runs without a gateway")
    parser.add_argument("--out", type=Path, help="also write every figure to this JSON file")
    asked = parser.parse_args()
    streams = [requests_of(asked.load, asked.seconds, seed) for seed in range(asked.seeds)]
    found: dict[str, list[dict[str, float]]] = {}
    print(f"| | {' | '.join(COLUMNS)} |\n{'|---' * (len(COLUMNS) + 1)}|", flush=True)
    for name, arrangement in arrangements(asked.tuner or list(TUNERS), not asked.no_direct):
        found[name] = []
        for requests in streams:
            with arrangement() as address:
                found[name].append(measured(address, requests))
        print(row(name, *found[name]), flush=True)
    if asked.out is not None:
        write_atomic(asked.out, json.dumps({"runs": found, **provenance(0, vars(asked))}, indent=1, default=str))


if __name__ == "__main__":
    main()
