"""A Grafana dashboard over the server's metrics, written from one table so that every panel asks for what is there."""

from __future__ import annotations

from typing import Any, NamedTuple

RANGE = "[$__rate_interval]"


class Panel(NamedTuple):
    """One chart.

    Attributes:
        title: the question it answers.
        unit: Grafana's name of the unit.
        queries: PromQL by legend.
    """

    title: str
    unit: str
    queries: dict[str, str]


def _quantiles(metric: str) -> dict[str, str]:
    bucket = f"sum by (le) (rate(batchpilot:{metric}_bucket{RANGE}))"
    return {f"p{q}": f"histogram_quantile({q / 100}, {bucket})" for q in (50, 95, 99)}


PANELS = (
    Panel("Time to first token", "s", _quantiles("time_to_first_token_seconds")),
    Panel("Time per output token", "s", _quantiles("request_time_per_output_token_seconds")),
    Panel(
        "Share of requests within their SLO",
        "percentunit",
        {
            "within SLO": f'sum(rate(batchpilot:request_slo_total{{met="yes"}}{RANGE})) '
            f"/ sum(rate(batchpilot:request_slo_total{RANGE}))"
        },
    ),
    Panel(
        "Who runs, who waits",
        "short",
        {
            "running": "batchpilot:num_requests_running",
            "waiting": "batchpilot:num_requests_waiting",
            "batch size": 'batchpilot:tuner_limit{limit="batch_size"}',
        },
    ),
    Panel(
        "Tokens per second",
        "short",
        {
            "generated": f"sum(rate(batchpilot:generation_tokens_total{RANGE}))",
            "prompt": f"sum(rate(batchpilot:prompt_tokens_total{RANGE}))",
        },
    ),
    Panel("Requests finished per second", "reqps", {"finished": "batchpilot:requests_per_second"}),
    Panel("Device in use", "percentunit", {"share of time": "batchpilot:device_utilisation"}),
    Panel("Limits in force", "short", {"{{limit}}": "batchpilot:tuner_limit"}),
    Panel(
        "Requests not served, by why",
        "reqps",
        {"{{reason}}": f"sum by (reason) (rate(batchpilot:request_unserved_total{RANGE}))"},
    ),
    Panel("KV cache in use", "percentunit", {"in use": "batchpilot:kv_cache_usage_perc"}),
    Panel("Step time", "s", _quantiles("step_seconds")),
    Panel(
        "Decisions, failed steps and errors of the tuner",
        "short",
        {
            "limits changed": f"increase(batchpilot:tuner_limit_changes_total{RANGE})",
            "failed steps": f"increase(batchpilot:failed_steps_total{RANGE})",
            "tuner errors": f"increase(batchpilot:tuner_errors_total{RANGE})",
        },
    ),
)


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana imports it; it asks for the Prometheus data source to use."""
    source = {"type": "prometheus", "uid": "${source}"}
    panels = [
        {
            "id": k + 1,
            "type": "timeseries",
            "title": panel.title,
            "datasource": source,
            "gridPos": {"h": 8, "w": 12, "x": 12 * (k % 2), "y": 8 * (k // 2)},
            "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
            "targets": [
                {"refId": chr(ord("A") + n), "datasource": source, "expr": query, "legendFormat": legend}
                for n, (legend, query) in enumerate(panel.queries.items())
            ],
        }
        for k, panel in enumerate(PANELS)
    ]
    variable = {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    return {
        "title": "batchpilot",
        "uid": "batchpilot",
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [variable]},
        "panels": panels,
    }
