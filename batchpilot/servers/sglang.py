"""SGLang: `tune --server sglang -- --model-path MODEL ...`."""

from __future__ import annotations

from batchpilot.servers.flagged import FlaggedServer
from batchpilot.serving.formats.flags.sglang import SGLANG


class SGLangServer(FlaggedServer):
    """`python -m sglang.launch_server`; `/health_generate` answers once it has generated a token."""

    name = "sglang"
    flags = SGLANG
    before = ("python3", "-m", "sglang.launch_server")
    health = ("/health_generate", "/health")
