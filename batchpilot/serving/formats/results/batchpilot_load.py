"""`batchpilot load --out`: `results.json`, with every request in columns. Milliseconds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from batchpilot.engines.scheduler.state import FINISH_REASONS
from batchpilot.serving.formats.results.base import ImportedRun, Request, Requests, ResultFormat, known
from batchpilot.serving.formats.results.entries import Entry, same_lengths

_NOT_NEGATIVE = ("ttft_", "tpot_", "e2e_", "elapsed_", "throughput_", "goodput_")


def fits(content: Any) -> bool:
    """Whether it is such a file.

    Args:
        content: of the file.
    """
    return isinstance(content, Mapping) and {"goodput_fraction", "client_late_p99_ms", "planned_requests"} <= set(
        content
    )


def read(path: Path, content: Entry) -> list[ImportedRun]:
    """Its runs: over HTTP, and in process where that was asked for too.

    Args:
        path: the file.
        content: of it.

    Raises:
        ValueError: a value is out of bounds.
    """
    beside = content.get("columns")
    columns = {"": content} | {name: beside[name] for name in beside.names() if beside[name].has("per_request")}
    return [
        ImportedRun(
            "batchpilot load",
            f"{path.parent.name}/{path.name}" + (f" {name}" if name else ""),
            Requests.of(_rows(column["per_request"])) if column.has("per_request") else None,
            known({name: _figure(column[name], name) for name in column.names()}),
            1000.0 * column.get("elapsed_s").number(0.0),
            content.get("served_model").text(),
        )
        for name, column in columns.items()
    ]


def _figure(entry: Entry, name: str) -> float:
    """One of the figures among everything that a file states, NaN for what is none."""
    if name.startswith(_NOT_NEGATIVE):
        return entry.number(0.0)
    value = entry.value
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _rows(columns: Entry) -> list[Request]:
    due_ms, late_ms = columns["due_ms"].numbers(), columns["late_ms"].numbers(unknown=True)
    prompts, outputs = columns["prompt_tokens"].counts(), columns["output_tokens"].counts()
    ttft_ms, e2e_ms = (columns[name].numbers(0.0, unknown=True) for name in ("ttft_ms", "e2e_ms"))
    reasons = [entry.choice(FINISH_REASONS) for entry in columns["finish_reason"].entries()]
    wanted: Sequence[int | None] = columns.get("wanted_tokens").counts() or [None] * len(due_ms)
    same_lengths(
        {
            "due_ms": due_ms,
            "prompt_tokens": prompts,
            "output_tokens": outputs,
            "ttft_ms": ttft_ms,
            "e2e_ms": e2e_ms,
            "finish_reason": reasons,
            "late_ms": late_ms,
            "wanted_tokens": wanted,
        }
    )
    rows = zip(due_ms, prompts, outputs, ttft_ms, e2e_ms, reasons, wanted, late_ms, strict=True)
    return [
        Request(due, prompt, output, ttft, e2e, reason, most, late_ms=late, place=f"{columns.place}[{row}]")
        for row, (due, prompt, output, ttft, e2e, reason, most, late) in enumerate(rows)
    ]


BATCHPILOT_LOAD = ResultFormat("batchpilot load --out", fits, read, ("results.json",))
"""The one layout."""
