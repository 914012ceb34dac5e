"""What are the tuners worth on the reference server at twice its capacity? The same requests over HTTP under each.

    python benchmarks/overload_server.py --seconds 120 --load 2

The server is `batchpilot serve` on one thread of torch, in a process of its own; fixed batch sizes have no admission.
Capacity is what it serves over HTTP when everything comes at once, under the better of two fixed batch sizes
(`static-default` is 256). Promises are those of the suite `quick-torch`: multiples of a lone request's TTFT and TPOT
(`envs.similarity`), as its client measures them. Needs the extras `torch` and `serve`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from overload_gateway import COLUMNS, free_port, row, running

from batchpilot.core.files import write_atomic
from batchpilot.core.provenance import provenance
from batchpilot.core.slo import SLO
from batchpilot.engines import SimulationResult
from batchpilot.runners.http.load.report import figures, lateness
from batchpilot.serving.load.run import LoadResult, LoadSettings, run_load
from batchpilot.workloads import Lengths, LogNormal, poisson
from batchpilot.workloads.table import RequestTable

TTFT_MULTIPLE, TPOT_MULTIPLE = 25.0, 7.0
"""Of a lone request's, as in `quick-torch` (docs/torch-engine.md)."""

LENGTHS = Lengths(LogNormal(128, 0.8, 8, 512), (LogNormal(48, 0.6, 4, 192),))
NO_PROMISE = SLO(1e7, 1e7)
LONE_REQUESTS = 20
BURST_REQUESTS = 400
FIXED = ("static-8", "static-64", "static-default")
TUNERS = ("policy-guarded", "guarded-adaptive", "model-based", "guarded-default")
STATUS = "/api/scheduler/tuner/status"


@contextmanager
def server(model: str, tuner: str, slo: SLO) -> Iterator[str]:
    """The reference server's address. Its room is beyond what can come, so that fixed limits refuse nobody."""
    port = free_port()
    command = [sys.executable, "-m", "batchpilot.runners.main", "serve", "--model", model, "--port", str(port)]
    command += ["--tuner", tuner, "--track", "guarded", "--ttft-ms", f"{slo.ttft_ms}", "--tpot-ms", f"{slo.tpot_ms}"]
    command += ["--threads", "1", "--kv-tokens", "131072", "--max-model-len", "1024", "--room", "16384", "--grace", "1"]
    with running(command, port, "/ready"):
        yield f"http://127.0.0.1:{port}"


def sent(address: str, requests: RequestTable, grace_s: float) -> LoadResult:
    """What comes of requests; those that can no longer keep their promise are given up."""
    return asyncio.run(run_load(requests, LoadSettings(address, bytes_per_token=1.0, grace_s=grace_s)))


