"""The gateway's own numbers, in Prometheus' text format."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from batchpilot.serving.gateway.figures import QUANTILES
from batchpilot.serving.gateway.upstreams.desired import METRIC as DESIRED

PREFIX = "batchpilot_gateway:"

_GAUGES = {
    "num_requests_running": ("running", "Requests at the upstream."),
    "num_requests_waiting": ("waiting", "Requests that wait at the gate."),
    "num_tokens_waiting": ("queued_tokens", "Prompt tokens, here and at the upstream, without a first token yet."),
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
    """The page; of several engines each figure under the label `engine`, of several upstreams under `upstream`.

    Args:
        status: what `Gateway.status` returned.
    """
    upstreams: Mapping[str, Mapping[str, Any]] = status.get("upstreams") or {"": status}
    engines = [
        ({"upstream": upstream, "engine": engine}, said)
        for upstream, told in upstreams.items()
        for engine, said in (told.get("engines") or {"": told}).items()
    ]
    lines = []
    for name, (key, told) in _GAUGES.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        lines += _metric(name, kind, told, {_labels(where): said[key] for where, said in engines})
    for name, (key, told) in _SUMMARIES.items():
        quantiles = {
            _labels(where, quantile=f"{q:g}"): said[f"{key}_{at}"] / 1000.0
            for where, said in engines
            for at, q in QUANTILES.items()
        }
        lines += _metric(name, "summary", told, quantiles)
    limits = {
        _labels(where, limit=name): value
        for where, said in engines
        for name, value in said["limits"].items()
        if _is_number(value)
    }
    lines += _metric("limit", "gauge", "The tuner's limits; one that is off is missing.", limits)
    ended = {_labels(where, outcome=how): count for where, said in engines for how, count in said["ended"].items()}
    lines += _metric("requests_total", "counter", "Requests by how they ended.", ended)
    said_tokens = {_labels(where): said["output_tokens"] for where, said in engines}
    lines += _metric("generation_tokens_total", "counter", "Output tokens passed on.", said_tokens)
    reached = {_labels({"upstream": upstream}): told["upstream_reachable"] for upstream, told in upstreams.items()}
    lines += _metric("upstream_reachable", "gauge", "Whether the last request or poll reached the upstream.", reached)
    lines += _metric("recorded_steps_total", "counter", "Steps recorded.", {"": status["recorded_steps"]})
    lines += _of_several(status) if "upstreams" in status else []
    if "rate_limited" in status:
        told = "Requests beyond their API key's rate limit."
        lines += _metric("rate_limited_total", "counter", told, {"": status["rate_limited"]})
    if status["desired_replicas"] is not None:
        told = "Upstreams that there should be, as the scaler decided last."
        lines += [f"# HELP {DESIRED} {told}", f"# TYPE {DESIRED} gauge", f"{DESIRED} {status['desired_replicas']}"]
    return "\n".join(lines) + "\n"


def _of_several(status: Mapping[str, Any]) -> list[str]:
    """What only several upstreams have."""
    sites = {_labels({"upstream": upstream}): told for upstream, told in status["upstreams"].items()}
    suspected = _each(sites, lambda told: told["suspected"])
    lines = _metric("upstream_suspected", "gauge", "Whether health checks took it out.", suspected)
    lines += _metric(
        "breaker_closed",
        "gauge",
        "Whether the circuit breaker lets requests through.",
        _each(sites, lambda told: told["breaker"] == "closed"),
    )
    lines += _metric("breaker_opened_total", "counter", "Openings.", _each(sites, lambda told: told["breaker_opened"]))
    sent = _each(sites, lambda told: told["sent"])
    lines += _metric("upstream_requests_total", "counter", "Requests sent there, retries included.", sent)
    lines += _metric("retries_total", "counter", "Requests that went on to another.", {"": status["retries"]})
    lines += _metric("degraded_total", "counter", "Requests that went to tier 1.", {"": status["degraded"]})
    variants = status["variants"]
    ended = {
        _labels({}, version=version, outcome=how): count
        for version, told in variants.items()
        for how, count in told["ended"].items()
    }
    lines += _metric("variant_requests_total", "counter", "Requests of each version by how they ended.", ended)
    kept = {_labels({}, version=version): told["kept_promises"] for version, told in variants.items()}
    lines += _metric("variant_requests_in_slo_total", "counter", "Of each version, within their promise.", kept)
    for name, key in (("variant_time_to_first_token_seconds", "ttft_ms"), ("variant_latency_seconds", "e2e_ms")):
        times = {
            _labels({}, version=version, quantile=f"{q:g}"): told[f"{key}_{at}"] / 1000.0
            for version, told in variants.items()
            for at, q in QUANTILES.items()
        }
        lines += _metric(name, "summary", "Of each version's latest requests that were served.", times)
    if status["canary"] is not None:
        share = {_labels({}, version=str(status["canary"]["version"])): status["canary"]["share"]}
        lines += _metric("canary_share", "gauge", "Share of the users that a roll-out has reached.", share)
    return lines


def _each(sites: Mapping[str, Mapping[str, Any]], said: Callable[[Mapping[str, Any]], Any]) -> dict[str, Any]:
    return {labels: said(told) for labels, told in sites.items()}


def _metric(name: str, kind: str, told: str, values: Mapping[str, Any]) -> list[str]:
    shown = [f"{PREFIX}{name}{labels} {_text(value)}" for labels, value in values.items()]
    return [f"# HELP {PREFIX}{name} {told}", f"# TYPE {PREFIX}{name} {kind}", *shown]


def _labels(where: Mapping[str, str], **labels: str) -> str:
    named = {**{name: value for name, value in where.items() if value}, **labels}
    return f"{{{','.join(f'{name}={_quoted(value)}' for name, value in named.items())}}}" if named else ""


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _text(value: Any) -> str:
    number = float(value)
    return "NaN" if math.isnan(number) else f"{number:g}" if number < 1e6 else f"{number:.0f}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
