"""AIPerf: `profile_export_aiperf.json` (sums) and `profile_export.jsonl` (one record a line).

Its inter-token latency is TPOT as here. A request was due when its credit was issued, from where it counts here;
AIPerf's latencies count from when it was sent. Warm-up records are left out.

Source: aiperf 0.13.0, `common/models/record_models.py`, `common/models/export_models.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchpilot.serving.formats.results.base import ImportedRun, Request, Requests, ResultFormat, known
from batchpilot.serving.formats.results.endings import ending
from batchpilot.serving.formats.results.entries import Entry

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


def read(path: Path, content: Entry) -> list[ImportedRun]:
    """Its one run.

    Args:
        path: the file.
        content: of it.

    Raises:
        ValueError: a unit that is not known, or a value out of bounds.
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
        told = content.get(theirs)
        stated |= {f"{name}_p{q}_ms": _unit_ms(told) * told.get(f"p{q}").number(0.0) for q in (50, 95, 99)}
    version = content.get("aiperf_version").text()
    complete = content.get("is_complete").value in (None, True)
    notes = () if complete else (content.get("incomplete_reason").text() or "AIPerf calls the run incomplete.",)
    return [
        ImportedRun(f"AIPerf {version}".strip(), path.name, None, known(stated), 1e3 * stated["elapsed_s"], notes=notes)
    ]


def read_records(path: Path, content: Entry) -> list[ImportedRun]:
    """Their one run.

    Args:
        path: the file.
        content: its lines.

    Raises:
        ValueError: a unit that is not known, or a value out of bounds.
    """
    records = content.entries()
    rows = [_row(record) for record in records if record["metadata"].get("benchmark_phase").value != "warmup"]
    return [ImportedRun("AIPerf", path.name, Requests.of(rows), {})]


def _row(record: Entry) -> Request:
    metadata, error = record["metadata"], record.get("error")
    sent_ns = _nanoseconds(metadata["request_start_ns"])
    issued = metadata.get("credit_issued_ns")
    due_ns = _nanoseconds(issued) if issued.value else sent_ns
    sent_ms, waited_ms = 1e-6 * sent_ns, 1e-6 * (sent_ns - due_ns)
    ttft_ms, latency_ms = _time(record, "time_to_first_token"), _time(record, "request_latency")
    output = _value(record, "output_sequence_length").count()
    prompt = _value(record, "input_sequence_length").count() or _value(record, "error_isl").count()
    if metadata.get("was_cancelled").value:
        reason = "cancelled"
    elif error.value:
        code, told = error.get("code").value, error.get("message").text() or error.get("type").text()
        reason = ending(told, code if isinstance(code, int) else None)
    else:
        reason = "length"
    if reason != "length" and math.isnan(latency_ms):
        latency_ms = 1e-6 * (_nanoseconds(metadata["request_end_ns"]) - sent_ns)
    gaps = record["metrics"].get("inter_chunk_latency")
    unit_ms = _unit_ms(gaps)
    gaps_ms = [unit_ms * gap for gap in gaps.get("value").numbers(0.0)]
    each = reason == "length" and len(gaps_ms) == output - 1
    return Request(
        1e-6 * due_ns,
        prompt,
        output,
        waited_ms + ttft_ms,
        waited_ms + latency_ms,
        reason,
        token_ms=list(itertools.accumulate([sent_ms + ttft_ms, *gaps_ms])) if each else (),
        late_ms=waited_ms,
        place=record.place,
    )


def _nanoseconds(entry: Entry) -> float:
    """Since 1970: as it stands, whole, since a float is right to a quarter of a microsecond only."""
    entry.needed()
    ns: float = entry.value
    return ns


def _value(record: Entry, name: str) -> Entry:
    return record["metrics"].get(name).get("value")


def _time(record: Entry, name: str) -> float:
    return _unit_ms(record["metrics"].get(name)) * _value(record, name).number(0.0)


def _unit_ms(told: Entry) -> float:
    """What one of the unit beside a value is in ms."""
    return _UNIT_MS[told["unit"].choice(_UNIT_MS)] if told.has("unit") else 1.0


def _average(content: Entry, name: str) -> float:
    return content.get(name).get("avg").number(0.0)


AIPERF = ResultFormat("AIPerf (profile_export_aiperf.json)", fits, read, ("profile_export_aiperf.json",))
"""Sums."""

AIPERF_RECORDS = ResultFormat("AIPerf (profile_export.jsonl)", fits_records, read_records, ("profile_export.jsonl",))
"""Single requests."""
