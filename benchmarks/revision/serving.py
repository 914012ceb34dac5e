"""Works of a server: the vLLM adapter's part of a step, and a session's."""

from __future__ import annotations

import importlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from revision.side import Run


def vllm_step(root: Path, _: Path) -> Run:
    """The vLLM adapter's part of a step with 64 running, on the recorded interface; the scheduler's own is off."""
    sys.path.insert(0, str(root / "tests" / ("helpers" if (root / "tests/helpers").exists() else "serving")))
    steps = importlib.import_module("adapter_vllm_steps")
    folder = Path(tempfile.mkdtemp())
    tuned = steps.make_scheduler(vllm_config(steps, folder), {"tuner": "static-default"}, num_blocks=10_000)
    own_s = 0.0

    def timed_apart(method: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any) -> Any:
            nonlocal own_s
            started = time.perf_counter()
            try:
                return method(*arguments)
            finally:
                own_s += time.perf_counter() - started

        return wrapper

    vllms = type(tuned).__mro__[1]
    for name in ("schedule", "update_from_output", "get_kv_cache_usage"):
        setattr(vllms, name, timed_apart(getattr(vllms, name)))

    def run() -> dict[str, Any]:
        nonlocal own_s
        for number in range(64):
            tuned.add_request(steps.make_request(f"{time.monotonic_ns()}-{number}", 64, max_tokens=1020))
        for _ in range(20):
            steps.step(tuned)
        costs = []
        while len(tuned.running) == 64:
            own_s, started = 0.0, time.perf_counter()
            plan = tuned.schedule()
            spent = time.perf_counter() - started
            tokens = [[7]] * len(plan.num_scheduled_tokens)
            result = SimpleNamespace(req_ids=list(plan.num_scheduled_tokens), sampled_token_ids=tokens)
            started = time.perf_counter()
            outputs = tuned.update_from_output(plan, result)
            costs.append(spent + time.perf_counter() - started - own_s)
            del plan, outputs  # letting go of them is no part of the adapter
        while tuned.requests:
            steps.step(tuned)
        return {"value": 1e6 * statistics.median(costs)}

    return run


def vllm_config(steps: Any, folder: Path) -> Any:
    """A server of 256 requests and 2,048 tokens."""
    return steps.make_config(folder, max_num_seqs=256, max_num_batched_tokens=2048)


def session(*, each: bool) -> Callable[[Path, Path], Run]:
    """A session's part of a decode step of 128 requests, told together or each by itself."""

    def prepare(_: Path, __: Path) -> Run:
        serving = importlib.import_module("batchpilot.serving")
        facts = serving.EngineFacts(200_000, estimate=(20.0, 0.12, 0.005, 0.0, 1.0, 10.0, 0.02, 0.0, 1e-4))

        def run() -> dict[str, Any]:
            now_ms, entered, steps, said = 0.0, 0, 2000, {}
            told = serving.TunerSession(serving.make_tuner("hybrid"), clock=lambda: now_ms / 1000.0, facts=facts)
            spent = 0.0
            for _ in range(steps):
                started = time.perf_counter()
                while len(said) < 128:
                    entered += 1
                    said[entered] = 100 if entered > 128 else entered % 100 + 1
                    told.on_arrival(entered, 200, ttft_target_ms=2000.0, tpot_target_ms=100.0)
                spent += time.perf_counter() - started
                now_ms += 20.0
                here = list(said)
                ended = [request for request in here if said[request] == 1]
                started = time.perf_counter()
                if each:
                    for request in here:
                        told.on_tokens(request)
                else:
                    told.on_step_tokens(here)
                for request in ended:
                    told.on_finish(request)
                told.limits()
                told.on_step(128, 128, 32_000, 20.0, kv_used_fraction=0.1)
                spent += time.perf_counter() - started
                said = {request: left - 1 for request, left in said.items() if left > 1}
            return {"value": 1e6 * spent / steps}

        return run

    return prepare
