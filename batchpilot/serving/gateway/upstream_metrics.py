"""What the upstream says of itself at `/metrics`, where it is a server whose names are known."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from batchpilot.core.exposition import Labels, of_engines, samples

NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "vLLM": {
        "running": ("vllm:num_requests_running",),
        "waiting": ("vllm:num_requests_waiting",),
        "kv_used_fraction": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    },
    "SGLang": {
        "running": ("sglang:num_running_reqs",),
        "waiting": ("sglang:num_queue_reqs",),
        "kv_used_fraction": ("sglang:token_usage",),
    },
    "llama.cpp": {
        "running": ("llamacpp:requests_processing",),
        "waiting": ("llamacpp:requests_deferred",),
        "kv_used_fraction": ("llamacpp:kv_cache_usage_ratio",),
    },
    "batchpilot": {
        "running": ("batchpilot:num_requests_running",),
        "waiting": ("batchpilot:num_requests_waiting",),
        "kv_used_fraction": ("batchpilot:kv_cache_usage_perc",),
    },
}
"""Names of each server's gauges; of several the first that is there. vLLM renamed its KV gauge with its V1 engine."""


_MODEL = "model_name"
"""How vLLM and SGLang say which model a figure is of."""


@dataclass(frozen=True, slots=True)
class UpstreamMetrics:
    """One reading.

    Attributes:
        server: which server it is.
        running: requests it runs, from wherever they came.
        waiting: requests that wait there.
        kv_used_fraction: share of its KV cache in use, NaN for unknown.
    """

    server: str
    running: int
    waiting: int
    kv_used_fraction: float


def read_upstream_metrics(text: str, models: Collection[str] | None = None) -> UpstreamMetrics | None:
    """Read a page in Prometheus' text format.

    Values of several engines or models are added, KV shares averaged; of what the ranks of one engine say the largest
    counts.

    Args:
        text: the page.
        models: only what is told of these; None for everything.

    Returns:
        The reading, None when it is no server whose names are known, or tells nothing of those models.
    """
    values: dict[str, list[tuple[Labels, float]]] = {}
    wanted = tuple(name for names in NAMES.values() for known in names.values() for name in known)
    for name, labels, value in samples(text, wanted):
        if name in wanted and (models is None or labels.get(_MODEL) in models):
            values.setdefault(name, []).append((labels, value))
    for server, names in NAMES.items():
        running, waiting, kv = (
            next((of_engines(values[name]) for name in names[key] if name in values), [])
            for key in ("running", "waiting", "kv_used_fraction")
        )
        if running:
            return UpstreamMetrics(server, int(sum(running)), int(sum(waiting)), sum(kv) / len(kv) if kv else math.nan)
    return None
