"""TensorRT-LLM: `trtllm-serve MODEL --max_batch_size 64 --max_num_tokens 2048`, and the file of its `--config`.

What the file says goes before the flags.
"""

from __future__ import annotations

from batchpilot.core.limits import Limits
from batchpilot.serving.formats.flags.base import ServerFlags

TENSORRT_LLM = ServerFlags(
    "tensorrt-llm",
    ("trtllm-serve",),
    {"batch_size": ("max_batch_size",), "token_budget": ("max_num_tokens",)},
    {
        "max_model_len": ("max_seq_len",),
        "tensor_parallel": ("tp_size", "tensor_parallel_size"),
        "pipeline_parallel": ("pp_size", "pipeline_parallel_size"),
        "port": ("port",),
    },
    ("model",),
    positional=True,
    files=("config", "extra_llm_api_options"),
    defaults=Limits(2048, 8192),
    dash="_",
    file_wins=True,
    subcommand="serve",
    source="tensorrt-llm 1.2, tensorrt_llm/commands/serve.py, from its published text; it could not be installed here",
)
"""Flags of TensorRT-LLM."""
