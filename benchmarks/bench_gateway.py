"""What does the gateway add to a token, and how many tokens a second does one process of it pass?

    python benchmarks/bench_gateway.py
    python benchmarks/bench_gateway.py --streams 64 --rates 50,100,150,200,250

Open loop: 1, 16 and 64 streams at 20 tokens a second each. "In step" they all speak in the same instant, as they do
behind a server that batches; "apart" each has its own time. Direct and through the gateway in turn, in one run;
upstream, gateway and client are processes of their own (`paced_streams.py`). Times are one-way, by the clock that all
of them share: "token" from the server's sending to the client's receiving, "first token" that and the request's way
there without the server's own time. The gateway's share of a core is its processor time. Needs the extra `serve`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from overload_gateway import free_port, gateway_process, running
from paced_streams import Load, Times, stream

UPSTREAM = Path(__file__).parent / "paced_streams.py"
WAYS = ("token", "first token")
COLUMNS = (
    *("streams", "tokens/s each", "speaking"),
    *(f"{way} {what}" for way in WAYS for what in ("direct p50", "p99", "gateway p50", "p99", "added p50", "p99")),
    *("passed tokens/s", "of a core", "us a token"),
)


@contextmanager
def paced_upstream() -> Iterator[str]:
    """The upstream's address."""
    port = free_port()
    with running([sys.executable, str(UPSTREAM), "--port", str(port)], port, "/v1/models"):
        yield f"http://127.0.0.1:{port}"


def in_turn(direct: str, front: str, process: psutil.Process, load: Load, rounds: int) -> tuple[Times, Times, float]:
    """Times without and with the gateway, and the processor time that the gateway took in s."""
    told, spent_s = (Times(), Times()), 0.0
    for number in range(rounds):
        for address, times in zip((direct, front), told, strict=True):
            part = asyncio.run(stream(address, load, number, lambda: sum(process.cpu_times()[:2])))
            spent_s += part.spent_s if address == front else 0.0
            times.first += part.first
            times.tokens += part.tokens
    return *told, spent_s


def added(direct_ns: Sequence[int], through_ns: Sequence[int]) -> list[str]:
    """Percentiles 50 and 99 of both and of the difference between them, in ms."""
    plain, through = (np.percentile(np.array(times) / 1e6, (50, 99)) for times in (direct_ns, through_ns))
    return [f"{value:.2f}" for value in (*plain, *through, *(through - plain))]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each round, direct and through the gateway")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", default="1,16,64")
    parser.add_argument("--rates", default="20", help="tokens a second of each stream")
    parser.add_argument("--tuner", default="guarded-default")
    asked = parser.parse_args()
    loads = [
        Load(int(together), float(rate), in_step, asked.seconds)
        for rate in asked.rates.split(",")
        for together in asked.streams.split(",")
        for in_step in (True, False)
    ]
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)
    with paced_upstream() as direct, gateway_process(direct, "--tuner", asked.tuner) as (front, process):
        for load in loads:
            plain, through, spent_s = in_turn(direct, front, psutil.Process(process.pid), load, asked.rounds)
            taken_s, tokens = asked.rounds * asked.seconds, len(through.tokens)
            shown = [f"{load.together}", f"{load.rate:g}", "in step" if load.in_step else "apart"]
            shown += added(plain.tokens, through.tokens) + added(plain.first, through.first)
            shown += [f"{tokens / taken_s:.0f}", f"{spent_s / taken_s:.0%}", f"{1e6 * spent_s / tokens:.0f}"]
            print(f"| {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
