"""What the upstream says of itself at `/metrics`, where it is a server whose names are known."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
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


_RANK = re.compile(r"(?!.*dp_rank$).*rank$")
"""Labels that tell the parts of one engine apart, each of which tells what the whole engine runs: SGLang's `tp_rank`,
`pp_rank`, `moe_ep_rank`. Data-parallel ones (`dp_rank`, vLLM's `engine`) are engines of their own."""

_SHARE = "priority"
"""SGLang tells its requests in all under an empty `priority`, and those of each priority beside it."""

_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)")
_LABEL = re.compile(r'(\w+)\s*=\s*"((?:[^"\\]|\\.)*)"')

Labels = dict[str, str]


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
    """Read a page in Prometheus' text format.

    Values of several engines or models are added, KV shares averaged; of what the ranks of one engine say the largest
    counts.

    Args:
        text: the page.

    Returns:
        The reading, None when it is no server whose names are known.
    """
    values: dict[str, list[tuple[Labels, float]]] = {}
    wanted = tuple(name for names in NAMES.values() for known in names.values() for name in known)
    for line in text.splitlines():
        sample = _SAMPLE.match(line) if line.startswith(wanted) else None
        if sample is not None and sample[1] in wanted:
            values.setdefault(sample[1], []).append((dict(_LABEL.findall(sample[2] or "")), _number(sample[3])))
    for server, names in NAMES.items():
        running, waiting, kv = (
            next((_of_engines(values[name]) for name in names[key] if name in values), [])
            for key in ("running", "waiting", "kv_used_fraction")
        )
        if running:
            return UpstreamMetrics(server, int(sum(running)), int(sum(waiting)), sum(kv) / len(kv) if kv else math.nan)
    return None


def _of_engines(samples: Iterable[tuple[Labels, float]]) -> list[float]:
    """One value for each engine."""
    by_series: dict[tuple[tuple[str, str], ...], float] = {}
    for labels, value in samples:
        if math.isfinite(value):
            series = tuple(sorted(label for label in labels.items() if not _RANK.match(label[0])))
            by_series[series] = max(value, by_series.get(series, value))
    parts: dict[tuple[tuple[str, str], ...], dict[str, float]] = defaultdict(dict)
    for series, value in by_series.items():
        engine = tuple(label for label in series if label[0] != _SHARE)
        parts[engine][dict(series).get(_SHARE, "")] = value
    return [told[""] if "" in told else sum(told.values()) for told in parts.values()]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
