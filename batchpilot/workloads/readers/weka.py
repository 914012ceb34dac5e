"""Weka traces of agents: one JSON object a conversation, by line, with block hashes; AIPerf and GuideLLM replay them.

Keys: `block_size`, and `requests`, a list of calls (`type` "n" or "s") with `t` and `think_time` in s, `in`, `out` and
`hash_ids`, and of sub-agents (`type` "subagent") with `requests` of their own. A call waits for the answer to the one
before it, then for its `think_time`; without one, for as long as it did when it was recorded (`t` less the end of the
call before, by its `api_time`). The call behind a sub-agent waits for it; several in a row, which may have run at the
same time, are replayed one after another. Hashes are of one trace alone, so conversations have nothing in common. When
a conversation began is not recorded: they begin `every_s` one after another.

Source: github.com/callanjfox/kv-cache-tester, and `weka_trace_models.py` of AIPerf 0.13.0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TextIO

import numpy as np

from batchpilot.workloads.prefixes import Prefixes
from batchpilot.workloads.readers.base import RowError, read_number, read_tokens
from batchpilot.workloads.readers.mooncake import read_hashes
from batchpilot.workloads.table import RequestTable
from batchpilot.workloads.turns import Turns

CALLS, SUBAGENT = ("n", "s"), "subagent"

EVERY_S = 10.0
"""Between the beginnings of two conversations, where nothing is said."""


@dataclass(frozen=True, slots=True)
class WekaFormat:
    """The layout, and when conversations begin.

    Attributes:
        every_s: from the beginning of one to that of the next, >= 0.
    """

    every_s: float = EVERY_S


def weka_format(every_s: str = str(EVERY_S)) -> WekaFormat:
    """The layout with conversations that begin so many seconds one after another.

    Args:
        every_s: a number as text, >= 0.

    Raises:
        ValueError: it is none.
    """
    try:
        return WekaFormat(read_number(every_s, "every_s"))
    except RowError as error:
        raise ValueError(str(error)) from None


class Call(NamedTuple):
    """One call of an agent.

    Attributes:
        prompt_tokens: `in`.
        output_tokens: `out`.
        think_ms: from the answer before to the call.
        hashes: of the whole blocks of the prompt.
    """

    prompt_tokens: int
    output_tokens: int
    think_ms: float
    hashes: list[int]


class Conversation(NamedTuple):
    """One trace.

    Attributes:
        calls: in order.
        block_tokens: tokens in a hashed block.
        left_out: calls without an answer.
    """

    calls: list[Call]
    block_tokens: int
    left_out: int


def documents(file: TextIO) -> Iterator[tuple[int, str]]:
    """The conversations of a file as text, with the line that each begins in: one a line, or one in the whole file.

    Args:
        file: at its start.
    """
    lines = ((number, line) for number, line in enumerate(file, 1) if not line.isspace())
    first = next(lines, None)
    if first is not None and not _is_whole(first[1]):
        rest = list(lines)
        text = "".join(line for _, line in (first, *rest))
        yield from [(first[0], text)] if _is_whole(text) else [first, *rest]
    elif first is not None:
        yield first
        yield from lines


def parse_conversation(text: str) -> Conversation:
    """One conversation.

    Args:
        text: a JSON object.

    Raises:
        RowError: it is none, a key is missing, or a value is not what it should be.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        raise RowError(f"found {text.strip()[:120]!r}; expected one whole JSON object") from None
    if not isinstance(record, dict) or not isinstance(record.get("requests"), list):
        raise RowError(f"found {text.strip()[:120]!r}; expected a JSON object with a list 'requests'")
    block_tokens = read_tokens(_text(record, "block_size"), "block_size")
    calls: list[Call] = []
    left_out, ended_s = 0, 0.0
    for entry, since_s in _in_order(record["requests"]):
        began_s = since_s + read_number(_text(entry, "t"), "t")
        if entry.get("out") == 0:
            left_out += 1
            continue
        prompt_tokens = read_tokens(_text(entry, "in"), "in")
        think_s = _seconds(entry, "think_time")
        calls.append(
            Call(
                prompt_tokens,
                read_tokens(_text(entry, "out"), "out"),
                1000.0 * (max(began_s - ended_s, 0.0) if think_s is None else think_s),
                read_hashes(entry.get("hash_ids", []))[: prompt_tokens // block_tokens],
            )
        )
        ended_s = began_s + (_seconds(entry, "api_time") or 0.0)
    return Conversation(calls, block_tokens, left_out)


def put_side_by_side(conversations: Sequence[Conversation], every_s: float) -> RequestTable:
    """Conversations as requests.

    Args:
        conversations: at least one call, all with blocks of one size.
        every_s: from the beginning of one to that of the next, >= 0.

    Raises:
        ValueError: blocks of several sizes.
    """
    sizes = {conversation.block_tokens for conversation in conversations}
    if len(sizes) > 1:
        raise ValueError(f"block_size is {' and '.join(map(str, sorted(sizes)))}; one file has blocks of one size")
    sessions: list[int] = []
    begun_ms: list[float] = []
    numbers: dict[tuple[int, int, int], int] = {}
    rows: list[list[int]] = []
    for k, (calls, block_tokens, _) in enumerate(conversations):
        sessions += [k] * len(calls)
        waited = np.cumsum([0.0, *(call.think_ms for call in calls[1:])])[: len(calls)]
        begun_ms += (1000.0 * every_s * k + waited).tolist()
        rows += [_numbered(k, _with_answer(calls, i, block_tokens), numbers) for i in range(len(calls))]
    calls = [call for conversation in conversations for call in conversation.calls]
    return RequestTable.from_arrays(
        begun_ms,
        [call.prompt_tokens for call in calls],
        [call.output_tokens for call in calls],
        skipped_rows=sum(conversation.left_out for conversation in conversations),
        prefixes=Prefixes.from_lists(rows, sizes.pop()),
        turns=Turns(np.array(sessions, np.int64), np.array([call.think_ms for call in calls])),
    )


def _in_order(entries: list[Any]) -> Iterator[tuple[dict[str, Any], float]]:
    """Calls, those of sub-agents at the place of their marker, and what their times count from."""
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("type") not in (*CALLS, SUBAGENT):
            raise RowError(f"found {str(entry)[:120]!r} in requests; expected an object of type n, s or subagent")
        if entry["type"] != SUBAGENT:
            yield entry, 0.0
            continue
        inner = entry.get("requests")
        if not isinstance(inner, list):
            raise RowError(f"a subagent has requests {str(inner)[:120]!r}; expected a list")
        marker_s = read_number(_text(entry, "t"), "t")
        # Some producers count the times of a sub-agent from its marker.
        first_s = next((call["t"] for call in inner if isinstance(call, dict) and "t" in call), marker_s)
        counts_from_s = marker_s if isinstance(first_s, int | float) and first_s < marker_s else 0.0
        for call in inner:
            if not isinstance(call, dict) or call.get("type") not in CALLS:
                raise RowError(f"found {str(call)[:120]!r} in a subagent; expected an object of type n or s")
            yield call, counts_from_s


def _with_answer(calls: list[Call], i: int, block_tokens: int) -> list[int]:
    """Hashes of a call's blocks, those of its answer among them where a later prompt goes on from it."""
    call, n = calls[i], len(calls[i].hashes)
    for later in calls[i + 1 :] if n else ():
        if len(later.hashes) > n and later.hashes[n - 1] == call.hashes[-1] and later.hashes[:n] == call.hashes:
            return later.hashes[: (call.prompt_tokens + call.output_tokens) // block_tokens]
    return call.hashes


def _numbered(conversation: int, hashes: list[int], numbers: dict[tuple[int, int, int], int]) -> list[int]:
    """Numbers that stand for a block and all before it: some producers repeat a block's hash behind others."""
    row, before = [], -1
    for value in hashes:
        before = numbers.setdefault((conversation, before, value), len(numbers))
        row.append(before)
    return row


def _is_whole(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _seconds(record: dict[str, Any], key: str) -> float | None:
    return None if record.get(key) is None else read_number(_text(record, key), key)


def _text(record: dict[str, Any], key: str) -> str:
    if key not in record:
        raise RowError(f"found keys {', '.join(record)[:120]!r}; expected {key!r} among them")
    value = record[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError(f"{key} is {str(value)[:120]!r}; expected a number")
    return repr(value)
