"""LitServe with a tuner: `python examples/litserve_tuned.py` serves an API whose batches of n take 20 + 0.5 n ms.

While it runs: `curl -d '{"input": 3}' -H 'content-type: application/json' localhost:8000/predict`.
"""

from __future__ import annotations

import sys
import time
from functools import partial

from litserve import LitAPI, LitServer

from batchpilot.serving.adapters.batches import batch_session
from batchpilot.serving.adapters.litserve_loop import TunedLoop


class Doubling(LitAPI):
    """Answers with twice the input, and with how many were answered together."""

    def setup(self, device: str) -> None:
        """Load nothing."""

    def decode_request(self, request: dict[str, float]) -> float:
        """The input of a request."""
        return request["input"]

    def predict(self, batch: list[float]) -> list[dict[str, float]]:
        """The answers to a batch."""
        time.sleep((20 + 0.5 * len(batch)) / 1000)  # the model
        return [{"output": 2 * value, "batch_size": len(batch)} for value in batch]

    def encode_response(self, answer: dict[str, float]) -> dict[str, float]:
        """The response to a request."""
        return answer


def make_server(tuner: str = "dynamic") -> LitServer:
    """A server whose every worker has a tuner of its own."""
    loop = TunedLoop(partial(batch_session, tuner, window_ms=250.0))
    return LitServer(Doubling(max_batch_size=8, batch_timeout=0.002, loop=loop), accelerator="cpu")


if __name__ == "__main__":
    chosen = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    make_server().run(host="127.0.0.1", port=chosen, generate_client_file=False)