def lone_promise(address: str) -> SLO:
    """Promises as multiples of what a lone request takes, the medians of a few sent one after another."""
    prompt, output = (round(mean) for mean in LENGTHS.means())
    times = []
    for _ in range(LONE_REQUESTS):
        alone = RequestTable.from_arrays([0.0], prompt, output, slos=NO_PROMISE)
        outcome = sent(address, alone, 60.0).outcome
        times.append((outcome.ttft_ms[0], outcome.tpot_ms[0]))
    ttft_ms, tpot_ms = np.median(times[LONE_REQUESTS // 4 :], axis=0).tolist()
    print(f"a lone request: TTFT {ttft_ms:.1f} ms, TPOT {tpot_ms:.2f} ms", file=sys.stderr)
    return SLO(TTFT_MULTIPLE * ttft_ms, TPOT_MULTIPLE * tpot_ms)


def capacity_per_s(model: str, seed: int) -> float:
    """Requests a second over HTTP with an unlimited queue, at the better of two batch sizes."""
    rng = np.random.default_rng([seed, 1])
    burst = RequestTable.from_arrays(np.zeros(BURST_REQUESTS), *LENGTHS.sample(BURST_REQUESTS, rng), slos=NO_PROMISE)
    rates = {}
    for tuner in FIXED[1:]:
        with server(model, tuner, NO_PROMISE) as address:
            outcome = sent(address, burst, 300.0).outcome
        rates[tuner] = 1000.0 * len(burst) / float(np.nanmax(outcome.e2e_ms))
    print("capacity: " + ", ".join(f"{name} {rate:.1f}/s" for name, rate in rates.items()), file=sys.stderr)
    return max(rates.values())


def told(result: LoadResult, address: str) -> dict[str, Any]:
    """Figures of a run, and what the server then says of its tuner."""
    with urllib.request.urlopen(f"{address}{STATUS}", timeout=30) as answer:
        status = json.load(answer)
    of_tuner = {name: status.get(name) for name in ("limits", "windows", "tell_ms", "tuner_errors", "tuner_last_error")}
    return {
        **figures(result.outcome),
        **lateness(result.late_ms),
        "goodput_by_tenth": by_tenth(result.outcome),
        "load_average": os.getloadavg()[0],
        "details": result.details,
        **of_tuner,
    }


def by_tenth(outcome: SimulationResult) -> list[float]:
    """Goodput share of the requests that came in each tenth of the run: whether it is steady."""
    requests = outcome.requests
    tenth = np.minimum((10 * requests.arrival_ms / requests.duration_ms).astype(int), 9)
    served = np.where(outcome.slo_met, outcome.generated_tokens, 0)
    offered = np.bincount(tenth, requests.output_tokens, 10)
    shares: list[float] = (np.bincount(tenth, served, 10) / np.maximum(offered, 1)).round(3).tolist()
    return shares


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="small-qwen3")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--load", type=float, default=2.0, help="multiple of the capacity")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tuners", default=",".join(FIXED + TUNERS), help="strategies, policy:FILE.onnx among them")
    parser.add_argument("--capacity", type=float, help="requests/s, as measured by an earlier run; else measured")
    parser.add_argument("--promise", help="TTFT and TPOT in ms, comma between, of an earlier run; else measured")
    parser.add_argument("--out", type=Path, help="also write every figure to this JSON file")
    asked = parser.parse_args()
    if asked.promise:
        slo = SLO(*(float(part) for part in asked.promise.split(",")))
    else:
        with server(asked.model, FIXED[0], NO_PROMISE) as address:
            slo = lone_promise(address)
    capacity = asked.capacity or capacity_per_s(asked.model, asked.seed)
    rng = np.random.default_rng(asked.seed)
    arrival_ms = poisson(asked.load * capacity, 1000.0 * asked.seconds, rng)
    requests = RequestTable.from_arrays(arrival_ms, *LENGTHS.sample(len(arrival_ms), rng), slos=slo)
    print(f"\n{len(requests)} requests in {asked.seconds:g} s, {asked.load:g} x {capacity:.1f}/s; ", end="")
    print(f"TTFT {slo.ttft_ms:.0f} ms, TPOT {slo.tpot_ms:.1f} ms\n")
    print(f"| tuner | {' | '.join(COLUMNS)} |\n{'|---' * (len(COLUMNS) + 1)}|", flush=True)
    grace_s = (slo.ttft_ms + slo.tpot_ms * float(requests.output_tokens.max())) / 1000.0
    found: dict[str, Any] = {"capacity_per_s": capacity, "ttft_ms": slo.ttft_ms, "tpot_ms": slo.tpot_ms}
    for tuner in asked.tuners.split(","):
        with server(asked.model, tuner, slo) as address:
            found[tuner] = told(sent(address, requests, grace_s), address)
        print(row(f"`{tuner}`", found[tuner]), flush=True)
        if asked.out is not None:
            write_atomic(asked.out, json.dumps(found | provenance(asked.seed, vars(asked)), indent=1, default=str))


if __name__ == "__main__":
    main()
