"""Any CSV file with named columns of arrival times, prompt lengths and generated lengths; of images if it has any."""

from __future__ import annotations

from batchpilot.core.names import lookup
from batchpilot.workloads.readers.azure import TIMESTAMP_UNIT, read_timestamp
from batchpilot.workloads.readers.base import TIME_UNITS
from batchpilot.workloads.readers.delimited import DelimitedFormat

DATE = "date"
"""A time unit of `csv_format`: arrivals are dates with a time of day, as Azure's traces write them or by ISO 8601."""


def csv_format(
    arrival_column: str = "arrival_ms",
    prompt_column: str = "prompt_tokens",
    output_column: str = "output_tokens",
    image_size_column: str = "image_size",
    image_id_column: str = "image_id",
    time_unit: str = "ms",
) -> DelimitedFormat:
    """A format from the names of its columns.

    Args:
        arrival_column: arrival times, numbers >= 0 or dates.
        prompt_column: prompt lengths.
        output_column: generated lengths.
        image_size_column: side of a request's image in px, several between semicolons, nothing or 0 for none; the file
            need not have it. Prompt lengths count the tokens of images, which prompts begin with.
        image_id_column: which image it is, any text, likewise; without it, or without a text, it is one of its own.
        time_unit: unit of the arrival times, one of `TIME_UNITS`, or "date".

    Raises:
        ValueError: an unknown unit; the message names the closest one.
    """
    columns = (arrival_column, prompt_column, output_column)
    images = (image_size_column.strip(), image_id_column.strip())
    if time_unit == DATE:
        return DelimitedFormat(*columns, time_unit=TIMESTAMP_UNIT, read_time=read_timestamp, image_columns=images)
    lookup(dict.fromkeys((*TIME_UNITS, DATE)), time_unit, "time unit")
    return DelimitedFormat(*columns, time_unit=time_unit, image_columns=images)
