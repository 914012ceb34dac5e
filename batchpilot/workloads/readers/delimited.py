"""Traces of separated values: columns found by name, one request a line."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator

from batchpilot.core.image_sizes import image_tokens
from batchpilot.core.names import closest
from batchpilot.core.separators import COMMA, separator_of
from batchpilot.workloads.readers.base import (
    HeaderError,
    RowError,
    RowParser,
    TraceFormat,
    TraceRow,
    read_number,
    read_sides,
    read_tokens,
)


class DelimitedFormat(TraceFormat):
    """A CSV file with a header line; between fields are commas, or semicolons or tabs where the header has no comma.

    Lines are taken one by one, not through one long CSV stream: so a stray quote spoils its own line only, and line
    numbers are the editor's.

    Args:
        arrival_column: name of the column of arrival times.
        prompt_column: name of the column of prompt lengths.
        output_column: name of the column of generated lengths.
        time_unit: unit of the arrival times as `read_time` returns them.
        read_time: reads an arrival time given its text and its column's name; by default a number >= 0.
        failed_without_output: a request with 0 generated tokens is a failed one, not a malformed row.
        image_columns: names of the columns of image sides and of which images they are; a file need not have them.
    """

    def __init__(
        self,
        arrival_column: str,
        prompt_column: str,
        output_column: str,
        *,
        time_unit: str,
        read_time: Callable[[str, str], float] = read_number,
        failed_without_output: bool = False,
        image_columns: tuple[str, str] | None = None,
    ) -> None:
        self.header_lines = 1
        self.columns = (arrival_column.strip(), prompt_column.strip(), output_column.strip())
        self.time_unit = time_unit
        self.read_time = read_time
        self.failed_without_output = failed_without_output
        self.image_columns = image_columns

    def start(self, lines: Iterator[str]) -> RowParser:
        """See `TraceFormat`."""
        first = next(lines, "")
        separator = separator_of(first)
        header = self._header(first, separator)
        for name in self.columns:
            if header.count(name) > 1:
                raise HeaderError(f"found {header.count(name)} columns {name!r}; expected one of that name")
            if name not in header:
                near = closest(name, header)
                hint = f"; closest is {near[0]!r}" if near else ""
                raise HeaderError(
                    f"found columns {', '.join(header)[:200]!r}{hint}; expected {', '.join(self.columns)} in the header"
                )
        arrival_column, prompt_column, output_column = self.columns
        arrival, prompt, output = (header.index(name) for name in self.columns)
        size_column, id_column = self.image_columns or ("", "")
        side, image = (header.index(name) if name in header else None for name in (size_column, id_column))

        def parse(line: str) -> TraceRow | None:
            fields = split_fields(line, separator)
            if len(fields) != len(header):
                extra = fields[len(header) :]
                if len(fields) < len(header) or any(field.strip() for field in extra):
                    raise RowError(f"found {len(fields)} fields in {line.strip()[:120]!r}; expected {len(header)}")
            if self.failed_without_output and read_number(fields[output].strip(), output_column) == 0:
                return None
            row = TraceRow(
                self.read_time(fields[arrival].strip(), arrival_column),
                read_tokens(fields[prompt].strip(), prompt_column),
                read_tokens(fields[output].strip(), output_column),
            )
            if side is None:
                return row
            sides = read_sides(fields[side].strip(), size_column)
            names = tuple("" for _ in sides) if image is None else _names(fields[image], len(sides), id_column)
            if row.prompt_tokens < (tokens := int(image_tokens(sides).sum())):
                shown = " and ".join(f"{px} px" for px in sides)
                raise RowError(
                    f"{prompt_column} is {row.prompt_tokens}; expected at least the {tokens} tokens of its image of "
                    f"{shown}, which it counts"
                )
            return row._replace(sides_px=sides, images=names)

        return parse

    def _header(self, first: str, separator: str) -> list[str]:
        if not first.strip():
            raise HeaderError(f"found no header; expected {', '.join(self.columns)}")
        try:
            return [name.strip() for name in split_fields(first, separator)]
        except RowError as error:
            raise HeaderError(str(error)) from None


def split_fields(line: str, separator: str = COMMA) -> list[str]:
    """The fields of one line.

    Args:
        line: with or without its line end.
        separator: between fields, one sign.

    Raises:
        RowError: quotes that do not close.
    """
    line = line.rstrip("\r\n")
    if '"' not in line:
        return line.split(separator)
    # Strict, so that a quote that does not close is found; but it takes no blank after one that does.
    tidy = re.sub(rf'"[ \t]+?(?={separator}|$)', '"', line)
    try:
        return next(csv.reader([tidy], delimiter=separator, skipinitialspace=True, strict=True))
    except (csv.Error, StopIteration):
        raise RowError(f"found {line[:120]!r}; expected quotes that close on their line") from None


def _names(text: str, count: int, column: str) -> tuple[str, ...]:
    """Which images those of a row are: one by the whole text, several between semicolons."""
    names = (
        [text.strip()] if count == 1 else [name.strip() for name in text.split(";")] if text.strip() else [""] * count
    )
    if len(names) != count:
        raise RowError(f"{column} is {text.strip()[:120]!r}; expected as many between semicolons as sizes, {count}")
    return tuple(names)
