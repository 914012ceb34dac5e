"""vLLM: `vllm serve ... --max-num-seqs 64`, and the YAML file of its `--config`."""

from __future__ import annotations

from batchpilot.core.limits import Limits
from batchpilot.serving.formats.flags.base import ServerFlags


def fitted(limits: Limits) -> Limits:
    """Limits that vLLM takes: it wants a token budget of at least the batch size.

    A smaller batch holds as many in a step in any case: each request takes a token or more.

    Args:
        limits: what was found.
    """
    budget = limits.token_budget
    return limits if budget is None else limits.replace(batch_size=min(limits.batch_size, budget))


VLLM = ServerFlags(
    "vllm",
    ("vllm", "serve"),
    {
        "batch_size": ("max-num-seqs",),
        "token_budget": ("max-num-batched-tokens",),
        "max_queued_tokens": ("max-num-queued-tokens",),
    },
    {
        "max_model_len": ("max-model-len",),
        "tensor_parallel": ("tensor-parallel-size", "tp"),
        "pipeline_parallel": ("pipeline-parallel-size", "pp"),
        "port": ("port",),
    },
    ("model",),
    positional=True,
    files=("config",),
    defaults=Limits(256, 2048),
    suffixes={
        **{"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12},
        **{"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40},
    },
    fitted=fitted,
    source="vllm 0.33.0, vllm/engine/arg_utils.py; max-num-queued-tokens since 0.33",
)
"""What vLLM 0.33 calls the limits that it has."""
