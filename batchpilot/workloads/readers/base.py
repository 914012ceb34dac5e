"""What every trace format answers, and the errors of a trace that is not what it should be."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from batchpilot.core.image_sizes import MOST_IMAGES, SIDES_PX

MAX_TOKENS = 2**31 - 1
"""A longer request is a mistake in the file, not a request."""

MAX_NUMBER = 1e20
"""A larger number is no time either, and its conversion to ms must stay finite."""

TIME_UNITS: dict[str, tuple[int, int]] = {
    "s": (1000, 1),
    "ms": (1, 1),
    "us": (1, 1000),
    "ns": (1, 1_000_000),
    "100ns": (1, 10_000),
}
"""One unit of time in ms, as a fraction."""


class TraceError(ValueError):
    """A trace file that cannot be read as its format; the message names file, line, what was found and expected."""


class RowError(ValueError):
    """One row that does not follow the format; the message says what was found and what is expected."""


class HeaderError(ValueError):
    """The first line is not the format's header; nothing below it can be trusted."""


class TraceRow(NamedTuple):
    """One request of a trace.

    Attributes:
        time: arrival, in the format's unit, from any origin.
        prompt_tokens: prompt length, >= 1.
        output_tokens: generated length, >= 1.
        sides_px: sides of its images, 0 for none.
        images: which ones those are, as many; empty for one that nobody else has.
        block_hashes: of the whole blocks that the prompt begins with (see `workloads.prefixes`), if the format has any.
    """

    time: float
    prompt_tokens: int
    output_tokens: int
    block_hashes: Sequence[int] = ()
    sides_px: Sequence[int] = (0,)
    images: Sequence[str] = ("",)


RowParser = Callable[[str], TraceRow | None]
"""Reads one line: a row, None for a request that the format itself marks as failed, or a `RowError`."""


class TraceFormat(ABC):
    """How one kind of trace file is written.

    - `start(lines)` consumes the header, if the format has one, and returns the parser of the lines below it.

    Attributes:
        time_unit: the unit of `TraceRow.time`, a key of `TIME_UNITS`.
        header_lines: how many lines `start` consumes.
        block_tokens: tokens in a hashed block, 0 for a format without block hashes.
    """

    time_unit: str
    header_lines: int
    block_tokens: int = 0

    @abstractmethod
    def start(self, lines: Iterator[str]) -> RowParser:
        """Begin a file.

        Args:
            lines: the file's lines from the first; a header is taken off.

        Returns:
            The parser of the remaining lines.

        Raises:
            HeaderError: the header is missing or lacks a column.
        """


def read_tokens(text: str, column: str) -> int:
    """A token count.

    Args:
        text: as it stands in the file; "374" and "374.0" are the same.
        column: its name, for the message.

    Raises:
        RowError: not a whole number from 1 to `MAX_TOKENS`.
    """
    tokens = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else read_number(text, column)
    if not (1 <= tokens <= MAX_TOKENS and tokens == int(tokens)):
        raise RowError(f"{column} is {text[:120]!r}; expected a whole number of tokens, at least 1")
    return int(tokens)


def read_sides(text: str, column: str) -> tuple[int, ...]:
    """The sides of images in pixels, 0 for none.

    Args:
        text: as it stands in the file, several between semicolons; nothing, or 0, is no image.
        column: its name, for the message.

    Raises:
        RowError: one is none of `SIDES_PX`, or there are more than `MOST_IMAGES`.
    """
    sides = {"": 0, "0": 0, **{str(side): side for side in SIDES_PX}}
    parts = [part.strip() for part in text.split(";")]
    for part in parts:
        if part not in sides:
            known = ", ".join(map(str, SIDES_PX))
            raise RowError(f"{column} is {part[:120]!r}; expected {known}, several between semicolons, or nothing")
    if len(parts) > 1 and not all(sides[part] for part in parts):
        raise RowError(f"{column} is {text[:120]!r}; expected a size of each image between semicolons")
    if len(parts) > MOST_IMAGES:
        raise RowError(f"{column} holds {len(parts)} images; expected at most {MOST_IMAGES}")
    return tuple(sides[part] for part in parts)


def read_number(text: str, column: str) -> float:
    """A number from 0 to `MAX_NUMBER`.

    Args:
        text: as it stands in the file.
        column: its name, for the message.

    Raises:
        RowError: not a number, or outside the bounds.
    """
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not 0 <= value <= MAX_NUMBER:
        raise RowError(f"{column} is {text[:120]!r}; expected a number, at least 0")
    return value
