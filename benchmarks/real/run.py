"""Measures the real servers alone, behind the gateway, and with the adapter inside; writes one line a run.

    python benchmarks/real/run.py --out reports/real [--servers vllm] [--tuners guarded-default] [--repeats 1]

Every run is of its own requests. Runs that the file has already are skipped: an interrupted measurement goes on.
`table.py` makes the table and the picture. All arrangements are measured in turn, then all again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from build import ROOT
from loads import CAPACITY_PER_S, PROMISE, requests_of
from servers import SERVED, gateway, llama_cpp, model_of, told_by, version_of, vllm

from batchpilot.core.provenance import provenance
from batchpilot.runners.http.load.report import figures, lateness
from batchpilot.serving.gateway.upstream_metrics import read_upstream_metrics
from batchpilot.serving.load.run import LoadSettings, run_load

WAYS = {"vllm": ("alone", "gateway", "adapter"), "llama.cpp": ("alone", "gateway")}
TUNERS = ("guarded-default", "guarded-adaptive", "policy-guarded", "model-based")
LOADS = (0.5, 1.0, 2.0)
GRACE_S, WARM_UP_S = 15.0, 15.0
SETTLED_S = 120.0
"""Longest wait for a server to have nothing left to do."""


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, default=ROOT / ".real", help="what build.py made")
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "real")
    parser.add_argument("--servers", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--ways", nargs="*", default=["alone", "gateway", "adapter"])
    parser.add_argument("--tuners", nargs="*", default=list(TUNERS))
    parser.add_argument("--loads", nargs="*", type=float, default=list(LOADS), help="multiples of the capacity")
    parser.add_argument("--capacity", type=float, help="requests a second that the load is a multiple of, as seen here")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=45.0)
    parser.add_argument("--one-start", action="store_true", help="all repeats on one start: a start takes vLLM minutes")
    parser.add_argument("--lock", type=Path, help="held during each run, so that nobody else measures then")
    asked = parser.parse_args()
    measurement = Measurement(asked)
    repeats = [range(asked.repeats)] if asked.one_start else [range(k, k + 1) for k in range(asked.repeats)]
    for some in repeats:
        for server in asked.servers:
            measurement.measure(server, some)


class Measurement:
    """A measurement and its file of runs, one JSON object a line."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self._asked, self._real = asked, asked.real.resolve()
        self._out: Path = asked.out.resolve()
        self._out.mkdir(parents=True, exist_ok=True)
        self._runs, self._measured = self._out / "runs.jsonl", self._out / "measured.json"
        self._measured.touch()
        told = self._runs.read_text().splitlines() if self._runs.exists() else []
        self._done = {_key(json.loads(line)) for line in told}

    def measure(self, server: str, repeats: range) -> None:
        """Some repeats of all that is asked of a server, on one start of it and, for the adapter, another."""
        ways = [way for way in self._asked.ways if way in WAYS[server]]
        outside = [("alone", "")] if "alone" in ways else []
        outside += [("gateway", tuner) for tuner in self._asked.tuners if "gateway" in ways]
        inside = [("adapter", tuner) for tuner in self._asked.tuners if "adapter" in ways]
        if any(self._lacking(server, *one, repeat) for one in outside for repeat in repeats):
            with self._started(server) as address:
                self._all_of(address, server, outside, repeats)
        if any(self._lacking(server, *one, repeat) for one in inside for repeat in repeats):
            with vllm(self._real, self._out / "logs" / "vllm-adapter.log", self._measured) as address:
                self._all_of(address, server, inside, repeats)

    def _all_of(self, address: str, server: str, arrangements: list[tuple[str, str]], repeats: range) -> None:
        for repeat in repeats:
            for way, tuner in arrangements:
                if self._lacking(server, way, tuner, repeat):
                    self._all_loads(address, server, way, tuner, repeat)

    def _lacking(self, server: str, way: str, tuner: str, repeat: int) -> list[float]:
        return [load for load in self._asked.loads if (server, way, tuner, load, repeat) not in self._done]

    @contextmanager
    def _started(self, server: str) -> Iterator[str]:
        start = {"vllm": vllm, "llama.cpp": llama_cpp}[server]
        with start(self._real, self._out / "logs" / f"{server}.log") as address:
            yield address

    def _all_loads(self, address: str, server: str, way: str, tuner: str, repeat: int) -> None:
        if way != "adapter":
            self._send(address, server, 0.7, WARM_UP_S, "warm-up")
        for load in self._lacking(server, way, tuner, repeat):
            with ExitStack() as stack:
                front = address
                if way == "gateway":  # a new one for each run: none has learned from another's load
                    front = stack.enter_context(gateway(address, tuner, self._out / "logs" / f"gateway-{tuner}.log"))
                self._wait_until_idle(address)
                if way == "adapter":
                    self._begin_anew(address, tuner, load, repeat)
                with self._quiet():
                    before = os.getloadavg()[0]
                    told = self._send(front, server, load, self._asked.seconds, f"{way} {tuner} {load:g} {repeat}")
                told |= {"server": server, "way": way, "tuner": tuner, "load": load, "repeat": repeat}
                told["capacity_per_s"] = self._capacity(server)
                told |= {"version": version_of(server, address), "model": model_of(server)}
                told |= {"load_average_before": before, "load_average": os.getloadavg()[0]}
                if way == "gateway":
                    told["gateway"] = told_by(f"{front}/gateway/status")
            self._write(told)

    def _begin_anew(self, address: str, tuner: str, load: float, repeat: int) -> None:
        """Have the adapter forget what it learned; the request that has it do so waits while the tuner compiles."""
        steps = self._out / "steps" / f"{tuner}-{load:g}x-{repeat}.csv"
        settings = {"tuner": tuner, "ttft_ms": PROMISE.ttft_ms, "tpot_ms": PROMISE.tpot_ms, "record": str(steps)}
        self._measured.write_text(json.dumps(settings))
        body = json.dumps({"model": SERVED, "prompt": f"{time.time_ns()}", "max_tokens": 2}).encode()
        request = urllib.request.Request(f"{address}/v1/completions", body, {"content-type": "application/json"})
        with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=300) as answer:
            answer.read()

    def _send(self, address: str, server: str, load: float, seconds: float, of: str) -> dict[str, Any]:
        seed = abs(hash_of(f"{server} {of} {time.time_ns()}"))
        requests = requests_of(server, load * self._capacity(server) / CAPACITY_PER_S[server], seconds, seed)
        settings = LoadSettings(address, SERVED, bytes_per_token=4.5, grace_s=GRACE_S, seed=seed)
        result = asyncio.run(run_load(requests, settings))
        return {**figures(result.outcome), **lateness(result.late_ms), "seed": seed, "details": result.details}

    def _capacity(self, server: str) -> float:
        return float(self._asked.capacity or CAPACITY_PER_S[server])

    def _wait_until_idle(self, address: str) -> None:
        """Wait until an upstream has ended what clients gave up."""
        until = time.monotonic() + SETTLED_S
        while time.monotonic() < until and self._busy(address):
            time.sleep(1.0)

    def _busy(self, address: str) -> bool:
        with urllib.request.urlopen(f"{address}/metrics", timeout=30) as answer:
            reading = read_upstream_metrics(answer.read().decode())
        return reading is not None and reading.running + reading.waiting > 0

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        if self._asked.lock is None:
            yield
            return
        with self._asked.lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, told: dict[str, Any]) -> None:
        told["measured"] = provenance(told["seed"], {})
        self._done.add(_key(told))
        with self._runs.open("a") as runs:
            runs.write(json.dumps(told, default=str) + "\n")
        shown = f"{told['server']} {told['way']} {told['tuner'] or '-'} {told['load']:g}x"
        print(
            f"{shown}: goodput {100 * told['goodput_fraction']:.1f} %, refused {100 * told['refused_fraction']:.0f} %,"
            f" failed {told['ended_failed']}, TTFT p95 {told['ttft_p95_ms']:.0f}, TPOT p95 {told['tpot_p95_ms']:.0f} ms"
            f", load average {told['load_average']:.1f}",
            flush=True,
        )


def hash_of(text: str) -> int:
    """A seed from words."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])


def _key(run: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(run[name] for name in ("server", "way", "tuner", "load", "repeat"))


if __name__ == "__main__":
    main()
