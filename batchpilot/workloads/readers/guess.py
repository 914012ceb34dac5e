"""What a trace file is, by its first lines: a published format, or columns under names that people give them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from batchpilot.core.names import lookup
from batchpilot.core.separators import separator_of
from batchpilot.workloads.readers.azure import AZURE, read_timestamp
from batchpilot.workloads.readers.base import RowError, TraceError, read_number
from batchpilot.workloads.readers.burstgpt import BURSTGPT
from batchpilot.workloads.readers.delimited import split_fields
from batchpilot.workloads.readers.generic import DATE
from batchpilot.workloads.readers.text import BROKEN, open_text
from batchpilot.workloads.readers.vidur import VIDUR

ROLES = ("arrival", "prompt", "output")
KEYS = (*ROLES, "unit")
"""What `columns` may say."""

_PUBLISHED = {"azure2023": AZURE, "burstgpt": BURSTGPT, "vidur": VIDUR}

_NAMES = {
    "arrival": "arrival arrivaltime arrivedat arrivalat timestamp time ts start starttime startedat startat "
    "requesttime requestedat receivedat receivetime senttime sentat sendtime createdat created submittime "
    "submittedat datetime date arrivaltimestamp requesttimestamp starttimestamp",
    "prompt": "prompttokens inputtokens inputlength inputlen promptlength promptlen contexttokens contextlength "
    "requesttokens prefilltokens numprefilltokens numprompttokens numinputtokens prompttokencount inputtokencount "
    "tokensin intokens isl prompt input promptsize inputsize",
    "output": "outputtokens outputlength outputlen completiontokens completionlength generatedtokens responsetokens "
    "responselength decodetokens numdecodetokens numoutputtokens numgeneratedtokens outputtokencount "
    "completiontokencount tokensout outtokens osl output completion response gentokens outputsize",
}
_KNOWN = {role: names.split() for role, names in _NAMES.items()}

_UNITS = {
    **dict.fromkeys(("ms", "msec", "millis", "milliseconds"), "ms"),
    **dict.fromkeys(("s", "sec", "secs", "seconds"), "s"),
    **dict.fromkeys(("us", "usec", "micros", "microseconds"), "us"),
    **dict.fromkeys(("ns", "nsec", "nanos", "nanoseconds"), "ns"),
}
_LINES = 20
"""So many are looked at."""

_EPOCHS = ((1e17, "ns"), (1e14, "us"), (1e11, "ms"))
"""A moment of our days, counted from 1970, is larger than this in that unit."""


class Guess(NamedTuple):
    """How a file is to be read.

    Attributes:
        format: one of `READERS`.
        options: of it, as `read_trace` takes them.
        why: in words, to be told to whoever did not say it.
    """

    format: str
    options: dict[str, str]
    why: str


def guess_format(path: Path, columns: Mapping[str, str] | None = None) -> Guess:
    """The format of a trace file, by its first lines.

    Args:
        path: the file, plain or compressed by gzip.
        columns: what is known: names of columns by `ROLES`, and under "unit" one of `TIME_UNITS` or "date"; the rest is
            guessed.

    Raises:
        TraceError: no format fits; the message names the columns that were found and what is missing.
        ValueError: a key of `columns` is none of `KEYS`.
        OSError: the file cannot be opened.
    """
    for key in columns or {}:
        lookup(dict.fromkeys(KEYS), key, "key of columns")
    try:
        with open_text(path) as file:
            begun = (line for line in file if not line.isspace())
            first, *lines = [line for _, line in zip(range(_LINES), begun, strict=False)] or [""]
    except BROKEN as error:
        raise TraceError(f"{path}: found broken gzip data ({error}); expected a whole file") from None
    if not columns and first.lstrip().startswith("{"):
        return _of_json(path, first)
    separator = separator_of(first)
    try:
        header = [name.strip() for name in split_fields(first, separator)]
    except RowError as error:
        raise TraceError(f"{path}, line 1: {error}") from None
    if not columns:
        for name, layout in _PUBLISHED.items():
            if set(layout.columns) <= set(header):
                return Guess(name, {}, f"read as format {name}, by its columns")
    rows: list[list[str]] = []
    for line in lines:
        with suppress(RowError):  # the reader says in which line it is
            rows.append([field.strip() for field in split_fields(line, separator)])
    return _of_columns(path, header, rows, dict(columns or {}))


def _of_json(path: Path, line: str) -> Guess:
    try:
        keys = set(json.loads(line))
    except ValueError:
        keys = set()  # a document over many lines
    if {"timestamp", "input_length", "output_length"} <= keys:
        return Guess("mooncake", {}, "read as format mooncake, by its keys")
    if not keys or {"block_size", "requests"} <= keys:
        return Guess("weka", {}, "read as format weka, JSON of conversations")
    raise TraceError(f"{path}, line 1: found keys {_some(sorted(keys))}; expected those of format mooncake or weka")


def _of_columns(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]], columns: dict[str, str]) -> Guess:
    unit = columns.pop("unit", None)
    named = columns | {role: _column(role, header) for role in ROLES if role not in columns}
    missing = [role for role, column in named.items() if not column or column not in header]
    if missing:
        asked = ",".join(f"{role}={columns.get(role, 'NAME')}" for role in ROLES)
        raise TraceError(
            f"{path}, line 1: found columns {_some(header)}; which of them is {', '.join(missing)}? "
            f"Say it by --columns {asked}"
        )
    arrival = named["arrival"]
    if unit is None:
        unit = _unit(arrival, [row[header.index(arrival)] for row in rows if len(row) >= len(header)])
    options = {f"{role}_column": named[role] for role in ROLES} | {"time_unit": unit}
    when = "dates" if unit == DATE else f"in {unit}"
    why = f"arrivals from {arrival!r} ({when}), prompts from {named['prompt']!r}, outputs from {named['output']!r}"
    return Guess("csv", options, why)


def _column(role: str, header: Sequence[str]) -> str:
    """The column that has the likeliest name for a role, "" if none has any."""
    plain = {_plain(name): name for name in reversed(header)}
    return next((plain[name] for name in _KNOWN[role] if name in plain), "")


def _plain(name: str) -> str:
    return "".join(word for word in _words(name) if word not in _UNITS)


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower())


def _unit(column: str, values: Sequence[str]) -> str:
    said = [_UNITS[word] for word in _words(column) if word in _UNITS]
    if any(map(_is_date, values)):
        return DATE
    if said:
        return said[-1]
    largest = max(map(_number, values), default=0.0)
    return next((unit for least, unit in _EPOCHS if largest > least), "s")


def _number(text: str) -> float:
    try:
        return read_number(text, "")
    except RowError:
        return 0.0


def _is_date(text: str) -> bool:
    try:
        read_timestamp(text, "")
    except RowError:
        return False
    return True


def _some(names: Iterable[str]) -> str:
    return repr(", ".join(names)[:200])
