"""Trace readers: published formats and any CSV, all into one `RequestTable`. One format a file."""

from batchpilot.workloads.readers.base import TIME_UNITS, TraceError, TraceFormat
from batchpilot.workloads.readers.guess import Guess, guess_format
from batchpilot.workloads.readers.read import READERS, read_trace

__all__ = ["read_trace", "guess_format", "Guess", "READERS", "TIME_UNITS", "TraceError", "TraceFormat"]
