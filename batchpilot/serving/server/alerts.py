"""Alerts over the server's metrics as Prometheus rules, written from one table like the dashboard beside it."""

from __future__ import annotations

import math
from typing import NamedTuple

import yaml

from batchpilot.core.slo import SLO


class Alert(NamedTuple):
    """One alert.

    Attributes:
        name: of the alert.
        condition: PromQL that yields something while it is so.
        lasting: how long before it fires.
        severity: "page" for what users feel now, "ticket" for what they will.
        told: what is wrong, and what to do.
    """

    name: str
    condition: str
    lasting: str
    severity: str
    told: str


_OF_EVERY_SERVER = (
    Alert("BatchpilotDown", 'up{job=~".*batchpilot.*"} == 0', "1m", "page", "The server does not answer Prometheus."),
    Alert(
        "BatchpilotPromiseBroken",
        '(sum by (instance) (rate(batchpilot:request_slo_total{met="yes"}[5m])) '
        "/ sum by (instance) (rate(batchpilot:request_slo_total[5m]))) < 0.95",
        "5m",
        "page",
        "{{ $value | humanizePercentage }} of the requests kept their promise: see `batchpilot diagnose`.",
    ),
    Alert(
        "BatchpilotErrors",
        '(sum by (instance) (rate(batchpilot:request_unserved_total{reason=~"failed|engine_error"}[5m])) '
        "/ (sum by (instance) (rate(batchpilot:request_success_total[5m])) "
        "+ sum by (instance) (rate(batchpilot:request_unserved_total[5m])))) > 0.001",
        "5m",
        "page",
        "{{ $value | humanizePercentage }} of the requests failed; the target is below 0.1 %.",
    ),
    Alert(
        "BatchpilotRefusing",
        '(sum by (instance) (rate(batchpilot:request_unserved_total{reason=~"refused.*"}[5m])) '
        "/ (sum by (instance) (rate(batchpilot:request_success_total[5m])) "
        "+ sum by (instance) (rate(batchpilot:request_unserved_total[5m])))) > 0.05",
        "10m",
        "ticket",
        "{{ $value | humanizePercentage }} of the requests are refused: see `batchpilot diagnose`.",
    ),
    Alert(
        "BatchpilotKvFull",
        "avg_over_time(batchpilot:kv_cache_usage_perc[5m]) > 0.95 and batchpilot:num_requests_waiting > 0",
        "5m",
        "ticket",
        "{{ $value | humanizePercentage }} of the KV cache is in use while requests wait.",
    ),
    Alert(
        "BatchpilotPreempting",
        "rate(batchpilot:num_preemptions_total[5m]) > 0.1",
        "10m",
        "ticket",
        "{{ $value | humanize }} preemptions a second: whoever is let in does not fit; lower the batch size.",
    ),
    Alert(
        "BatchpilotStepsFail",
        "increase(batchpilot:failed_steps_total[5m]) > 0",
        "0m",
        "page",
        "{{ $value | humanize }} engine steps failed in 5 minutes, out of memory or by an error.",
    ),
    Alert(
        "BatchpilotMemoryGrows",
        "deriv(process_resident_memory_bytes[1h]) * 86400 > 0.5 * process_resident_memory_bytes",
        "1h",
        "ticket",
        "At this pace memory grows by {{ $value | humanize1024 }}B a day: a leak.",
    ),
    Alert(
        "BatchpilotTunerErrors",
        "increase(batchpilot:tuner_errors_total[15m]) > 0",
        "0m",
        "ticket",
        "The tuner raised; its last limits stay in force.",
    ),
)
"""What is wrong under any promise."""


def alerts(slo: SLO) -> list[Alert]:
    """The alerts of a server under a promise; a target that is infinite has none.

    Args:
        slo: the promise.
    """
    found = list(_OF_EVERY_SERVER)
    for name, metric, target_ms in (
        ("BatchpilotTtftLate", "time_to_first_token_seconds", slo.ttft_ms),
        ("BatchpilotTpotLate", "request_time_per_output_token_seconds", slo.tpot_ms),
    ):
        if math.isfinite(target_ms):
            quantile = f"histogram_quantile(0.95, sum by (instance, le) (rate(batchpilot:{metric}_bucket[5m])))"
            told = f"The 95th percentile is {{{{ $value | humanizeDuration }}}}, above the promised {target_ms:g} ms."
            found.append(Alert(name, f"{quantile} > {target_ms / 1000.0:g}", "5m", "page", told))
    return found


def alert_rules(slo: SLO) -> str:
    """The rule file, as Prometheus' `rule_files` takes it.

    Args:
        slo: the promise.
    """
    rules = [
        {
            "alert": one.name,
            "expr": one.condition,
            "for": one.lasting,
            "labels": {"severity": one.severity},
            "annotations": {"summary": one.told},
        }
        for one in alerts(slo)
    ]
    return yaml.safe_dump({"groups": [{"name": "batchpilot", "rules": rules}]}, sort_keys=False, width=1000)
