"""Reading measured steps from CSV files: columns by name or mapped, and the layout of Splitwise's measurements."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.names import lookup, unknown_name
from batchpilot.core.separators import separator_of
from batchpilot.latency.fitting.observations import Observations

NEEDED = ("batch_size", "tokens", "latency_ms")
LABELS = ("device", "model", "tensor_parallel")
COLUMNS = (*NEEDED, "context_tokens", *LABELS)
"""What a file may hold, under these names unless mapped; without context_tokens the context is 0."""

SPLITWISE_COLUMNS = ("batch_size", "prompt_size", "token_size", "prompt_time", "token_time")
"""The header of Splitwise's measurements; a row holds a prefill and the mean of the decode steps after it."""


@dataclass(frozen=True, slots=True)
class MeasurementFile:
    """Measured steps and what they were measured on.

    Attributes:
        observations: the steps, in the order of the file; in Splitwise's layout each row's prefill, then its decode.
        layout: "named" or "splitwise".
        labels: device, model and tensor_parallel as the file spells them, where it says.
    """

    observations: Observations
    layout: str
    labels: Mapping[str, str]


def read_measurements(
    path: str | Path, columns: Mapping[str, str] | None = None, select: Mapping[str, str] | None = None
) -> MeasurementFile:
    """Read a CSV file of measured steps.

    With the header of `SPLITWISE_COLUMNS` a row becomes two steps: the prefill of `batch_size` prompts (B = batch_size,
    S = batch_size * prompt_size, C = 0, T = prompt_time) and a decode step in the middle of the generation (B = S =
    batch_size, C = batch_size * (prompt_size + token_size / 2), T = token_time). There `hardware` is the device.

    A last line that ends before its last column, without a line end, was cut off as it was written, and is left out.

    Args:
        path: the file, UTF-8, comma-separated, with a header; blanks beside names and values do not count.
        columns: the file's name of each of `COLUMNS` that it calls otherwise.
        select: device, model or tensor_parallel of the rows to read, where the file has such a column; case, blanks,
            `-` and `_` make no difference. A column that the file lacks, or has empty, selects nothing.

    Raises:
        ValueError: a column is missing or a value is no number (the message names file, line and column), no row is
            selected, or the rows mix devices, models or tensor parallelism.
        OSError: the file cannot be read.
    """
    path, columns = Path(path), {field: name.strip() for field, name in (columns or {}).items()}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            begun = next((line for line in file if not line.isspace()), "")
            file.seek(0)
            reader = csv.reader(file, delimiter=separator_of(begun), skipinitialspace=True)
            found = ((reader.line_num, fields) for fields in reader if any(field.strip() for field in fields))
            header = [name.strip() for name in next(found, (1, []))[1]]
            numbered = list(found)
            if numbered and len(numbered[-1][1]) < len(header) and not _ends_a_line(path):
                numbered.pop()
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV file in UTF-8: {error}") from None
    splitwise = not columns and set(SPLITWISE_COLUMNS) <= set(header)
    names = _names(path, header, columns or ({"device": "hardware"} if splitwise else {}), splitwise)
    rows = [_row(path, line, header, fields) for line, fields in numbered]
    told = {label: names[label] for label in LABELS if label in names}
    told = {label: column for label, column in told.items() if any((row[column] or "").strip() for row in rows)}
    kept = _selected(path, rows, told, select or {})
    labels = {label: str(rows[kept[0]][column]).strip() for label, column in told.items()}

    def numbers(column: str) -> NDArray[np.float64]:
        return np.array([_number(path, numbered[row][0], rows[row][column], column) for row in kept])

    if splitwise:
        B, prompt, generated, prefill_ms, decode_ms = (numbers(column) for column in SPLITWISE_COLUMNS)
        prefill = Observations.of(B, B * prompt, prefill_ms)
        decode = Observations.of(B, B, decode_ms, B * (prompt + generated / 2))
        by_row = np.arange(2 * len(kept)).reshape(2, -1).T.ravel()
        return MeasurementFile(Observations.joined([prefill, decode])[by_row], "splitwise", labels)
    B, S, T = (numbers(names[field]) for field in NEEDED)
    steps = Observations.of(B, S, T, numbers(names["context_tokens"]) if "context_tokens" in names else 0.0)
    return MeasurementFile(steps, "named", labels)


