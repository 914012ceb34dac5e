"""Mooncake: one JSON object a line with `timestamp` in ms, `input_length`, `output_length` and `hash_ids`.

A prompt's hashes stand for its blocks of 512 tokens, each with all before it; the last may be a part of a block, which
nobody shares. A file without `hash_ids` is read as one of requests that have nothing in common.

Source: github.com/kvcache-ai/Mooncake (Qin et al., FAST 2025).
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from batchpilot.workloads.readers.base import RowError, RowParser, TraceFormat, TraceRow, read_number, read_tokens

BLOCK_TOKENS = 512
"""Tokens in a hashed block."""


class MooncakeFormat(TraceFormat):
    """JSON lines, no header."""

    time_unit = "ms"
    header_lines = 0
    block_tokens = BLOCK_TOKENS

    def start(self, lines: Iterator[str]) -> RowParser:
        """See `TraceFormat`."""
        return parse_line


def parse_line(line: str) -> TraceRow:
    """One request.

    Args:
        line: a JSON object with numbers `timestamp`, `input_length` and `output_length`, and whole numbers in a list
            `hash_ids` if it has any; other keys are ignored.

    Raises:
        RowError: not a JSON object, a key is missing, or a value is not a number within its bound.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise RowError(f"found {line.strip()[:120]!r}; expected one whole JSON object") from None
    if not isinstance(record, dict):
        raise RowError(f"found {line.strip()[:120]!r}; expected a JSON object with timestamp and lengths")
    prompt_tokens = read_tokens(_number_text(record, "input_length"), "input_length")
    return TraceRow(
        read_number(_number_text(record, "timestamp"), "timestamp"),
        prompt_tokens,
        read_tokens(_number_text(record, "output_length"), "output_length"),
        read_hashes([] if record.get("hash_ids") is None else record["hash_ids"])[: prompt_tokens // BLOCK_TOKENS],
    )


def read_hashes(values: object) -> list[int]:
    """Block hashes, whole numbers of 64 bits.

    Args:
        values: as the file has them.

    Raises:
        RowError: not a list of such numbers.
    """
    if not isinstance(values, list):
        raise RowError(f"hash_ids is {str(values)[:120]!r}; expected a list of whole numbers")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
            raise RowError(f"hash_ids holds {str(value)[:120]!r}; expected whole numbers of 64 bits")
    return values


def _number_text(record: dict[str, object], key: str) -> str:
    if key not in record:
        raise RowError(f"found keys {', '.join(record)[:120]!r}; expected {key!r} among them")
    value = record[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError(f"{key} is {str(value)[:120]!r}; expected a number")
    return repr(value)


MOONCAKE = MooncakeFormat()
"""The one layout of Mooncake's files."""
