"""What the upstream says of itself at `/metrics`, where it is a server whose names are known."""

from __future__ import annotations

import math
from dataclasses import dataclass

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
    "batchpilot": {
        "running": ("batchpilot:num_requests_running",),
        "waiting": ("batchpilot:num_requests_waiting",),
        "kv_used_fraction": ("batchpilot:kv_cache_usage_perc",),
    },
}
"""Names of each server's gauges; of several the first that is there. vLLM renamed its KV gauge with its V1 engine."""


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


def read_upstream_metrics(text: str) -> UpstreamMetrics | None:
    """Read a page in Prometheus' text format; values of several engines or models are added, KV shares averaged.

    Args:
        text: the page.

    Returns:
        The reading, None when it is no server whose names are known.
    """
    values: dict[str, list[float]] = {}
    wanted = {name for names in NAMES.values() for known in names.values() for name in known}
    for line in text.splitlines():
        name, _, rest = line.partition("{") if "{" in line else line.partition(" ")
        if name in wanted:
            values.setdefault(name, []).append(_number(rest.rpartition("}")[2] if "{" in line else rest))
    for server, names in NAMES.items():
        running, waiting, kv = (
            next((values[name] for name in names[key] if name in values), None)
            for key in ("running", "waiting", "kv_used_fraction")
        )
        if running is not None and all(math.isfinite(value) for value in running):
            waits = [value for value in waiting or () if math.isfinite(value)]
            used = sum(kv) / len(kv) if kv else math.nan
            return UpstreamMetrics(server, int(sum(running)), int(sum(waits)), used)
    return None


def _number(text: str) -> float:
    parts = text.split()
    try:
        return float(parts[0])
    except (IndexError, ValueError):
        return math.nan
