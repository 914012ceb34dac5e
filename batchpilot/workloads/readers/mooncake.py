"""Mooncake: one JSON object a line with `timestamp` in ms, `input_length`, `output_length` and `hash_ids`.

The hashes of shared prefixes are not used: the engine has no prefix cache yet.

Source: github.com/kvcache-ai/Mooncake (Qin et al., FAST 2025).
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from batchpilot.workloads.readers.base import RowError, RowParser, TraceFormat, TraceRow, read_number, read_tokens


class MooncakeFormat(TraceFormat):
    """JSON lines, no header."""

    time_unit = "ms"
    header_lines = 0

    def start(self, lines: Iterator[str]) -> RowParser:
        """See `TraceFormat`."""
        return parse_line


def parse_line(line: str) -> TraceRow:
    """One request.

    Args:
        line: a JSON object with numbers `timestamp`, `input_length` and `output_length`; other keys are ignored.

    Raises:
        RowError: not a JSON object, a key is missing, or a value is not a number within its bound.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise RowError(f"found {line.strip()[:120]!r}; expected one whole JSON object") from None
    if not isinstance(record, dict):
        raise RowError(f"found {line.strip()[:120]!r}; expected a JSON object with timestamp and lengths")
    return TraceRow(
        read_number(_number_text(record, "timestamp"), "timestamp"),
        read_tokens(_number_text(record, "input_length"), "input_length"),
        read_tokens(_number_text(record, "output_length"), "output_length"),
    )


def _number_text(record: dict[str, object], key: str) -> str:
    if key not in record:
        raise RowError(f"found keys {', '.join(record)[:120]!r}; expected {key!r} among them")
    value = record[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError(f"{key} is {str(value)[:120]!r}; expected a number")
    return repr(value)


MOONCAKE = MooncakeFormat()
"""The one layout of Mooncake's files."""
