"""SGLang: `python -m sglang.launch_server --model-path MODEL --max-running-requests 64`, and its `--config` file.

Its queue is bounded in requests (`--max-queued-requests`), not in tokens. The prefill chunk is the token budget of a
step that computes prompts; with `--enable-mixed-chunk` decoding requests stand beside it.
"""

from __future__ import annotations

from batchpilot.core.limits import Limits
from batchpilot.serving.formats.flags.base import ServerFlags

SGLANG = ServerFlags(
    "sglang",
    ("sglang.launch_server",),
    {"batch_size": ("max-running-requests",), "token_budget": ("chunked-prefill-size",)},
    {
        "max_model_len": ("context-length",),
        "kv_capacity_tokens": ("max-total-tokens",),
        "max_queued_requests": ("max-queued-requests",),
        "tensor_parallel": ("tensor-parallel-size", "tp-size", "tp"),
        "pipeline_parallel": ("pipeline-parallel-size", "pp-size", "pp"),
        "port": ("port",),
    },
    ("model-path", "model"),
    positional=False,
    files=("config",),
    defaults=Limits(256, 8192),
    suffixes={
        **{"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12},
        **{"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40},
    },
    source="sglang 0.5.23, sglang/srt/arg_groups/fields/schedule.py; without a flag both follow from the memory",
)
"""Flags of SGLang."""
