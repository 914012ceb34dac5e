"""What does the gateway add to a request? The same requests directly and through it, in turn, in one run.

    python benchmarks/bench_gateway.py

Time to the first token and to the end of streamed answers of eight tokens, one request at a time and sixteen at once,
from `examples/gateway_upstream.py` with steps of a fraction of a millisecond. Upstream, gateway and client are
processes of their own. The last column is the ratio of the added median to the budget of 2 ms. Needs the extra `serve`.
"""

from __future__ import annotations

import argparse
import asyncio
import time

import httpx
import numpy as np
from overload_gateway import gateway, upstream

BUDGET_MS = 2.0
SLOWDOWN = 0.02
TOKENS = 8
PROMPT = "How long does a gateway take? " * 40


async def asked(client: httpx.AsyncClient, address: str) -> tuple[float, float]:
    """Milliseconds to the first token and to the end."""
    body = {"model": "steps", "prompt": PROMPT, "max_tokens": TOKENS, "stream": True}
    started = time.perf_counter()
    first = 0.0
    async with client.stream("POST", f"{address}/v1/completions", json=body) as answer:
        async for _ in answer.aiter_raw():
            first = first or time.perf_counter()
    return 1000.0 * (first - started), 1000.0 * (time.perf_counter() - started)


async def rounds(addresses: tuple[str, str], count: int, together: int) -> np.ndarray:
    """Times in ms, shape (count x together, 2 addresses, 2)."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    times = []
    async with httpx.AsyncClient(limits=limits, trust_env=False, timeout=30) as client:
        for number in range(count + 10):
            order = addresses if number % 2 else addresses[::-1]
            told = {
                address: await asyncio.gather(*(asked(client, address) for _ in range(together))) for address in order
            }
            if number >= 10:
                times.append(np.array([told[address] for address in addresses]).swapaxes(0, 1))
    return np.concatenate(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--tuner", default="guarded-default")
    asked_for = parser.parse_args()
    print("| at once | until | direct p50 | p99 | gateway p50 | p99 | added p50 ms | added p99 ms | of budget |")
    print("|---|---|---|---|---|---|---|---|---|")
    with upstream(256, SLOWDOWN) as direct, gateway(direct, "--tuner", asked_for.tuner) as front:
        for together in (1, 16):
            count = max(asked_for.rounds // together, 20)
            times = asyncio.run(rounds((direct, front), count, together))
            for index, until in enumerate(("first token", "end")):
                p50, p99 = (np.percentile(times[:, :, index], q, axis=0) for q in (50, 99))
                added = (p50[1] - p50[0], p99[1] - p99[0])
                shown = (p50[0], p99[0], p50[1], p99[1], *added, added[0] / BUDGET_MS)
                print(f"| {together} | {until} | " + " | ".join(f"{value:.2f}" for value in shown) + " |", flush=True)


if __name__ == "__main__":
    main()
