"""GuideLLM's report (`--output kind=json` or `yaml`), several benchmarks in one. Seconds since the epoch.

What GuideLLM calls `time_per_output_token` is the whole answer over its tokens, so it holds TTFT; its
`inter_token_latency` is the TPOT of everybody else. Its latencies count from when a request was sent; where its
profile has a timetable it also says when that should have been. Requests are those of its sample: a part of them is
no run.

Source: guidellm 0.8.1, `schemas/base/request_stats.py`, `benchmark/schemas/`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from batchpilot.serving.formats.results.base import ImportedRun, Request, Requests, ResultFormat, known, number
from batchpilot.serving.formats.results.endings import ending

_PACED_BY_CLIENTS = ("synchronous", "concurrent", "throughput")
"""Strategies without a timetable: their targeted start is at once."""

_LATENCIES = {
    "ttft": ("time_to_first_token_ms", 1.0),
    "tpot": ("inter_token_latency_ms", 1.0),
    "e2e": ("request_latency", 1000.0),
}

MOONCAKE_SCALE = 1e-3
"""GuideLLM 0.8 reads a trace's timestamps as seconds; Mooncake's are milliseconds."""


def fits(content: Any) -> bool:
    """Whether it is such a file.

    Args:
        content: of the file.
    """
    return isinstance(content, Mapping) and isinstance(content.get("benchmarks"), list) and "metadata" in content


def read(path: Path, content: Mapping[str, Any]) -> list[ImportedRun]:
    """One run a benchmark.

    Args:
        path: the file.
        content: of it.

    Raises:
        ValueError: a value is out of bounds, or the report is of a layout before 0.6.
    """
    version = str(content["metadata"].get("guidellm_version", ""))
    spec = content.get("config", {}).get("spec", {})
    slow = _read_mooncake_as_seconds(spec)
    runs = []
    for benchmark in content["benchmarks"]:
        strategy = benchmark["config"]["strategy"]
        totals = benchmark["metrics"]["request_totals"]
        entries = list(_entries(benchmark["requests"]))
        notes = ["TPOT is its inter-token latency; what GuideLLM calls time per output token contains TTFT."]
        requests = None
        if entries and len(entries) == totals["total"]:
            requests = Requests.of([_row(entry, _timetable(strategy)) for entry in entries])
        elif totals["total"]:
            notes.append(
                f"It holds a sample of {len(entries)} of {totals['total']} requests: no request by itself is read."
            )
        if slow:
            notes.append(
                "GuideLLM took the milliseconds of the Mooncake trace for seconds: this load was 1,000 times as slow "
                "as recorded. A trace that is written from it has the recorded times."
            )
        runs.append(
            ImportedRun(
                f"GuideLLM {version}".strip(),
                f"{path.name} {_name(strategy)}",
                requests,
                _stated(benchmark),
                number(benchmark.get("duration"), 1000.0),
                str(spec.get("backend", {}).get("model") or ""),
                tuple(notes),
                MOONCAKE_SCALE if slow else 1.0,
            )
        )
    return runs


def _entries(requests: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for status in ("successful", "incomplete", "errored"):
        yield from requests.get(status) or ()


def _name(strategy: Mapping[str, Any]) -> str:
    pace = strategy.get("rate") or strategy.get("streams")
    return str(strategy["type_"]) + (f"@{pace:g}" if isinstance(pace, int | float) else "")


def _timetable(strategy: Mapping[str, Any]) -> bool:
    return strategy["type_"] not in _PACED_BY_CLIENTS


def _row(entry: Mapping[str, Any], timetable: bool) -> Request:
    info = entry["info"]
    times = info["timings"]
    sent = number(times["request_start"])
    due = number(times.get("targeted_start")) if timetable else math.nan
    due = next((time for time in (due, sent, number(times.get("queued"))) if not math.isnan(time)), math.nan)
    served = info["status"] == "completed"
    reason = (
        "length" if served else "cancelled" if info["status"] != "errored" else ending(str(info.get("error") or ""))
    )
    first, last = number(times["first_token_iteration"]), number(times["last_token_iteration"])
    end = last if served and not math.isnan(last) else number(times.get("request_end"))
    return Request(
        1000.0 * due,
        entry.get("prompt_tokens") or 0,
        entry.get("output_tokens") or 0,
        1000.0 * (first - due),
        1000.0 * (end - due),
        reason,
        _wanted(entry.get("request_args")),
        late_ms=1000.0 * (sent - due) if timetable else math.nan,
    )


def _wanted(arguments: object) -> int | None:
    """Output tokens that a request asked for."""
    try:
        body = json.loads(str(arguments))["body"]
    except (ValueError, KeyError, TypeError):
        return None
    asked = [body.get(name) for name in ("max_completion_tokens", "max_tokens")] if isinstance(body, dict) else []
    return next((most for most in asked if isinstance(most, int) and most > 0), None)


def _read_mooncake_as_seconds(spec: Mapping[str, Any]) -> bool:
    """Whether a Mooncake trace was replayed without its user having made up for the unit."""
    scale = number(spec.get("profile", {}).get("time_scale", 1.0))
    return any(
        data.get("kind") == "mooncake" and scale * number(data.get("time_scale", 1.0)) > MOONCAKE_SCALE * 10.0
        for data in spec.get("data") or ()
    )


def _stated(benchmark: Mapping[str, Any]) -> dict[str, float]:
    metrics = benchmark["metrics"]
    totals = metrics["request_totals"]
    total = totals["total"] - totals["incomplete"]
    stated = {
        "requests": float(totals["total"]),
        "failed_fraction": totals["errored"] / total if total else math.nan,
        "elapsed_s": number(benchmark.get("duration")),
        "throughput_tokens_per_s": number(metrics["output_tokens_per_second"]["successful"]["mean"]),
        "slo_attainment": number(metrics.get("slo_attainment")),
    }
    for name, (theirs, scale) in _LATENCIES.items():
        told = metrics[theirs]["successful"]
        stated |= {
            f"{name}_p{q}_ms": number(told["percentiles"][f"p{q}"], scale) for q in (50, 95, 99) if told["count"]
        }
    return known(stated)


GUIDELLM = ResultFormat("GuideLLM --output kind=json", fits, read, ("benchmarks.json", "benchmarks.yaml"))
"""The layout since 0.6."""
