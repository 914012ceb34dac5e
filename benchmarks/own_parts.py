"""What would a library cost in place of what is written by hand here? HTTP connections, bootstrap intervals.

    pip install httpx aiohttp && python benchmarks/own_parts.py --rounds 7

HTTP: 16 streams of 60 server-sent events to one client process; processor time of the client an event, by the load
client, by the gateway's connection, and by the libraries that are installed. Bootstrap: `scipy.stats.bootstrap` with
the same statistic on the same values, whose ends must be equal. Ratios are of a round, where all take turns;
medians over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from importlib.util import find_spec

import numpy as np
from overload_gateway import free_port
from scipy.stats import bootstrap

from batchpilot.runners.report.statistics import RESAMPLES, bootstrap_interval, interquartile_mean
from batchpilot.serving.gateway.connection import Connection
from batchpilot.serving.load.http import Address, HttpClient

STREAMS, EVENTS, PAUSE_S = 16, 60, 0.01
MARK = b"data:"
EVENT = MARK + b' {"id":"x","choices":[{"index":0,"text":" hi"}]}\n\n'
BODY = b'{"prompt":"hello"}'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


async def serve(port: int) -> None:
    """Answer every request with a stream."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(len(BODY))
                writer.write(HEAD)
                for _ in range(EVENTS):
                    writer.write(b"%x\r\n%s\r\n" % (len(EVENT), EVENT))
                    await asyncio.sleep(PAUSE_S)
                writer.write(b"0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    await (await asyncio.start_server(answer, "127.0.0.1", port)).serve_forever()


class Counting:
    """Hears a response of the load client."""

    def __init__(self) -> None:
        self.events = 0

    def head(self, status: int, headers: dict[str, str]) -> None:
        """Nothing of it matters."""

    def body(self, data: bytes) -> None:
        """Count."""
        self.events += data.count(MARK)


async def load_client(port: int) -> int:
    """By `batchpilot load`'s client."""
    client, heard = HttpClient(Address.parse(f"http://127.0.0.1:{port}")), [Counting() for _ in range(STREAMS)]
    await asyncio.gather(*(client.exchange("POST", "/v1/completions", one, BODY) for one in heard))
    return sum(one.events for one in heard)


async def gateway_connection(port: int) -> int:
    """By the gateway's connection to an upstream."""
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(BODY)

    def made() -> Connection:
        return Connection("x", 60.0, lambda free: None, lambda lost: None)

    async def one() -> int:
        _, connection = await asyncio.get_running_loop().create_connection(made, "127.0.0.1", port)
        await connection.send(head, BODY)
        events = 0
        while said := await connection.piece():
            events += said.count(MARK)
        connection.close()
        return events

    return sum(await asyncio.gather(*(one() for _ in range(STREAMS))))


async def by_httpx(port: int) -> int:
    """By httpx."""
    import httpx

    async def one(client: httpx.AsyncClient) -> int:
        async with client.stream("POST", f"http://127.0.0.1:{port}/v1/completions", content=BODY) as answer:
            return sum([piece.count(MARK) async for piece in answer.aiter_raw()])

    async with httpx.AsyncClient(timeout=60.0) as client:
        return sum(await asyncio.gather(*(one(client) for _ in range(STREAMS))))


async def by_aiohttp(port: int) -> int:
    """By aiohttp."""
    import aiohttp

    async def one(session: aiohttp.ClientSession) -> int:
        async with session.post(f"http://127.0.0.1:{port}/v1/completions", data=BODY) as answer:
            return sum([piece.count(MARK) async for piece in answer.content.iter_any()])

    async with aiohttp.ClientSession() as session:
        return sum(await asyncio.gather(*(one(session) for _ in range(STREAMS))))


def http_cost_s(client: Callable[[int], Awaitable[int]], port: int) -> float:
    """Processor time of one round."""
    before = time.process_time()
    heard = asyncio.run(client(port))  # type: ignore[arg-type]
    if heard != STREAMS * EVENTS:
        raise SystemExit(f"{client.__name__} heard {heard} of {STREAMS * EVENTS} events")
    return time.process_time() - before


def wait_for(port: int, patience_s: float = 60.0) -> None:
    """Until the server listens."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.2)
    raise SystemExit(f"nobody listens on port {port}")


def compare_http(rounds: int) -> None:
    """A line a client."""
    clients = [load_client, gateway_connection]
    clients += [client for name, client in (("httpx", by_httpx), ("aiohttp", by_aiohttp)) if find_spec(name)]
    port = free_port()
    with subprocess.Popen([sys.executable, __file__, "--serve", str(port)]) as server:
        try:
            wait_for(port)
            costs = [[http_cost_s(client, port) for client in clients] for _ in range(rounds + 1)][1:]
        finally:
            server.terminate()
    for place, client in enumerate(clients):
        event_us = 1e6 * statistics.median(cost[place] for cost in costs) / (STREAMS * EVENTS)
        ratios = [statistics.median(cost[place] / cost[own] for cost in costs) for own in (0, 1)]
        print(
            f"{client.__name__}: {event_us:.1f} us an event; {ratios[0]:.2f} x load client, {ratios[1]:.2f} x gateway"
        )


def compare_bootstrap(rounds: int) -> None:
    """A line a shape: scenarios and seeds."""
    for scenarios, seeds in ((1, 5), (5, 5), (21, 3)):
        drawn = np.random.default_rng(0)
        strata = [drawn.random(seeds) for _ in range(scenarios)]

        def pooled(*values: np.ndarray, axis: int = -1) -> np.ndarray:
            return interquartile_mean(np.concatenate(values, axis=-1))

        ratios = []
        for _ in range(rounds):
            start = time.process_time()
            own = bootstrap_interval(strata, np.random.default_rng(0))
            between = time.process_time()
            rng = np.random.default_rng(0)
            told = bootstrap(strata, pooled, n_resamples=RESAMPLES, vectorized=True, method="percentile", rng=rng)
            ratios.append((time.process_time() - between) / (between - start))
            np.testing.assert_allclose(own, told.confidence_interval)
        print(f"bootstrap, {scenarios} scenarios of {seeds} seeds: scipy {statistics.median(ratios):.2f} x own")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve))
    compare_http(options.rounds)
    compare_bootstrap(options.rounds)
