"""llama.cpp's server: `llama-server -m MODEL.gguf -np 8 -b 2048 -c 16384`. It has no file of options.

`--ctx-size` is the cache of all slots together, so it bounds the tokens in flight.
"""

from __future__ import annotations

from batchpilot.core.limits import Limits
from batchpilot.serving.formats.flags.base import ServerFlags

LLAMA_CPP = ServerFlags(
    "llama.cpp",
    ("llama-server",),
    {"batch_size": ("parallel", "np"), "token_budget": ("batch-size", "b")},
    {"kv_capacity_tokens": ("ctx-size", "c"), "port": ("port",)},
    ("model", "m", "hf-repo", "hf"),
    positional=False,
    files=(),
    defaults=Limits(4, 2048),
    source="llama.cpp b11434, common/arg.cpp; its own parser, in the wheel xllamacpp 2026.10.11549, reads them",
)
"""Flags of llama.cpp's server."""