def read_measurement_files(
    paths: Sequence[str | Path], columns: Mapping[str, str] | None = None, select: Mapping[str, str] | None = None
) -> MeasurementFile:
    """Read several files of steps of one device, model and tensor parallelism as one, in the order given.

    Args:
        paths: at least one file.
        columns: as of `read_measurements`, in each.
        select: likewise.

    Raises:
        ValueError: as of `read_measurements`, or the files differ in layout or labels.
        OSError: a file cannot be read.
    """
    files = [read_measurements(path, columns, select) for path in paths]
    first = files[0]
    for path, file in zip(paths, files, strict=True):
        if (file.layout, file.labels) != (first.layout, first.labels):
            raise ValueError(
                f"{path} holds {dict(file.labels) or 'no labels'} ({file.layout}), {paths[0]} "
                f"{dict(first.labels) or 'no labels'} ({first.layout}); fit them one by one"
            )
    return MeasurementFile(Observations.joined(file.observations for file in files), first.layout, first.labels)


def _ends_a_line(path: Path) -> bool:
    """Whether a file, which is not empty, ends with a line end."""
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() in (b"\n", b"\r")


def _names(path: Path, header: Sequence[str], columns: Mapping[str, str], splitwise: bool) -> dict[str, str]:
    """The file's column of each field that it has."""
    for field, column in columns.items():
        lookup(dict.fromkeys(COLUMNS), field, "field of an observation")
        if column not in header:
            raise ValueError(f"{path}: {unknown_name(column, header, 'column')}")
    names = {field: columns.get(field, field) for field in COLUMNS}
    missing = [field for field in NEEDED if names[field] not in header]
    if missing and not splitwise:
        raise ValueError(
            f"{path}: no column for {', '.join(missing)}; the header holds {', '.join(header) or 'nothing'}. "
            "Say which column is which, as in batch_size=B,tokens=S,latency_ms=T"
        )
    for column in names.values():
        if header.count(column) > 1:
            raise ValueError(f"{path}: {header.count(column)} columns are called {column!r}; expected one of that name")
    return {field: column for field, column in names.items() if column in header}


def _selected(
    path: Path, rows: Sequence[Mapping[str, str | None]], labels: Mapping[str, str], select: Mapping[str, str]
) -> list[int]:
    """The rows asked for, which must be of one device, model and tensor parallelism."""
    kept = list(range(len(rows)))
    for label, column in labels.items():
        spellings = {_plain(rows[row][column]): str(rows[row][column]).strip() for row in kept}
        if label in select:
            wanted = _plain(select[label])
            if kept and wanted not in spellings:
                raise ValueError(f"{path}: {unknown_name(select[label], spellings.values(), f'{label} in {column}')}")
            kept = [row for row in kept if _plain(rows[row][column]) == wanted]
        elif len(spellings) > 1:
            raise ValueError(
                f"{path}: rows differ in {label} ({', '.join(spellings.values())}) and so in parameters; choose one"
            )
    if not kept:
        raise ValueError(f"{path}: no measurements")
    return kept


def _plain(name: str | None) -> str:
    return re.sub(r"[\s_-]+", "", str(name)).lower()


def _row(path: Path, line: int, header: Sequence[str], fields: Sequence[str]) -> dict[str, str | None]:
    """What stands under each name, None where the line ends before."""
    if any(field.strip() for field in fields[len(header) :]):
        raise ValueError(f"{path}, line {line}: found {len(fields)} fields; expected {len(header)}")
    return {name: fields[i] if i < len(fields) else None for i, name in enumerate(header)}


def _number(path: Path, line: int, text: str | None, column: str) -> float:
    try:
        # Python reads 1_024 as a number.
        return float(text.replace("_", "?")) if text is not None and text.strip() else np.nan
    except ValueError:
        raise ValueError(f"{path}, line {line}: {column} is {text!r}; expected a number") from None
