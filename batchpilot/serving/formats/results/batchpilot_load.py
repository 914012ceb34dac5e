"""`batchpilot load --out`: `results.json`, with every request in columns. Milliseconds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchpilot.serving.formats.results.base import ImportedRun, Request, Requests, ResultFormat, known, number


def fits(content: Any) -> bool:
    """Whether it is such a file.

    Args:
        content: of the file.
    """
    return isinstance(content, Mapping) and {"goodput_fraction", "client_late_p99_ms", "planned_requests"} <= set(
        content
    )


def read(path: Path, content: Mapping[str, Any]) -> list[ImportedRun]:
    """Its runs: over HTTP, and in process where that was asked for too.

    Args:
        path: the file.
        content: of it.

    Raises:
        ValueError: a value is out of bounds.
    """
    columns = {"": content} | {name: one for name, one in content.get("columns", {}).items() if "per_request" in one}
    return [
        ImportedRun(
            "batchpilot load",
            f"{path.parent.name}/{path.name}" + (f" {name}" if name else ""),
            Requests.of(_rows(column["per_request"])) if "per_request" in column else None,
            known({key: number(value) for key, value in column.items()}),
            number(column.get("elapsed_s"), 1000.0),
            str(content.get("served_model") or ""),
        )
        for name, column in columns.items()
    ]


def _rows(columns: Mapping[str, list[Any]]) -> list[Request]:
    wanted = columns.get("wanted_tokens") or [None] * len(columns["due_ms"])
    needed = ("due_ms", "prompt_tokens", "output_tokens", "ttft_ms", "e2e_ms", "finish_reason", "late_ms")
    rows = zip(*(columns[name] for name in needed), wanted, strict=True)
    return [
        Request(due, prompt, output, _time(ttft), _time(e2e), reason, most, late_ms=_time(late))
        for due, prompt, output, ttft, e2e, reason, late, most in rows
    ]


def _time(value: float | None) -> float:
    return math.nan if value is None else value


BATCHPILOT_LOAD = ResultFormat("batchpilot load --out", fits, read, ("results.json",))
"""The one layout."""
