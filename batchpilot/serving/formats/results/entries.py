"""Values of a result file and where they stand in it, so that a wrong one is told with its place and what may be there.

Numbers are finite. NaN, as tools write what they do not know, is like null.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Collection, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

from batchpilot.workloads.readers.base import MAX_TOKENS


@dataclass(frozen=True, slots=True)
class Entry:
    """A value as it was parsed.

    Attributes:
        value: of any kind.
        place: its path from the beginning of the file, or of its line: `benchmarks[0].metrics`, `line 4: metadata`.
        lines: where it is a list of values that each have a line of their own, the lines' numbers.
    """

    value: Any
    place: str = ""
    lines: Sequence[int] = ()

    def __getitem__(self, key: str) -> Entry:
        """A member that must be there, be it null; raises ValueError where it is not."""
        if not self.has(key):
            raise ValueError(f"{self._within(key)} is missing")
        return Entry(self.value[key], self._within(key))

    def get(self, key: str) -> Entry:
        """A member, null where there is none.

        Args:
            key: its name.

        Raises:
            ValueError: this is no object and not null.
        """
        return Entry(self.value[key] if self.has(key) else None, self._within(key))

    def has(self, key: str) -> bool:
        """Whether there is a member of a name.

        Args:
            key: the name.

        Raises:
            ValueError: this is no object and not null.
        """
        return key in self.names()

    def names(self) -> Collection[str]:
        """The members' names, none where this is null.

        Raises:
            ValueError: this is no object and not null.
        """
        if self.value is None:
            return ()
        if not isinstance(self.value, Mapping):
            raise self.wrong("an object of values by name")
        return self.value.keys()

    def entries(self) -> list[Entry]:
        """What is in a list, nothing where this is null.

        Raises:
            ValueError: this is no list and not null.
        """
        return [Entry(value, self._at(number)) for number, value in enumerate(self._values())]

    def text(self) -> str:
        """As text, empty for null."""
        return "" if self.value is None else str(self.value)

    def choice(self, allowed: Collection[str]) -> str:
        """One of some words.

        Args:
            allowed: the words.

        Raises:
            ValueError: it is none of them.
        """
        if not isinstance(self.value, str) or self.value not in allowed:
            raise self.wrong(f"one of {', '.join(allowed)}")
        return self.value

    def number(self, least: float = -math.inf) -> float:
        """A number, NaN for null.

        Args:
            least: the least that it may be.

        Raises:
            ValueError: it is no number, or below that.
        """
        number = _number(self.value, least)
        if number is None:
            raise self.wrong(f"{_numbers(least)}, or null for unknown")
        return number

    def needed(self, least: float = -math.inf) -> float:
        """A number that must be known.

        Args:
            least: the least that it may be.

        Raises:
            ValueError: it is no number, null or below that.
        """
        number = _number(self.value, least)
        if number is None or math.isnan(number):
            raise self.wrong(_numbers(least))
        return number

    def count(self) -> int:
        """A number of tokens, 0 for null.

        Raises:
            ValueError: it is no whole number from 0 to the most tokens that a request has.
        """
        return _count(self)

    def numbers(self, least: float = -math.inf, *, unknown: bool = False) -> list[float]:
        """A list of numbers, empty for null.

        Args:
            least: the least that each may be.
            unknown: whether each may be null, which becomes NaN.

        Raises:
            ValueError: one is wrong.
        """
        found: list[float] = []
        for place, value in enumerate(self._values()):
            number = _number(value, least)
            if number is None or (math.isnan(number) and not unknown):
                expected = f"{_numbers(least)}, or null for unknown" if unknown else _numbers(least)
                raise Entry(value, self._at(place)).wrong(expected)
            found.append(number)
        return found

    def counts(self) -> list[int]:
        """A list of numbers of tokens, each 0 for null; empty for null.

        Raises:
            ValueError: one is wrong.
        """
        return [_count(entry) for entry in self.entries()]

    def wrong(self, expected: str) -> ValueError:
        """What to raise.

        Args:
            expected: what may stand here.
        """
        place = self.place.removesuffix(": ") or "the whole"
        given = "null" if self.value is None else reprlib.repr(self.value)
        return ValueError(f"{place} is {given}; expected {expected}")

    def _values(self) -> Sequence[Any]:
        if self.value is None:
            return ()
        if not isinstance(self.value, list):
            raise self.wrong("a list")
        return self.value

    def _within(self, key: str) -> str:
        return f"{self.place}{key}" if self.place.endswith(": ") or not self.place else f"{self.place}.{key}"

    def _at(self, number: int) -> str:
        return f"line {self.lines[number]}: " if self.lines else f"{self.place}[{number}]"


def same_lengths(columns: Mapping[str, Sized]) -> None:
    """Refuse columns of which one has another length than the first.

    Args:
        columns: by name.

    Raises:
        ValueError: the lengths differ; the message names both.
    """
    first, *others = columns
    for name in others:
        if len(columns[name]) != len(columns[first]):
            told = f"{name} has {len(columns[name])} entries, {first} {len(columns[first])}"
            raise ValueError(f"{told}; each request has one of each")


def _count(entry: Entry) -> int:
    number = _number(entry.value, 0.0)
    if number is not None and math.isnan(number):
        return 0
    if number is None or number > MAX_TOKENS or number != int(number):
        raise entry.wrong(f"a whole number of tokens from 0 to {MAX_TOKENS}, or null for unknown")
    return int(number)


def _number(value: Any, least: float) -> float | None:
    """A value as a number, NaN for unknown, None for what is wrong."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return None if number < least or math.isinf(number) else number


def _numbers(least: float) -> str:
    return "a number" if math.isinf(least) else f"a number of at least {least:g}"
