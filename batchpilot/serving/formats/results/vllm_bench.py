"""`vllm bench serve --save-result`: one JSON object a run; with `--save-detailed` every request in columns. Seconds.

TPOT there is as here. `start_times` are when requests were sent: under `--max-concurrency` and a finite rate they
were due `queue_times` before, which no latency of the file counts. Without a rate the clients set the pace and
nothing was due before.

Source: vllm 0.33.0, `vllm/benchmarks/serve.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchpilot.serving.formats.results.base import ImportedRun, Request, Requests, ResultFormat, known, number
from batchpilot.serving.formats.results.endings import ending

_PERCENTILES = {50: ("median_{}_ms", "p50_{}_ms"), 95: ("p95_{}_ms",), 99: ("p99_{}_ms",)}
_COLUMNS = {"ttft": "ttft", "tpot": "tpot", "e2e": "e2el"}


def fits(content: Any) -> bool:
    """Whether it is such a file.

    Args:
        content: of the file.
    """
    return isinstance(content, Mapping) and {"endpoint_type", "request_throughput", "completed"} <= set(content)


def read(path: Path, content: Mapping[str, Any]) -> list[ImportedRun]:
    """Its one run.

    Args:
        path: the file.
        content: of it.

    Raises:
        ValueError: columns differ in length, or a value is out of bounds.
    """
    requests, notes = None, []
    if "ttfts" in content and "start_times" in content:
        requests = Requests.of(_rows(content))
        if waited := _waits(content):
            notes.append(
                f"Up to {max(waited):.1f} s that requests waited for a free client are counted: vLLM's figures do not."
            )
    return [
        ImportedRun(
            "vllm bench serve",
            path.name,
            requests,
            _stated(content),
            number(content.get("duration"), 1000.0),
            str(content.get("model_id") or ""),
            tuple(notes),
        )
    ]


def _waits(content: Mapping[str, Any]) -> list[float]:
    """Seconds that each request waited for a client of its own, empty where clients set the pace."""
    closed = content.get("request_rate") == "inf" or not content.get("max_concurrency")
    return [] if closed else list(content.get("queue_times") or ())


def _rows(content: Mapping[str, Any]) -> list[Request]:
    sent, ttfts = content["start_times"], content["ttfts"]
    count = len(sent)
    columns = {name: content.get(name) or [empty] * count for name, empty in _EMPTY.items()}
    told = _waits(content)
    waits = told or [0.0] * count
    for name, values in {"ttfts": ttfts, "queue_times": waits, **columns}.items():
        if len(values) != count:
            raise ValueError(f"{name} has {len(values)} entries, start_times {count}; each request has one of each")
    rows = []
    for row, (start, ttft, waited) in enumerate(zip(sent, ttfts, waits, strict=True)):
        gaps, error, output = columns["itls"][row], columns["errors"][row], columns["output_lens"][row]
        served = not error and output > 0
        latency = columns["latencies"][row] or ttft + sum(gaps)
        times = itertools.accumulate([start + ttft, *gaps[: output - 1]])
        rows.append(
            Request(
                1000.0 * (start - waited),
                columns["input_lens"][row],
                output,
                1000.0 * (ttft + waited) if served else math.nan,
                1000.0 * (latency + waited) if served else math.nan,
                "length" if served else ending(error),
                token_ms=[1000.0 * time for time in times] if served and len(gaps) in (output - 1, output) else (),
                late_ms=1000.0 * waited if told else math.nan,
            )
        )
    return rows


def _stated(content: Mapping[str, Any]) -> dict[str, float]:
    completed, failed = number(content["completed"]), number(content.get("failed"))
    if math.isnan(failed):
        failed = number(content.get("num_prompts")) - completed
    stated = {
        "requests": completed + failed,
        "failed_fraction": failed / (completed + failed) if completed + failed > 0 else math.nan,
        "elapsed_s": number(content.get("duration")),
        "throughput_tokens_per_s": number(content.get("output_throughput")),
        "goodput_requests_per_s": number(content.get("request_goodput")),
    }
    for ours, theirs in _COLUMNS.items():
        for q, names in _PERCENTILES.items():
            told = [number(content.get(name.format(theirs))) for name in names]
            stated[f"{ours}_p{q}_ms"] = next((value for value in told if not math.isnan(value)), math.nan)
    return known(stated)


_EMPTY: dict[str, Any] = {"itls": (), "errors": "", "output_lens": 0, "input_lens": 0, "latencies": 0.0}

VLLM_BENCH = ResultFormat("vllm bench serve --save-result", fits, read)
"""The one layout."""
