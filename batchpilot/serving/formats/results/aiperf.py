"""AIPerf: `profile_export_aiperf.json` (sums) and `profile_export.jsonl` (one record a line).

Its inter-token latency is TPOT as here. A request was due when its credit was issued, from where it counts here;
AIPerf's latencies count from when it was sent. Warm-up records are left out.

Source: aiperf 0.13.0, `common/models/record_models.py`, `common/models/export_models.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from batchpilot.core.names import lookup
from batchpilot.serving.formats.results.base import ImportedRun, Request, Requests, ResultFormat, known, number
from batchpilot.serving.formats.results.endings import ending

_LATENCIES = {"ttft": "time_to_first_token", "tpot": "inter_token_latency", "e2e": "request_latency"}
_UNIT_MS = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "sec": 1e3, "s": 1e3}


def fits(content: Any) -> bool:
    """Whether it is the export of sums.

    Args:
        content: of the file.
    """
    return isinstance(content, Mapping) and "request_throughput" in content and "input_config" in content


def fits_records(content: Any) -> bool:
    """Whether these are records.

    Args:
        content: of the file.
    """
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, Mapping) and "metrics" in first and "request_start_ns" in (first.get("metadata") or {})


def read(path: Path, content: Mapping[str, Any]) -> list[ImportedRun]:
    """Its one run.

    Args:
        path: the file.
        content: of it.

    Raises:
        ValueError: a unit that is not known.
    """
    served, failed = _average(content, "request_count"), _average(content, "error_request_count")
    failed = 0.0 if math.isnan(failed) else failed
    total = failed + (0.0 if math.isnan(served) else served)
    stated = {
        "requests": total,
        "failed_fraction": failed / total if total else math.nan,
        "elapsed_s": _average(content, "benchmark_duration"),
        "throughput_tokens_per_s": _average(content, "output_token_throughput"),
        "goodput_requests_per_s": _average(content, "goodput"),
    }
    for name, theirs in _LATENCIES.items():
        told = content.get(theirs) or {}
        stated |= {f"{name}_p{q}_ms": _ms(told.get(f"p{q}"), told.get("unit", "ms")) for q in (50, 95, 99)}
    version = str(content.get("aiperf_version") or "")
    notes = () if content.get("is_complete") in (None, True) else (str(content.get("incomplete_reason")),)
    return [
        ImportedRun(f"AIPerf {version}".strip(), path.name, None, known(stated), 1e3 * stated["elapsed_s"], notes=notes)
    ]


def read_records(path: Path, content: Sequence[Mapping[str, Any]]) -> list[ImportedRun]:
    """Their one run.

    Args:
        path: the file.
        content: its lines.

    Raises:
        ValueError: a unit that is not known, or a value out of bounds.
    """
    rows = [_row(record) for record in content if record["metadata"].get("benchmark_phase") != "warmup"]
    return [ImportedRun("AIPerf", path.name, Requests.of(rows), {})]


def _row(record: Mapping[str, Any]) -> Request:
    metadata, error = record["metadata"], record.get("error")
    sent_ms = 1e-6 * metadata["request_start_ns"]
    due_ns = metadata.get("credit_issued_ns") or metadata["request_start_ns"]
    due_ms, waited_ms = 1e-6 * due_ns, 1e-6 * (metadata["request_start_ns"] - due_ns)
    ttft_ms, latency_ms = _time(record, "time_to_first_token"), _time(record, "request_latency")
    output, prompt = int(_value(record, "output_sequence_length") or 0), _value(record, "input_sequence_length")
    prompt = prompt or _value(record, "error_isl") or 0
    if metadata.get("was_cancelled"):
        reason = "cancelled"
    elif error:
        reason = ending(str(error.get("message") or error.get("type") or ""), error.get("code"))
    else:
        reason = "length"
    if reason != "length" and math.isnan(latency_ms):
        latency_ms = 1e-6 * metadata["request_end_ns"] - sent_ms
    gaps_ms = _times(record, "inter_chunk_latency")
    each = reason == "length" and len(gaps_ms) == output - 1
    return Request(
        due_ms,
        int(prompt),
        output,
        waited_ms + ttft_ms,
        waited_ms + latency_ms,
        reason,
        token_ms=list(itertools.accumulate([sent_ms + ttft_ms, *gaps_ms])) if each else (),
        late_ms=waited_ms,
    )


def _value(record: Mapping[str, Any], name: str) -> Any:
    return (record["metrics"].get(name) or {}).get("value")


def _time(record: Mapping[str, Any], name: str) -> float:
    told = record["metrics"].get(name) or {}
    return _ms(told.get("value"), told.get("unit", "ms"))


def _times(record: Mapping[str, Any], name: str) -> list[float]:
    told = record["metrics"].get(name) or {}
    return [_ms(value, told["unit"]) for value in told.get("value") or ()]


def _ms(value: Any, unit: str) -> float:
    return number(value, lookup(_UNIT_MS, unit, "unit of time"))


def _average(content: Mapping[str, Any], name: str) -> float:
    return number((content.get(name) or {}).get("avg"))


AIPERF = ResultFormat("AIPerf (profile_export_aiperf.json)", fits, read, ("profile_export_aiperf.json",))
"""Sums."""

AIPERF_RECORDS = ResultFormat("AIPerf (profile_export.jsonl)", fits_records, read_records, ("profile_export.jsonl",))
"""Single requests."""
