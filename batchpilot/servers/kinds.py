"""The servers that can be started."""

from __future__ import annotations

from batchpilot.servers.base import ServerKind
from batchpilot.servers.custom import CustomServer
from batchpilot.servers.llama_cpp import LlamaCppServer
from batchpilot.servers.sglang import SGLangServer
from batchpilot.servers.vllm import VLLMServer

KINDS: dict[str, type[ServerKind]] = {
    kind.name: kind for kind in (VLLMServer, SGLangServer, LlamaCppServer, CustomServer)
}
"""By name."""
