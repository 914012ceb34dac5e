"""A toy server that lets a policy set its limits: `python examples/serve_policy.py policy.onnx`.

Everything about the policy is in three lines: `load_policy`, `ask`, `tell`.
"""

from __future__ import annotations

import asyncio
import sys
import time

from batchpilot.serving import WindowMetrics, load_policy

WINDOW_S = 0.05
STEP_S = 0.002


async def serve(path: str, windows: int = 20) -> list[int]:
    """Serve requests for some windows; returns the batch size of each."""
    tuner = load_policy(path)
    waiting: list[int] = []  # output tokens that each request still needs
    sizes, started = [], time.monotonic()
    for index in range(windows):
        limits = tuner.ask()
        begun, steps, tokens, completions = time.monotonic(), 0, 0, 0
        arrivals = 3 + index % 5
        waiting += [8] * arrivals
        while time.monotonic() - begun < WINDOW_S:
            batch = waiting[: limits.batch_size]
            await asyncio.sleep(STEP_S)  # the model's forward pass
            left = [need - 1 for need in batch if need > 1]
            steps, tokens, completions = steps + 1, tokens + len(batch), completions + len(batch) - len(left)
            waiting = left + waiting[limits.batch_size :]
        ended = time.monotonic()
        window = WindowMetrics(
            limits=limits,
            start_ms=1000 * (begun - started),
            duration_ms=1000 * (ended - begun),
            steps=steps,
            generated_tokens=tokens,
            arrivals=arrivals,
            completions=completions,
            queue=len(waiting),
            batch_size_mean=tokens / steps,
            step_ms_mean=1000 * (ended - begun) / steps,
            slo_attainment=1.0 if completions else float("nan"),
        )
        tuner.tell(window)
        sizes.append(limits.batch_size)
    print(tuner.status())
    return sizes


if __name__ == "__main__":
    print(asyncio.run(serve(sys.argv[1])))
