"""Is every request answered once, is nothing left behind, and what do session and tuner cost in the running server?

    python benchmarks/server_load.py

A thousand completions by 64 clients at once, each with a length of its own, half of them streamed; the server runs here
on a real uvicorn and one thread of torch, its clients in another process. Costs are processor time in the server's
threads, the measuring included, as a share of the time that its steps took. Needs the extras `torch` and `serve`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from batchpilot.core.files import write_atomic
from batchpilot.core.provenance import provenance
from batchpilot.core.slo import SLO
from batchpilot.serving.rollout.control import make_setting
from batchpilot.serving.server.service import Service

WARM_UP = 200
EVENTS = ("limits", "tick", "on_arrival", "on_tokens", "on_finish", "on_reject", "on_failure", "on_cancel", "on_step")
HEADER = ("tuner", "200", "503", "503 without a reason", "other", "wrong length", "ends counted by the server")
COLUMNS = (*HEADER, "open", "KV used", "memory MB before", "after", "s", "steps' share of it", "session", "tuner's")


class Spent:
    """Processor time of some calls, by the thread that makes them, in seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def of(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, its time counted."""

        def counted(*arguments: Any, **options: Any) -> Any:
            started = time.thread_time()
            try:
                return call(*arguments, **options)
            finally:
                self.seconds += time.thread_time() - started

        return counted


def lengths(count: int) -> list[tuple[int, int]]:
    """Prompt and output tokens of each request."""
    rng = np.random.default_rng(0)
    return list(zip(rng.integers(10, 400, count).tolist(), rng.integers(10, 80, count).tolist(), strict=True))


async def one(client: httpx.AsyncClient, number: int, prompt: int, output: int) -> tuple[int, str | None, int]:
    """Status, error code and output tokens of one request, asked once."""
    body = {"model": "served", "prompt": f"{number} ".ljust(prompt, "x"), "max_tokens": output, "temperature": 0}
    if number % 2:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    answer = await client.post("/v1/completions", json=body)
    if answer.status_code != 200:
        return answer.status_code, answer.json()["error"]["code"], 0
    if not number % 2:
        return 200, None, answer.json()["usage"]["completion_tokens"]
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    if events[-1] != "[DONE]" or "error" in events[-2]:
        return 0, "broken stream", 0
    return 200, None, json.loads(events[-2])["usage"]["completion_tokens"]


async def asked(url: str, count: int, together: int) -> list[tuple[int, str | None, int]]:
    """What became of every request, so many on their way at a time."""
    places = asyncio.Semaphore(together)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120.0, trust_env=False) as client:

        async def placed(number: int, prompt: int, output: int) -> tuple[int, str | None, int]:
            async with places:
                return await one(client, number, prompt, output)

        return await asyncio.gather(*(placed(n, *length) for n, length in enumerate(lengths(count))))


def from_another_process(url: str, count: int, together: int) -> list[tuple[int, str | None, int]]:
    """As `asked`."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_asked, (url, count, together))


def _asked(url: str, count: int, together: int) -> list[tuple[int, str | None, int]]:
    return asyncio.run(asked(url, count, together))


def memory_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def served(service: Service, url: str, name: str, count: int, together: int) -> dict[str, Any]:
    """Figures of one tuner."""
    from_another_process(url, WARM_UP, together)
    session, tuner, steps = Spent(), Spent(), [0.0]
    for event in EVENTS:
        setattr(service.session, event, session.of(getattr(service.session, event)))
    decider = service.control.staged.decider
    decider.tell = tuner.of(decider.tell)  # type: ignore[method-assign]
    count_step = service.metrics.step

    def step(duration_ms: float, *, failed: bool) -> None:
        steps[0] += duration_ms / 1000.0
        count_step(duration_ms, failed=failed)

    service.metrics.step = step  # type: ignore[method-assign]
    ended_before, before_mb, started = _ended(url), memory_mb(), time.perf_counter()
    answers = from_another_process(url, count, together)
    elapsed_s = time.perf_counter() - started
    wait_until(lambda: service.engine.open == 0 and service.engine.gauges == (0, 0, 0, 0.0))
    statuses = Counter(status for status, _, _ in answers)
    wanted = [output for _, output in lengths(count)]
    return {
        "tuner": name,
        "200": statuses[200],
        "503": statuses[503],
        "503 without a reason": sum(status == 503 and not code for status, code, _ in answers),
        "other": count - statuses[200] - statuses[503],
        "wrong length": sum(
            status == 200 and tokens != output for (status, _, tokens), output in zip(answers, wanted, strict=True)
        ),
        "ends counted by the server": round(_ended(url) - ended_before),
        "open": service.engine.open,
        "KV used": service.engine.gauges.kv_used_fraction,
        "memory MB before": round(before_mb, 1),
        "after": round(memory_mb(), 1),
        "s": round(elapsed_s, 1),
        "steps' share of it": f"{steps[0] / elapsed_s:.1%}",
        "session": f"{session.seconds / steps[0]:.2%}",
        "tuner's": f"{tuner.seconds / steps[0]:.2%}",
    }


def _ended(url: str) -> float:
    """Requests that the server counts as ended."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    names = ("batchpilot:request_success_total", "batchpilot:request_unserved_total")
    return sum(float(line.split()[-1]) for line in lines if line.startswith(names))


def wait_until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something holds."""
    give_up = time.monotonic() + seconds
    while not true():
        if time.monotonic() > give_up:
            raise TimeoutError("the server did not come to rest")
        time.sleep(0.01)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="small-qwen3")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--together", type=int, default=64)
    parser.add_argument("--ttft-ms", type=float, default=500.0)
    parser.add_argument("--tpot-ms", type=float, default=40.0)
    parser.add_argument("--tuners", default="static-64,hybrid,guarded-default,policy-guarded,model-based")
    parser.add_argument("--out", type=Path, help="also write every figure to this JSON file")
    options = parser.parse_args()

    import torch

    from batchpilot.engines.torch import ModelRunner, TorchEngineConfig
    from batchpilot.serving.server.building import build_service
    from batchpilot.serving.server.config import ServerConfig
    from batchpilot.serving.server.running import make_server
    from batchpilot.serving.server.text import Bytes

    torch.set_num_threads(1)
    runner = ModelRunner(options.model, kv_capacity_tokens=65536)
    slo = SLO(options.ttft_ms, options.tpot_ms)
    rows = []
    for name in options.tuners.split(","):
        setting = make_setting(slo=slo, track="guarded", latency=runner.latency)
        config = TorchEngineConfig(max_model_len=1024)
        service = build_service(
            runner, Bytes(), ServerConfig("served", slo), tuner=name, setting=setting, engine_config=config
        )
        server = make_server(service, port=0)
        thread = threading.Thread(target=server.run)
        thread.start()
        wait_until(lambda server=server: server.started)
        try:
            rows.append(served(service, f"http://127.0.0.1:{server.port}", name, options.requests, options.together))
        finally:
            server.should_exit = True
            thread.join()
        if len(rows) == 1:
            print(f"| {' | '.join(rows[0])} |\n{'|---' * len(rows[0])}|")
        print(f"| {' | '.join(str(value) for value in rows[-1].values())} |", flush=True)
    if options.out is not None:
        write_atomic(options.out, json.dumps({"rows": rows, **provenance(0, vars(options))}, indent=1, default=str))


if __name__ == "__main__":
    sys.exit(main())
