"""Any CSV file with named columns of arrival times, prompt lengths and generated lengths."""

from __future__ import annotations

from batchpilot.core.names import lookup
from batchpilot.workloads.readers.base import TIME_UNITS
from batchpilot.workloads.readers.delimited import DelimitedFormat


def csv_format(
    arrival_column: str = "arrival_ms",
    prompt_column: str = "prompt_tokens",
    output_column: str = "output_tokens",
    time_unit: str = "ms",
) -> DelimitedFormat:
    """A format from the names of its columns.

    Args:
        arrival_column: arrival times, numbers >= 0.
        prompt_column: prompt lengths.
        output_column: generated lengths.
        time_unit: unit of the arrival times, one of `TIME_UNITS`.

    Raises:
        ValueError: an unknown unit; the message names the closest one.
    """
    lookup(TIME_UNITS, time_unit, "time unit")
    return DelimitedFormat(arrival_column, prompt_column, output_column, time_unit=time_unit)
