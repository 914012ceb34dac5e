"""The gateway's own numbers, in Prometheus' text format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from batchpilot.serving.gateway.figures import QUANTILES

PREFIX = "batchpilot_gateway:"

_GAUGES = {
    "num_requests_running": ("running", "Requests at the upstream."),
    "num_requests_waiting": ("waiting", "Requests that wait at the gate."),
    "num_tokens_waiting": ("queued_tokens", "Prompt tokens, here and at the upstream, without a first token yet."),
    "upstream_reachable": ("upstream_reachable", "Whether the last request or poll reached the upstream."),
    "predicted_ttft_seconds": ("predicted_ttft_s", "Predicted time to first token of a short prompt sent now."),
    "tuner_errors_total": ("tuner_errors", "How often the tuner raised."),
    "requests_in_slo_total": ("kept_promises", "Requests that were answered within their promise."),
}

_SUMMARIES = {
    "time_to_first_token_seconds": ("ttft_ms", "Of the latest requests that were served."),
    "time_per_output_token_seconds": ("tpot_ms", "Of the latest that were served token by token."),
    "e2e_request_latency_seconds": ("e2e_ms", "Of the latest that were served."),
    "time_to_refusal_seconds": ("time_to_refusal_ms", "From coming to being told no, of the latest that were refused."),
    "time_to_failure_seconds": ("time_to_failure_ms", "Of the latest that failed."),
}


def exposition(status: Mapping[str, Any]) -> str:
    """The page.

    Args:
        status: what `Gateway.status` returned.
    """
    lines = []
    for name, (key, told) in _GAUGES.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        lines += _metric(name, kind, told, {"": status[key]})
    for name, (key, told) in _SUMMARIES.items():
        quantiles = {f'{{quantile="{q:g}"}}': status[f"{key}_{at}"] / 1000.0 for at, q in QUANTILES.items()}
        lines += _metric(name, "summary", told, quantiles)
    limits = {f'{{limit="{name}"}}': value for name, value in status["limits"].items() if _is_number(value)}
    lines += _metric("limit", "gauge", "The tuner's limits; one that is off is missing.", limits)
    ended = {f'{{outcome="{how}"}}': count for how, count in status["ended"].items()}
    lines += _metric("requests_total", "counter", "Requests by how they ended.", ended)
    lines += _metric("generation_tokens_total", "counter", "Output tokens passed on.", {"": status["output_tokens"]})
    return "\n".join(lines) + "\n"


def _metric(name: str, kind: str, told: str, values: Mapping[str, Any]) -> list[str]:
    shown = [f"{PREFIX}{name}{labels} {_text(value)}" for labels, value in values.items()]
    return [f"# HELP {PREFIX}{name} {told}", f"# TYPE {PREFIX}{name} {kind}", *shown]


def _text(value: Any) -> str:
    number = float(value)
    return "NaN" if math.isnan(number) else f"{number:g}" if number < 1e6 else f"{number:.0f}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
