"""A gateway before three servers of which one is killed, one slowed and one restarted: what do clients see?

    python benchmarks/gateway_upstreams.py --rules all --repeats 3 --seconds 60 --out upstreams.jsonl
    python benchmarks/gateway_upstreams.py --token-cost --seconds 4

First the table of what clients saw, a row a routing rule: three processes of `examples/gateway_upstream.py`, Poisson
arrivals. The second server slows to a quarter from 15 % of the time to 45 %, the third is killed and started again from
50 % on, the first is killed for good at 75 %. "Lost" is what failed without one token: nothing of it may be. Every rule
gets the same requests in a repeat, in an order of the repeat's own; each run is a line of `--out` as soon as it ended,
and those that are there are not run again. Interquartile means with 95 % intervals over the repeats.

With `--token-cost` what a token costs on its way, by `paced_streams.py`: directly, through a gateway before one
upstream, and before three. Needs the extra `serve`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from bench_gateway import UPSTREAM as PACED
from overload_gateway import GRACE_S, free_port, gateway, gateway_process, requests_of, running
from overload_gateway import UPSTREAM as STEPS
from paced_streams import Load, Times, stream

from batchpilot.core.names import lookup
from batchpilot.core.provenance import provenance
from batchpilot.runners.report.statistics import estimate
from batchpilot.serving.gateway.upstreams.spec import ROUTERS
from batchpilot.serving.load.run import LoadSettings, run_load

COLUMNS = (
    *("requests", "served", "refused", "broke off after tokens", "lost", "SLO met %"),
    *("TTFT p50 ms", "TTFT p99 ms", "TPOT p95 ms"),
)
ALL = "all"


class Server:
    """One server, in a process of its own on a port that it keeps."""

    def __init__(self) -> None:
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._stack = ExitStack()
        self._slow = threading.Event()
        self.start()

    def start(self) -> None:
        """Start, and wait until it answers."""
        command = [sys.executable, str(STEPS), "--port", str(self._port), "--slowdown", "2"]
        self._process = self._stack.enter_context(running(command, self._port, "/health"))

    def kill(self) -> None:
        """At once."""
        self._process.kill()
        self._process.wait(10)

    def slow(self) -> None:
        """It runs one quarter of the time."""
        self._slow.set()
        threading.Thread(target=self._hold_up, daemon=True).start()

    def recover(self) -> None:
        """As quick as before."""
        self._slow.clear()

    def close(self) -> None:
        """End it."""
        self.recover()
        self._stack.close()

    def _hold_up(self) -> None:
        while self._slow.is_set():
            for what, seconds in ((signal.SIGSTOP, 0.09), (signal.SIGCONT, 0.03)):
                self._process.send_signal(what)
                time.sleep(seconds)


@contextmanager
def three() -> Iterator[list[Server]]:
    """Three of them."""
    with ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(Server())) for _ in range(3)]


def seen(rule: str, load: float, seconds: float, seed: int) -> dict[str, float]:
    """What clients see under a rule, by `COLUMNS`."""
    requests = requests_of(3.0 * load, seconds, seed)
    with three() as servers:
        first, second, third = servers

        def restart() -> None:
            third.kill()
            third.start()

        events: list[tuple[float, Callable[[], None]]] = [
            (0.15, second.slow),
            (0.45, second.recover),
            (0.5, restart),
            (0.75, first.kill),
        ]
        more = [part for server in servers[1:] for part in ("--upstream", server.url)]
        options = ("--router", rule, "--health-s", "0.5", "--tuner", "guarded-default")
        with gateway(first.url, *more, *options) as front:
            timers = [threading.Timer(share * seconds, event) for share, event in events]
            for timer in timers:
                timer.start()
            settings = LoadSettings(front, "steps", bytes_per_token=4.0, grace_s=GRACE_S)
            outcome = asyncio.run(run_load(requests, settings)).outcome
            for timer in timers:
                timer.join()
    failed = np.array(outcome.finish_reason) == "failed"
    begun = outcome.generated_tokens > 0
    refused = outcome.count("refused_on_arrival") + outcome.count("refused_by_guard")
    told = [len(requests), outcome.count("length"), refused, int((failed & begun).sum()), int((failed & ~begun).sum())]
    times = [outcome.percentile_ms(column, q) for column, q in (("ttft_ms", 50), ("ttft_ms", 99), ("tpot_ms", 95))]
    return dict(zip(COLUMNS, [*told, 100.0 * outcome.slo_attainment, *times], strict=True))


def compare(asked: argparse.Namespace, rules: list[str]) -> None:
    """Run every rule so many times, what is not told yet, and print the table of what is."""
    how = {"load": asked.load, "seconds": asked.seconds}

    def told() -> list[dict[str, Any]]:
        lines = asked.out.read_text().splitlines() if asked.out.exists() else []
        return [row for row in map(json.loads, lines) if how.items() <= row.items()]

    done = {(row["rule"], row["seed"]) for row in told()}
    for seed in range(asked.seed, asked.seed + asked.repeats):
        for place in np.random.default_rng(seed).permutation(len(rules)):
            if (rules[place], seed) in done:
                continue
            started = time.time()
            row = {
                "rule": rules[place],
                "started": started,
                **how,
                **seen(rules[place], asked.load, asked.seconds, seed),
            }
            row["load_average"] = psutil.getloadavg()[0]
            with asked.out.open("a") as file:
                file.write(json.dumps(row | provenance(seed, how)) + "\n")
            print(f"{rules[place]}, seed {seed}: {time.time() - started:.0f} s", file=sys.stderr, flush=True)
    print(f"| | runs | {' | '.join(COLUMNS)} |\n{'|---' * (len(COLUMNS) + 2)}|")
    for rule in rules:
        runs = [row for row in told() if row["rule"] == rule]
        shown = [_interval([row[column] for row in runs]) for column in COLUMNS]
        print(f"| {rule} | {len(runs)} | {' | '.join(shown)} |")


def _interval(values: list[float]) -> str:
    found = estimate([values])
    return f"{found.value:.0f}" + (f" [{found.low:.0f}, {found.high:.0f}]" if len(values) > 1 else "")


def token_cost(seconds: float, rounds: int, streams: list[int]) -> None:
    """Print what a token costs, directly and through gateways before one upstream and before three."""
    names = ("direct", "one upstream", "three upstreams")
    print(f"| streams | {' | '.join(f'{name} p50 / p99 ms' for name in names)} | added, ratio | us a token | ratio |")
    print("|---" * 8 + "|", flush=True)
    with ExitStack() as stack:
        urls = []
        for _ in range(3):
            port = free_port()
            stack.enter_context(running([sys.executable, str(PACED), "--port", str(port)], port, "/v1/models"))
            urls.append(f"http://127.0.0.1:{port}")
        one = stack.enter_context(gateway_process(urls[0], "--tuner", "guarded-default"))
        more = [part for url in urls[1:] for part in ("--upstream", url)]
        several = stack.enter_context(gateway_process(urls[0], *more, "--tuner", "guarded-default"))
        for together in streams:
            load = Load(together, 20.0, False, seconds)
            times, spent_s = [Times() for _ in names], [0.0] * 3
            for number in range(rounds):
                for place, (address, process) in enumerate(((urls[0], None), one, several)):
                    part = asyncio.run(stream(address, load, number, _processor_s(process)))
                    times[place].tokens += part.tokens
                    spent_s[place] += part.spent_s
            p50, p99 = zip(*(np.percentile(np.array(told.tokens) / 1e6, (50, 99)) for told in times), strict=True)
            each_us = [1e6 * spent_s[place] / len(times[place].tokens) for place in (1, 2)]
            shown = [f"{a:.2f} / {b:.2f}" for a, b in zip(p50, p99, strict=True)]
            shown += [f"{(p50[2] - p50[0]) / (p50[1] - p50[0]):.2f}", f"{each_us[0]:.0f} / {each_us[1]:.0f}"]
            print(f"| {together} | {' | '.join(shown)} | {each_us[1] / each_us[0]:.2f} |", flush=True)


def _processor_s(process: subprocess.Popen[bytes] | None) -> Callable[[], float]:
    """Processor time of a process so far in s, 0 for none."""
    if process is None:
        return lambda: 0.0
    told = psutil.Process(process.pid)
    return lambda: sum(told.cpu_times()[:2])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rules", default=ALL, help=f"of {', '.join(ROUTERS)}, separated by commas, or {ALL}")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("upstreams.jsonl"), help="rows, appended as they come")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--load", type=float, default=0.3, help="of the three servers' capacity")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--token-cost", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", default="1,16,64")
    asked = parser.parse_args()
    if asked.token_cost:
        token_cost(asked.seconds, asked.rounds, [int(count) for count in asked.streams.split(",")])
        return
    rules = list(ROUTERS) if asked.rules == ALL else asked.rules.split(",")
    for rule in rules:
        lookup(dict.fromkeys(ROUTERS), rule, "routing rule")
    compare(asked, rules)


if __name__ == "__main__":
    main()
