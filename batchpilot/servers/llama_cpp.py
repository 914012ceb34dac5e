"""llama.cpp's server: `tune --server llama.cpp -- -m MODEL.gguf ...`."""

from __future__ import annotations

from batchpilot.servers.flagged import FlaggedServer
from batchpilot.serving.formats.flags.llama_cpp import LLAMA_CPP


class LlamaCppServer(FlaggedServer):
    """`llama-server`; `/health` says 503 while it loads."""

    name = "llama.cpp"
    flags = LLAMA_CPP
    before = ("llama-server",)
    health = ("/health",)
