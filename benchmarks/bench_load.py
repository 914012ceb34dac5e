"""How many streams and tokens a second can one load client hear without being late itself?

    python benchmarks/bench_load.py --tokens-per-s 20 --streams 250,500,1000,2000

The server, in a process of its own, computes nothing: it says a token to every stream at a fixed rate, each stream from
the moment it came. So whatever the client measures beyond the rate is its own, or the processor's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import time
from multiprocessing.synchronize import Event

import numpy as np

from batchpilot.serving.load.run import LoadSettings, run_load
from batchpilot.workloads.table import RequestTable

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = {"id": "cmpl-0", "object": "text_completion", "created": 0, "model": "metronome"}
COLUMNS = ("streams", "tokens/s", "late p50 ms", "late p99 ms", "late most ms", "TPOT p50 ms", "p99 ms", "processor")


def event(data: dict[str, object]) -> bytes:
    """A server-sent event in an HTTP chunk."""
    body = b"data: " + json.dumps(data).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(body), body)


MODELS = b'HTTP/1.1 200 OK\r\ncontent-length: 31\r\n\r\n{"data": [{"id": "metronome"}]}'
SAID = event({**CHUNK, "choices": [{"index": 0, "text": " token", "logprobs": None, "finish_reason": None}]})
LAST = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gap_s: float) -> None:
    """One connection, one request after another."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0")
            asked = await reader.readexactly(int(length.split(b":")[1]))
            if not asked:
                writer.write(MODELS)
                continue
            output = json.loads(asked)["max_tokens"]
            writer.write(HEAD)
            due = time.perf_counter()
            for _ in range(output):
                due += gap_s
                await asyncio.sleep(due - time.perf_counter())
                writer.write(SAID)
            writer.write(LAST)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def serve(listening: socket.socket, gap_s: float, ready: Event) -> None:
    """Answer until the process is ended."""

    async def run() -> None:
        server = await asyncio.start_server(lambda r, w: answer(r, w, gap_s), sock=listening, backlog=4096)
        ready.set()
        await server.serve_forever()

    asyncio.run(run())


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens-per-s", type=float, default=20.0, help="of each stream")
    parser.add_argument("--streams", default="250,500,1000,2000", help="open at a time, about")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--output", type=int, default=100, help="tokens of an answer")
    parser.add_argument("--servers", type=int, default=2, help="processes that answer")
    asked = parser.parse_args()
    context = multiprocessing.get_context("fork")
    listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
    servers = []
    for _ in range(asked.servers):
        ready = context.Event()
        process = context.Process(target=serve, args=(listening, 1.0 / asked.tokens_per_s, ready), daemon=True)
        process.start()
        ready.wait(10)
        servers.append(process)
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)
    for streams in map(int, asked.streams.split(",")):
        stays_s = asked.output / asked.tokens_per_s
        count = round(asked.seconds * streams / stays_s)
        arrival_ms = np.sort(np.random.default_rng(0).uniform(0.0, 1000.0 * asked.seconds, count))
        requests = RequestTable.from_arrays(arrival_ms, 100, asked.output)
        used = time.process_time()
        result = asyncio.run(run_load(requests, LoadSettings(address, "metronome", bytes_per_token=4.0)))
        used, outcome = time.process_time() - used, result.outcome
        assert outcome.count("length") == count, result.details
        late = np.percentile(result.late_ms, (50, 99, 100))
        tpot = [outcome.percentile_ms("tpot_ms", q) for q in (50, 99)]
        shown = (*(f"{value:.1f}" for value in (*late, *tpot)), f"{used / (outcome.elapsed_ms / 1000.0):.0%}")
        steady = asked.tokens_per_s * streams
        print(f"| {streams} | {steady:,.0f} | {' | '.join(shown)} |", flush=True)
    print(f"\nload average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for process in servers:
        process.terminate()


if __name__ == "__main__":
    main()
