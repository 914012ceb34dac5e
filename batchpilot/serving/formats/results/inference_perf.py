"""inference-perf's reports: the summary of a run or a stage, and every request where `per_request: true`. Seconds.

Over chat, inference-perf hears only content: while a model reasons nothing counts as a token, so TTFT is the time to
the first token after reasoning, and outputs lack it. Single requests keep what the server counted, by which both are
mended: reasoning is taken to have come at the pace of the rest. A summary cannot be mended. Requests count from when
they were sent.

Source: inference-perf 0.7.0, `reportgen/base.py`, `apis/streaming_parser.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchpilot.serving.formats.results.base import ImportedRun, Request, Requests, ResultFormat, known
from batchpilot.serving.formats.results.endings import ending
from batchpilot.serving.formats.results.entries import Entry

_LATENCIES = {"ttft": "time_to_first_token", "tpot": "time_per_output_token", "e2e": "request_latency"}
_PERCENTILES = {50: "median", 95: "p95", 99: "p99"}
_TOOL = "inference-perf"
_UNTOLD = 1.1
"""Tokenizers differ; a server that counted more than so many times the content's tokens counted reasoning."""


def fits(content: Any) -> bool:
    """Whether it is the summary of a run or a stage.

    Args:
        content: of the file.
    """
    return isinstance(content, Mapping) and {"load_summary", "successes", "failures"} <= set(content)


def fits_requests(content: Any) -> bool:
    """Whether it is `per_request_lifecycle_metrics.json`.

    Args:
        content: of the file.
    """
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, Mapping) and {"start_time", "end_time", "info", "error"} <= set(first)


def read(path: Path, content: Entry) -> list[ImportedRun]:
    """Its one run.

    Args:
        path: the file.
        content: of it.

    Raises:
        ValueError: a value is out of bounds.
    """
    served, failed = content["successes"], content["failures"]["count"].needed(0.0)
    total = served["count"].needed(0.0) + failed
    elapsed_s = content.get("benchmark_time_seconds").number(0.0)
    stated = {
        "requests": total,
        "failed_fraction": failed / total if total else math.nan,
        "elapsed_s": elapsed_s,
        "throughput_tokens_per_s": served.get("throughput").get("output_tokens_per_sec").number(0.0),
    }
    for name, theirs in _LATENCIES.items():
        told = served.get("latency").get(theirs)
        stated |= {f"{name}_p{q}_ms": 1000.0 * told.get(key).number(0.0) for q, key in _PERCENTILES.items()}
    notes = ("Over chat its TTFT is that of the first token after reasoning, if the model reasons.",)
    return [ImportedRun(_TOOL, path.name, None, known(stated), 1000.0 * elapsed_s, notes=notes)]


def read_requests(path: Path, content: Entry) -> list[ImportedRun]:
    """Its one run.

    Args:
        path: the file.
        content: of it.

    Raises:
        ValueError: a value is out of bounds.
    """
    entries = content.entries()
    rows = [_row(entry) for entry in entries]
    reasoned = sum(_reasoning_tokens(entry) > 0 for entry in entries)
    notes = ["Requests count from when they were sent; when they were due it does not say."]
    if reasoned:
        notes.append(
            f"{reasoned:,} answers hold reasoning, which inference-perf's TTFT skips: the first token is taken to have "
            "come as much earlier as that took at the pace of the rest."
        )
    return [ImportedRun(_TOOL, path.name, Requests.of(rows), {}, notes=tuple(notes))]


def _row(entry: Entry) -> Request:
    info, error, start = entry.get("info"), entry.get("error"), entry["start_time"].needed()
    heard = info.get("response_metrics")
    prompt = info.get("request_metrics").get("text").get("input_tokens").count() or info.get("input_tokens").count()
    times = heard.get("output_token_times").numbers() or heard.get("chunk_times").numbers()
    output = _counted(heard) or heard.get("output_tokens").count() or len(times)
    end = times[-1] if times else entry["end_time"].needed()
    if error.value:
        told = f"{error.get('error_type').text()} {error.get('error_msg').text()}"
        e2e_ms = 1000.0 * (end - start)
        return Request(1000.0 * start, prompt, len(times), math.nan, e2e_ms, ending(told), place=entry.place)
    first, thought = times[0] if times else end, _reasoning_tokens(entry)
    if thought and len(times) > 1:
        first = max(first - thought * (end - first) / (len(times) - 1), start)
    exact = len(times) == output and not thought
    return Request(
        1000.0 * start,
        prompt,
        output,
        1000.0 * (first - start),
        1000.0 * (end - start),
        token_ms=[1000.0 * time for time in times] if exact else (),
        place=entry.place,
    )


def _counted(heard: Entry) -> int:
    return heard.get("server_usage").get("completion_tokens").count()


def _reasoning_tokens(entry: Entry) -> int:
    """Tokens that the model thought before its first word, as far as the file tells."""
    heard = entry.get("info").get("response_metrics")
    if told := heard.get("server_usage").get("completion_tokens_details").get("reasoning_tokens").count():
        return told
    content = len(heard.get("output_token_times").value or ()) or heard.get("output_tokens").count()
    said = entry.get("response").value
    thinks = '"reasoning' in said if isinstance(said, str) else _counted(heard) > _UNTOLD * content
    return max(_counted(heard) - content, 0) if thinks and content else 0


INFERENCE_PERF = ResultFormat(
    "inference-perf (summary_lifecycle_metrics.json)",
    fits,
    read,
    ("summary_lifecycle_metrics.json", "stage_*_lifecycle_metrics.json"),
)
"""Sums."""

INFERENCE_PERF_REQUESTS = ResultFormat(
    "inference-perf (per_request_lifecycle_metrics.json)",
    fits_requests,
    read_requests,
    ("per_request_lifecycle_metrics.json",),
)
"""Single requests."""
