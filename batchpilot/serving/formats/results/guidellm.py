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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchpilot.serving.formats.results.base import ImportedRun, Request, Requests, ResultFormat, known
from batchpilot.serving.formats.results.endings import ending
from batchpilot.serving.formats.results.entries import Entry

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


def read(path: Path, content: Entry) -> list[ImportedRun]:
    """One run a benchmark.

    Args:
        path: the file.
        content: of it.

    Raises:
        ValueError: a value is out of bounds, or the report is of a layout before 0.6.
    """
    version = content["metadata"].get("guidellm_version").text()
    spec = content.get("config").get("spec")
    slow = _read_mooncake_as_seconds(spec)
    runs = []
    for benchmark in content["benchmarks"].entries():
        strategy = benchmark["config"]["strategy"]
        total = benchmark["metrics"]["request_totals"]["total"].needed(0.0)
        entries = _entries(benchmark["requests"])
        notes = ["TPOT is its inter-token latency; what GuideLLM calls time per output token contains TTFT."]
        requests = None
        if entries and len(entries) == total:
            requests = Requests.of([_row(entry, _timetable(strategy)) for entry in entries])
        elif total:
            notes.append(f"It holds a sample of {len(entries)} of {total:.0f} requests: no request by itself is read.")
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
                1000.0 * benchmark.get("duration").number(0.0),
                spec.get("backend").get("model").text(),
                tuple(notes),
                MOONCAKE_SCALE if slow else 1.0,
            )
        )
    return runs


def _entries(requests: Entry) -> list[Entry]:
    return [entry for status in ("successful", "incomplete", "errored") for entry in requests.get(status).entries()]


def _name(strategy: Entry) -> str:
    pace = strategy.get("rate").value or strategy.get("streams").value
    return strategy["type_"].text() + (f"@{pace:g}" if isinstance(pace, int | float) else "")


def _timetable(strategy: Entry) -> bool:
    return strategy["type_"].value not in _PACED_BY_CLIENTS


def _row(entry: Entry, timetable: bool) -> Request:
    info = entry["info"]
    times = info["timings"]
    sent, target = times["request_start"].number(), times.get("targeted_start").number()
    known_times = (target if timetable else math.nan, sent, times.get("queued").number())
    due = next((time for time in known_times if not math.isnan(time)), math.nan)
    if math.isnan(due):
        raise times["request_start"].wrong("a number, or one as targeted_start or queued")
    status = info["status"].text()
    served = status == "completed"
    reason = "length" if served else "cancelled" if status != "errored" else ending(info.get("error").text())
    first, last = times["first_token_iteration"].number(), times["last_token_iteration"].number()
    end = last if served and not math.isnan(last) else times.get("request_end").number()
    return Request(
        1000.0 * due,
        entry.get("prompt_tokens").count(),
        entry.get("output_tokens").count(),
        1000.0 * (first - due),
        1000.0 * (end - due),
        reason,
        _wanted(entry.get("request_args").value),
        late_ms=1000.0 * (sent - due) if timetable else math.nan,
        place=entry.place,
    )


def _wanted(arguments: object) -> int | None:
    """Output tokens that a request asked for."""
    try:
        body = json.loads(str(arguments))["body"]
    except (ValueError, KeyError, TypeError):
        return None
    asked = [body.get(name) for name in ("max_completion_tokens", "max_tokens")] if isinstance(body, dict) else []
    return next((most for most in asked if isinstance(most, int) and most > 0), None)


def _read_mooncake_as_seconds(spec: Entry) -> bool:
    """Whether a Mooncake trace was replayed without its user having made up for the unit."""
    scale = _scale(spec.get("profile"))
    return any(
        data.get("kind").value == "mooncake" and scale * _scale(data) > MOONCAKE_SCALE * 10.0
        for data in spec.get("data").entries()
    )


def _scale(entry: Entry) -> float:
    return entry["time_scale"].number(0.0) if entry.has("time_scale") else 1.0


def _stated(benchmark: Entry) -> dict[str, float]:
    metrics = benchmark["metrics"]
    totals = metrics["request_totals"]
    attained = metrics.get("slo_attainment")
    every, incomplete, errored = (totals[name].needed(0.0) for name in ("total", "incomplete", "errored"))
    stated = {
        "requests": every,
        "failed_fraction": errored / (every - incomplete) if every > incomplete else math.nan,
        "elapsed_s": benchmark.get("duration").number(0.0),
        "throughput_tokens_per_s": metrics["output_tokens_per_second"]["successful"]["mean"].number(0.0),
        "slo_attainment": math.nan if isinstance(attained.value, Mapping) else attained.number(0.0),
    }
    for name, (theirs, scale) in _LATENCIES.items():
        told = metrics[theirs]["successful"]
        if told["count"].number(0.0) > 0:
            percentiles = told["percentiles"]
            stated |= {f"{name}_p{q}_ms": scale * percentiles[f"p{q}"].number(0.0) for q in (50, 95, 99)}
    return known(stated)


GUIDELLM = ResultFormat("GuideLLM --output kind=json", fits, read, ("benchmarks.json", "benchmarks.yaml"))
"""The layout since 0.6."""
