"""Azure LLM inference traces of 2023 and 2024: `TIMESTAMP,ContextTokens,GeneratedTokens`.

Timestamps are dates in UTC with up to 7 fractional digits (100 ns); those of 2024 carry an offset as well. A row with 0
generated tokens is malformed: these traces hold served requests only.

Source: github.com/Azure/AzurePublicDataset, CC-BY 4.0 (Patel et al., ISCA 2024; Stojkovic et al., HPCA 2025).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from batchpilot.workloads.readers.base import RowError
from batchpilot.workloads.readers.delimited import DelimitedFormat

TIMESTAMP_UNIT = "100ns"
"""Of `read_timestamp`, a key of `TIME_UNITS`."""

_DATE = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}.[0-9]{2}:[0-9]{2}:[0-9]{2})(?:[.,]([0-9]+))?"
    r" ?([+-][0-9]{2}(?::?[0-9]{2}(?::?[0-9]{2})?)?|Z|UTC|GMT)?",
    re.IGNORECASE,
)
_ORIGIN = datetime(2020, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)


def read_timestamp(text: str, column: str) -> int:
    """A date and time as steps of 100 ns, which a float holds exactly within 28 years of the origin.

    Args:
        text: such as "2023-11-16 18:15:46.6805900" or "2024-05-10 00:00:00.009930+00:00"; an offset may also be written
            +00, +0000, Z or UTC, as databases do.
        column: its name, for the message.

    Returns:
        Whole steps of 100 ns since the year 2020 began.

    Raises:
        RowError: not a date with a time of day.
    """
    found = _DATE.fullmatch(text)
    try:
        if found is None:
            raise ValueError(text)
        whole, digits, offset = found.groups(default="")
        moment = datetime.fromisoformat(whole + (offset if offset[:1] in ("+", "-") else ""))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        steps = (moment - _ORIGIN) // _SECOND * 10_000_000 + int(digits[:7].ljust(7, "0"))
    except (ValueError, OverflowError):
        raise RowError(f"{column} is {text[:120]!r}; expected a date such as 2023-11-16 18:15:46.6805900") from None
    return steps


AZURE = DelimitedFormat(
    "TIMESTAMP", "ContextTokens", "GeneratedTokens", time_unit=TIMESTAMP_UNIT, read_time=read_timestamp
)
"""The layout that both years share."""
