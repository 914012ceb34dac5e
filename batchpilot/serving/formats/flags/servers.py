"""The servers whose flags are known."""

from __future__ import annotations

import shlex

from batchpilot.serving.formats.flags.base import ServerFlags
from batchpilot.serving.formats.flags.llama_cpp import LLAMA_CPP
from batchpilot.serving.formats.flags.sglang import SGLANG
from batchpilot.serving.formats.flags.tensorrt_llm import TENSORRT_LLM
from batchpilot.serving.formats.flags.vllm import VLLM

SERVERS: dict[str, ServerFlags] = {one.name: one for one in (VLLM, SGLANG, TENSORRT_LLM, LLAMA_CPP)}
"""By name."""


def named_in(command: str) -> ServerFlags:
    """The server that a command line starts.

    Args:
        command: as typed in a shell.

    Raises:
        ValueError: it starts none that is known.
    """
    words = shlex.split(command)
    for server in SERVERS.values():
        try:
            server.read(words)
        except (ValueError, OSError):
            if server.program[0] in {word.rpartition("/")[2] for word in words}:
                return server
            continue
        return server
    known = ", ".join(" ".join(one.program) for one in SERVERS.values())
    raise ValueError(f"{command[:120]!r} starts no server that is known (known: {known})")
