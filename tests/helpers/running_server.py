"""A real server for tests: uvicorn in a thread, a tiny model, faults on order; nothing of it may be left."""

import asyncio
import contextlib
import threading
import time

from batchpilot.engines.torch import ModelRunner
from batchpilot.serving.server.building import build_service
from batchpilot.serving.server.config import ServerConfig
from batchpilot.serving.server.running import make_server
from batchpilot.serving.server.text import Bytes

TUNER = "/api/scheduler/tuner"


class FaultyRunner:
    """A runner whose next steps go wrong as ordered: "memory", "error", "defect", or an event to wait for."""

    def __init__(self, runner):
        self._runner = runner
        self.faults = []

    def __getattr__(self, name):
        return getattr(self._runner, name)

    def next_tokens(self, step, draws, place, *beside):
        fault = self.faults.pop(0) if self.faults else None
        if fault == "memory":
            return None
        if fault == "error":
            raise RuntimeError("the device said no")
        if fault == "defect":
            raise KeyError("a defect")
        if isinstance(fault, threading.Event):
            fault.wait(10.0)
        return self._runner.next_tokens(step, draws, place, *beside)


def tiny_runner():
    import torch

    torch.set_num_threads(1)
    return FaultyRunner(ModelRunner("tiny-llama", kv_capacity_tokens=8192))


@contextlib.contextmanager
def serving(
    runner,
    *,
    tuner="static-32",
    window_ms=50.0,
    room=256,
    setting=None,
    clock=time.perf_counter,
    apart=False,
    engine=None,
    **config,
):
    """Yields a service, its address and its server; at the end no request, task or thread of it may be left.

    `apart`: HTTP in a process of its own. A test that stops the server itself, by `should_exit`, leaves what runs.
    """
    runner.faults.clear()
    threads = set(threading.enumerate())
    service = build_service(
        runner,
        Bytes(),
        ServerConfig("tiny", **config),
        tuner=tuner,
        window_ms=window_ms,
        room=room,
        setting=setting,
        clock=clock,
        engine_config=engine,
    )
    server = make_server(service, port=0, apart=apart)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    idle = tasks(service)
    try:
        yield service, f"http://127.0.0.1:{server.port}", server
        if not server.should_exit:
            if service.engine.failure is None:
                wait_for(lambda: is_empty(service))
            if server.started:
                wait_for(lambda: tasks(service) <= idle)
    finally:
        server.should_exit = True
        thread.join(20.0)
        assert not thread.is_alive()
    wait_for(lambda: not [thread for thread in set(threading.enumerate()) - threads if is_ours(thread)])


def tasks(service):
    """How many tasks the server's event loop has."""

    if service.engine._event_loop.is_closed():
        return 0

    async def count():
        return len(asyncio.all_tasks())

    return asyncio.run_coroutine_threadsafe(count(), service.engine._event_loop).result(10.0)


def is_ours(thread):
    """Whether a thread is one that a server starts."""
    return thread.name.startswith(("batchpilot", "AnyIO"))


def ask(url, **changes):
    """A short completion."""
    import httpx

    body = {"model": "tiny", "prompt": "hello", "max_tokens": 4, "temperature": 0, **changes}
    return httpx.post(f"{url}/v1/completions", json=body, timeout=30.0)


def wait_for(condition, timeout_s=10.0):
    """Wait until something is so, and fail if it never is."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.005)


def is_empty(service):
    """Whether nothing is left in the engine."""
    gauges = service.engine.gauges
    return service.engine.open == 0 and gauges == (0, 0, 0, 0.0)
