"""What is a tuner worth inside Ray Serve and LitServe at twice what the fixed setting can serve, over HTTP?

    python benchmarks/overload_adapters.py --server ray --seconds 20

The model is a wait: a batch of n takes 80 + 2 n ms. `fixed-8` is a batch of 8 and a wait of 50 ms, so 83 requests a
second; requests come open-loop, Poisson, and promise an answer within 1 s. `fixed-64` is what one would have set had
one known. Tuners start at 8 and may go to 64. Needs the extra `adapters`.
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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import numpy as np
from litserve import LitAPI, LitServer

from batchpilot.configs.tuner import TunerConfig
from batchpilot.core import SLO, Limits
from batchpilot.serving.adapters.batches import batch_session
from batchpilot.serving.adapters.litserve_loop import TunedLoop

FIXED = "fixed-"
FIXED_SIZE, FIXED_WAIT_S = 8, 0.05
MOST = 64
STEP_MS, CALL_MS = 80.0, 2.0
CAPACITY_PER_S = 1000.0 * FIXED_SIZE / (STEP_MS + CALL_MS * FIXED_SIZE)
PROMISE = SLO(ttft_ms=1000.0, tpot_ms=400.0)
"""To tuners that steer by step time the second number is the longest batch."""
GRACE_S = 5.0
LATELY_S = 5.0
WARM_UP = 20
"""Requests one after the other before the clock starts."""

COLUMNS = (
    "tuner",
    "answers/s",
    "in the last 5 s",
    "within 1 s",
    "p50 ms",
    "p95 ms",
    "failed",
    "unanswered",
    "last batch",
    "client late p99 ms",
)


def batch_s(size: int) -> float:
    """How long the model takes for a batch."""
    return (STEP_MS + CALL_MS * size) / 1000.0


def serve_ray(tuner: str, port: int) -> None:
    """Ray Serve on this machine, until it is killed."""
    import ray
    from ray import serve
    from starlette.requests import Request

    from batchpilot.serving.adapters.ray_serve import tuned_batch

    if tuner.startswith(FIXED):
        batched = serve.batch(max_batch_size=size_of(tuner), batch_wait_timeout_s=FIXED_WAIT_S)
    else:
        batched = tuned_batch(factory(tuner), slo=PROMISE, batch_wait_timeout_s=0.002)

    @serve.deployment(max_ongoing_requests=10_000)
    class Model:
        @batched
        async def answer(self, batch: list[float]) -> list[dict[str, float]]:
            await asyncio.sleep(batch_s(len(batch)))
            return [{"output": 2 * value, "batch_size": len(batch)} for value in batch]

        async def __call__(self, request: Request) -> dict[str, float]:
            return await self.answer((await request.json())["input"])

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Model.bind(), route_prefix="/predict")
    signal.pause()


class Waiting(LitAPI):
    """The model in LitServe, whose workers import it from here."""

    def setup(self, device: str) -> None:
        """Load nothing."""

    def decode_request(self, request: dict[str, float]) -> float:
        """The input of a request."""
        return request["input"]

    def predict(self, batch: list[float]) -> list[dict[str, float]]:
        """The answers to a batch."""
        time.sleep(batch_s(len(batch)))
        return [{"output": 2 * value, "batch_size": len(batch)} for value in batch]

    def encode_response(self, answer: dict[str, float]) -> dict[str, float]:
        """The response to a request."""
        return answer


def serve_litserve(tuner: str, port: int) -> None:
    """LitServe, until it is killed."""
    if tuner.startswith(FIXED):
        api = Waiting(max_batch_size=size_of(tuner), batch_timeout=FIXED_WAIT_S)
    else:
        api = Waiting(max_batch_size=FIXED_SIZE, batch_timeout=0.002, loop=TunedLoop(factory(tuner), slo=PROMISE))
    LitServer(api, accelerator="cpu").run(port=port, generate_client_file=False)


def size_of(fixed: str) -> int:
    """The batch size in "fixed-8"."""
    return int(fixed.removeprefix(FIXED))


def factory(tuner: str) -> partial:
    """Makes the tuner's session; the tuner starts where the fixed setting stands."""
    config = TunerConfig(min_batch_size=FIXED_SIZE, initial_batch_size=FIXED_SIZE, max_batch_size=MOST)
    return partial(batch_session, tuner, config=config, base=Limits(FIXED_SIZE), slo=PROMISE, window_ms=500.0)


