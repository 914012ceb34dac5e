"""Reading a trace file of any known format into a request table."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.names import lookup
from batchpilot.core.slo import SLO, SLO_CLASSES
from batchpilot.workloads.images import Images
from batchpilot.workloads.prefixes import Prefixes
from batchpilot.workloads.readers.azure import AZURE
from batchpilot.workloads.readers.base import TIME_UNITS, HeaderError, RowError, TraceError, TraceFormat, TraceRow
from batchpilot.workloads.readers.burstgpt import BURSTGPT
from batchpilot.workloads.readers.generic import csv_format
from batchpilot.workloads.readers.mooncake import MOONCAKE
from batchpilot.workloads.readers.text import BROKEN, open_text
from batchpilot.workloads.readers.vidur import VIDUR
from batchpilot.workloads.readers.weka import WekaFormat, documents, parse_conversation, put_side_by_side, weka_format
from batchpilot.workloads.table import RequestTable

READERS: dict[str, Callable[..., TraceFormat | WekaFormat]] = {
    "azure2023": lambda: AZURE,
    "azure2024": lambda: AZURE,
    "burstgpt": lambda: BURSTGPT,
    "mooncake": lambda: MOONCAKE,
    "vidur": lambda: VIDUR,
    "weka": weka_format,
    "csv": csv_format,
}
"""Formats by name; `csv` and `weka` take options."""


def read_trace(
    path: str | Path,
    format: str,
    *,
    rate: float = 1.0,
    start_s: float = 0.0,
    duration_s: float | None = None,
    loop_s: float | None = None,
    slo: SLO = SLO_CLASSES["interactive"],
    skip_bad_rows: bool = False,
    max_requests: int | None = None,
    **options: str,
) -> RequestTable:
    """Requests of a trace file, times counted from its first arrival.

    The window is cut first, in the trace's own time; then the rate is scaled, the result looped, and at last cut to
    `max_requests`. Rows out of order are sorted; blank lines, a byte order mark, extra columns and gzip are accepted.

    Args:
        path: the file, plain or compressed by gzip.
        format: one of `READERS`.
        rate: how many times as fast the requests arrive, > 0.
        start_s: where the window starts, seconds after the first arrival, >= 0.
        duration_s: length of the window, > 0; None for all the rest.
        loop_s: repeat the requests end to end to fill this long, > 0, after scaling; None to replay them once.
        slo: what every request was promised.
        skip_bad_rows: count malformed rows in `skipped_rows` instead of refusing the file.
        max_requests: keep the first so many, >= 1; None for all.
        **options: of format csv: `arrival_column`, `prompt_column`, `output_column`, `time_unit` (see `csv_format`);
            of format weka: `every_s`, from the beginning of one conversation to that of the next.

    Returns:
        An open-loop table, but for turns of conversations, which wait for their answers; `skipped_rows` counts the rows
        of the whole file that were left out.

    Raises:
        TraceError: a malformed row, a wrong header, or no request at all; the message names file, line, what was found
            and what is expected.
        ValueError: an unknown format or option, or an argument outside its bound.
        OSError: the file cannot be opened.
    """
    if start_s < 0:
        raise ValueError(f"start_s is {start_s}; it must be >= 0")
    if max_requests is not None and max_requests < 1:
        raise ValueError(f"max_requests is {max_requests}; it must be >= 1, or None for all")
    reader = lookup(READERS, format, "trace format")
    try:
        layout = reader(**options)
    except TypeError:
        allowed = (
            "arrival_column, prompt_column, output_column, image_size_column, image_id_column and time_unit with "
            "format csv, every_s with weka"
        )
        raise ValueError(f"format {format} does not take {', '.join(options)}; options are {allowed}") from None
    if isinstance(layout, WekaFormat):
        table = _read_conversations(Path(path), layout, skip_bad_rows).with_slos(slo)
    else:
        table = _read_rows(Path(path), layout, skip_bad_rows).with_slos(slo)
    if start_s > 0 or duration_s is not None:
        end_s = np.inf if duration_s is None else start_s + duration_s
        window = table.window(start_s * 1000.0, end_s * 1000.0)
        if len(window) == 0:
            raise TraceError(
                f"{path}: no request from {start_s:g} to {end_s:g} s; the trace lasts {table.duration_ms / 1000:g} s"
            )
        table = window
    table = table.scale_rate(rate)
    if loop_s is not None:
        if len(table) > 1 and table.duration_ms == 0:
            raise TraceError(f"{path}: all {len(table)} requests arrive at one moment; such a trace cannot be looped")
        table = table.loop(loop_s * 1000.0)
    return table.select(slice(max_requests))


def _read_rows(path: Path, layout: TraceFormat, skip_bad_rows: bool) -> RequestTable:
    times, prompts, outputs = array("d"), array("q"), array("q")
    hashes, starts = array("q"), array("q", [0])
    sides, numbers, shown, names = array("q"), array("q"), array("q"), dict[str, int]()
    skipped = 0
    for row in _rows(path, layout, skip_bad_rows):
        if row is None:
            skipped += 1
            continue
        times.append(row.time)
        prompts.append(row.prompt_tokens)
        outputs.append(row.output_tokens)
        hashes.extend(row.block_hashes)
        starts.append(len(hashes))
        shown.append(len(row.sides_px))
        for side, name in zip(row.sides_px, row.images, strict=True):
            sides.append(side)
            # One without a name gets a number that no name has.
            numbers.append(names.setdefault(name, len(names)) if name else -len(sides))
    if not times:
        left_out = f" ({skipped} rows left out)" if skipped else ""
        raise TraceError(f"{path}, line {layout.header_lines + 1}: found no request{left_out}; expected at least one")
    multiple, divisor = TIME_UNITS[layout.time_unit]
    arrival = np.frombuffer(times) - min(times)
    return RequestTable.from_arrays(
        arrival * multiple / divisor,
        np.frombuffer(prompts, dtype=np.int64),
        np.frombuffer(outputs, dtype=np.int64),
        skipped_rows=skipped,
        prefixes=_prefixes(path, hashes, starts, layout.block_tokens) if hashes else None,
        images=_images(*(np.frombuffer(column, np.int64) for column in (sides, numbers, shown)))
        if any(sides)
        else None,
    )


def _images(sides: NDArray[np.int64], numbers: NDArray[np.int64], shown: NDArray[np.int64]) -> Images:
    """Images of rows that have so many each, put end to end."""
    places = np.arange(int(shown.max())) < shown.reshape(-1, 1)
    columns = np.zeros((2, *places.shape), np.int64)
    columns[:, places] = sides, numbers
    return Images.from_arrays(*columns)


def _read_conversations(path: Path, layout: WekaFormat, skip_bad_rows: bool) -> RequestTable:
    conversations, skipped = [], 0
    with open_text(path) as file:
        try:
            for number, text in documents(file):
                try:
                    conversations.append(parse_conversation(text))
                except RowError as error:
                    if not skip_bad_rows:
                        raise TraceError(f"{path}, line {number}: {error}") from None
                    skipped += 1
        except BROKEN as error:
            raise TraceError(f"{path}: found broken gzip data ({error}); expected a whole file") from None
    if not any(conversation.calls for conversation in conversations):
        raise TraceError(f"{path}, line 1: found no call; expected at least one")
    try:
        table = put_side_by_side(conversations, layout.every_s)
    except ValueError as error:
        raise TraceError(f"{path}: {error}") from None
    return replace(table, skipped_rows=table.skipped_rows + skipped)


def _prefixes(path: Path, hashes: array[int], starts: array[int], block_tokens: int) -> Prefixes:
    try:
        return Prefixes(np.frombuffer(hashes, np.int64), np.frombuffer(starts, np.int64), block_tokens)
    except ValueError as error:
        raise TraceError(f"{path}: {error}") from None


def _rows(path: Path, layout: TraceFormat, skip_bad_rows: bool) -> Iterator[TraceRow | None]:
    """The rows of a file, None for each that is left out; every error names file and line."""
    number = 0

    def counted(file: TextIO) -> Iterator[str]:
        nonlocal number
        for line in file:
            number += 1
            if not line.isspace():
                yield line

    with open_text(path) as file:
        lines = counted(file)
        try:
            parse = layout.start(lines)
            for line in lines:
                try:
                    yield parse(line)
                except RowError as error:
                    if not skip_bad_rows:
                        raise TraceError(f"{path}, line {number}: {error}") from None
                    yield None
        except HeaderError as error:
            raise TraceError(f"{path}, line {max(number, 1)}: {error}") from None
        except BROKEN as error:
            found = f"found broken gzip data ({error}); expected a whole file"
            raise TraceError(f"{path}, after line {number}: {found}") from None
