"""`vllm bench serve --save-result`: one JSON object a run; with `--save-detailed` every request in columns. Seconds.

TPOT there is as here. `start_times` are when requests were sent: under `--max-concurrency` and a finite rate they
were due `queue_times` before, which no latency of the file counts. Without a rate the clients set the pace and
nothing was due before.

Source: vllm 0.33.0, `vllm/benchmarks/serve.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any

from batchpilot.serving.formats.results.base import ImportedRun, Request, Requests, ResultFormat, known
from batchpilot.serving.formats.results.endings import ending
from batchpilot.serving.formats.results.entries import Entry, same_lengths

_PERCENTILES = {50: ("median_{}_ms", "p50_{}_ms"), 95: ("p95_{}_ms",), 99: ("p99_{}_ms",)}
_COLUMNS = {"ttft": "ttft", "tpot": "tpot", "e2e": "e2el"}


def fits(content: Any) -> bool:
    """Whether it is such a file.

    Args:
        content: of the file.
    """
    return isinstance(content, Mapping) and {"endpoint_type", "request_throughput", "completed"} <= set(content)


def read(path: Path, content: Entry) -> list[ImportedRun]:
    """Its one run.

    Args:
        path: the file.
        content: of it.

    Raises:
        ValueError: columns differ in length, or a value is out of bounds.
    """
    requests, notes = None, []
    if content.has("ttfts") and content.has("start_times"):
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
            1000.0 * content.get("duration").number(0.0),
            content.get("model_id").text(),
            tuple(notes),
        )
    ]


def _waits(content: Entry) -> list[float]:
    """Seconds that each request waited for a client of its own, empty where clients set the pace."""
    closed = content.get("request_rate").value == "inf" or not content.get("max_concurrency").value
    return [] if closed else content.get("queue_times").numbers(0.0)


def _rows(content: Entry) -> list[Request]:
    starts, told = content["start_times"].numbers(), _waits(content)
    ttfts, gaps_of, errors = content["ttfts"].entries(), content.get("itls").entries(), content.get("errors").entries()
    prompts, outputs = content.get("input_lens").counts(), content.get("output_lens").counts()
    latencies = content.get("latencies").numbers(0.0, unknown=True)
    columns: dict[str, Sized] = {"start_times": starts, "ttfts": ttfts}
    perhaps: dict[str, Sized] = {
        "queue_times": told,
        "itls": gaps_of,
        "errors": errors,
        "input_lens": prompts,
        "output_lens": outputs,
        "latencies": latencies,
    }
    same_lengths(columns | {name: column for name, column in perhaps.items() if len(column)})
    rows = []
    for row, start in enumerate(starts):
        error, output = errors[row].text() if errors else "", outputs[row] if outputs else 0
        waited = told[row] if told else 0.0
        served = not error and output > 0
        ttft = ttfts[row].needed(0.0) if served else ttfts[row].number(0.0)
        gaps = gaps_of[row].numbers(0.0) if gaps_of else []
        latency = latencies[row] if latencies else math.nan
        latency = latency if latency > 0.0 else ttft + sum(gaps)
        times = itertools.accumulate([start + ttft, *gaps[: output - 1]])
        rows.append(
            Request(
                1000.0 * (start - waited),
                prompts[row] if prompts else 0,
                output,
                1000.0 * (ttft + waited) if served else math.nan,
                1000.0 * (latency + waited) if served else math.nan,
                "length" if served else ending(error),
                token_ms=[1000.0 * time for time in times] if served and len(gaps) in (output - 1, output) else (),
                late_ms=1000.0 * waited if told else math.nan,
            )
        )
    return rows


def _stated(content: Entry) -> dict[str, float]:
    completed, failed = content["completed"].number(0.0), content.get("failed").number(0.0)
    if math.isnan(failed):
        failed = content.get("num_prompts").number(0.0) - completed
    stated = {
        "requests": completed + failed,
        "failed_fraction": failed / (completed + failed) if completed + failed > 0 else math.nan,
        "elapsed_s": content.get("duration").number(0.0),
        "throughput_tokens_per_s": content.get("output_throughput").number(0.0),
        "goodput_requests_per_s": content.get("request_goodput").number(0.0),
    }
    for ours, theirs in _COLUMNS.items():
        for q, names in _PERCENTILES.items():
            told = [content.get(name.format(theirs)).number(0.0) for name in names]
            stated[f"{ours}_p{q}_ms"] = next((value for value in told if not math.isnan(value)), math.nan)
    return known(stated)


VLLM_BENCH = ResultFormat("vllm bench serve --save-result", fits, read)
"""The one layout."""
