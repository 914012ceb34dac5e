"""Ray Serve with a tuner: `python examples/ray_serve_tuned.py` calls a model whose batches of n take 10 + 0.5 n ms.

`python examples/ray_serve_tuned.py policy.onnx` imports a policy instead of the tuner "dynamic".
"""

from __future__ import annotations

import asyncio
import sys
import time
from functools import partial

import ray
from ray import serve

from batchpilot.serving.adapters.batches import batch_session
from batchpilot.serving.adapters.ray_serve import tuned_batch


def deployment(tuner: str = "dynamic", slower: float = 1.0, **options: object) -> serve.Deployment:
    """A deployment whose every replica has a tuner of its own, and a model that takes `slower` times as long."""

    @serve.deployment(max_ongoing_requests=512)
    class Doubling:
        """Answers with twice the input, and with how many were answered together."""

        @tuned_batch(partial(batch_session, tuner, window_ms=250.0, **options), batch_wait_timeout_s=0.002)
        async def __call__(self, batch: list[float]) -> list[tuple[float, int]]:
            """The answers to a batch."""
            await asyncio.sleep(slower * (10 + 0.5 * len(batch)) / 1000)  # the model
            return [(2 * value, len(batch)) for value in batch]

        def status(self) -> dict[str, object]:
            """What the tuner of this replica is doing."""
            return type(self).__call__.session().status()

    return Doubling


async def load(handle: serve.handle.DeploymentHandle, seconds: float, callers: int = 64) -> list[tuple[float, int]]:
    """Callers that each wait for their answer before they ask again; returns (time of answer, batch size)."""
    answers: list[tuple[float, int]] = []
    until = time.monotonic() + seconds

    async def caller(value: float) -> None:
        while time.monotonic() < until:
            output, batch_size = await handle.remote(value)
            assert output == 2 * value
            answers.append((time.monotonic(), batch_size))

    await asyncio.gather(*(caller(float(number)) for number in range(callers)))
    return answers


def run(model: serve.Deployment, seconds: float = 8.0) -> tuple[list[tuple[float, int]], dict[str, object]]:
    """Serve on this machine and call; returns the answers and the tuner's status."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(proxy_location="Disabled")
        handle = serve.run(model.bind())
        answers = asyncio.run(load(handle, seconds))
        return answers, handle.status.remote().result()
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    answers, status = run(deployment("policy", path=sys.argv[1]) if len(sys.argv) > 1 else deployment())
    print(f"{len(answers)} answers, the last in a batch of {answers[-1][1]}; {status['reason']}")