SERVERS = {"ray": serve_ray, "litserve": serve_litserve}


@contextmanager
def running(server: str, tuner: str) -> Iterator[int]:
    """The port of a server in processes of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, __file__, "--server", server, "--serve", tuner, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
        with suppress(ProcessLookupError):  # workers with a backlog outlive their server
            os.killpg(process.pid, signal.SIGKILL)


async def post(port: int, value: float) -> dict[str, float]:
    """An answer, over a connection of its own: a pool of a thousand costs a client more than its connections do."""
    body = json.dumps({"input": value}).encode()
    head = f"POST /predict HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.encode() + body)
        head, _, answer = (await reader.read()).decode().partition("\r\n\r\n")
    finally:
        writer.close()
    if " 200 " not in head.partition("\r\n")[0]:
        raise OSError(f"not an answer: {head!r}")
    return json.loads(answer[answer.index("{") : answer.rindex("}") + 1])  # Ray's proxy answers in a chunk


async def wait_until_up(port: int) -> None:
    """Wait for the first answers."""
    for _ in range(600):
        with suppress(OSError):
            await post(port, 1.0)
            break
        await asyncio.sleep(0.1)
    else:
        sys.exit("the server did not come up in a minute")
    for _ in range(WARM_UP):
        await post(port, 1.0)


async def load(port: int, arrivals_s: np.ndarray) -> tuple[np.ndarray, int, np.ndarray]:
    """Requests at their times.

    Returns:
        Due time in s, latency in ms and batch size of answers in their order, shape (n, 3); count of failures; how late
        each request was sent, in ms.
    """
    answers: list[tuple[float, float, float]] = []
    late_ms = np.zeros(len(arrivals_s))
    failed = 0
    await wait_until_up(port)
    started = time.perf_counter()

    async def call(due_s: float) -> None:
        nonlocal failed
        try:
            size = (await post(port, due_s))["batch_size"]
            answers.append((due_s, 1000.0 * (time.perf_counter() - started - due_s), size))
        except OSError:
            failed += 1

    calls = []
    for index, due_s in enumerate(arrivals_s):
        await asyncio.sleep(max(started + due_s - time.perf_counter(), 0.0))
        late_ms[index] = 1000.0 * (time.perf_counter() - started - due_s)
        calls.append(asyncio.create_task(call(float(due_s))))
    _, pending = await asyncio.wait(calls, timeout=GRACE_S)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    return np.array(answers), failed, late_ms


def measure(server: str, tuner: str, arrivals_s: np.ndarray) -> tuple[str, ...]:
    """A row of the table."""
    with running(server, tuner) as port:
        answers, failed, late_ms = asyncio.run(load(port, arrivals_s))
    due_s, latency_ms, sizes = answers.T
    ended_s, last_s = due_s + latency_ms / 1000.0, arrivals_s[-1]
    lately = int(((ended_s > last_s - LATELY_S) & (ended_s <= last_s)).sum())
    p50, p95 = np.percentile(latency_ms, [50, 95])
    return (
        tuner,
        f"{(ended_s <= last_s).sum() / last_s:.0f}",
        f"{lately / LATELY_S:.0f}",
        f"{100 * (latency_ms <= PROMISE.ttft_ms).sum() / len(arrivals_s):.1f} %",
        f"{p50:,.0f}",
        f"{p95:,.0f}",
        str(failed),
        str(len(arrivals_s) - len(answers) - failed),
        f"{sizes[-1]:.0f}",
        f"{np.percentile(late_ms, 99):.0f}",
    )


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", choices=sorted(SERVERS), required=True)
    parser.add_argument("--tuners", nargs="+", default=["fixed-8", "fixed-64", "dynamic", "hybrid", "aimd"])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--load", type=float, default=2.0, help="times what the fixed setting can serve")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", nargs=2, metavar=("TUNER", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        tuner, port = options.serve
        SERVERS[options.server](tuner, int(port))
        return
    rate = options.load * CAPACITY_PER_S
    gaps = np.random.default_rng(options.seed).exponential(1.0 / rate, int(options.seconds * rate))
    print(f"{options.server}: {len(gaps)} requests, {rate:.0f} a second")
    print_row(COLUMNS)
    print_row(("---",) * len(COLUMNS))
    for tuner in options.tuners:
        print_row(measure(options.server, tuner, np.cumsum(gaps)))


def print_row(cells: tuple[str, ...]) -> None:
    """A row of a table in Markdown."""
    print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
