"""vLLM: `tune --server vllm -- serve MODEL ...`."""

from __future__ import annotations

from batchpilot.servers.flagged import FlaggedServer
from batchpilot.serving.formats.flags.vllm import VLLM


class VLLMServer(FlaggedServer):
    """`vllm serve`; `/health` answers once the engine is up. Versions before 0.33 have no bound on queued tokens."""

    name = "vllm"
    flags = VLLM
    before = ("vllm",)
    health = ("/health",)

    def __init__(self, command: list[str]) -> None:
        super().__init__(command)
        if self.base.max_queued_tokens is None:  # a version that lacks the flag would not start with it
            self.movable = ("batch_size", "token_budget")
