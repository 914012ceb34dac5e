"""Workloads: who asks for how much, and when. All of them end in one `RequestTable`."""

from batchpilot.workloads.arrivals import diurnal, gamma, mmpp, poisson
from batchpilot.workloads.build import build_requests, draw_arrivals, make_lengths
from batchpilot.workloads.fitted import FITTED_LENGTHS
from batchpilot.workloads.lengths import (
    Knots,
    Lengths,
    LogNormal,
    Marginal,
    Uniform,
    estimate_outputs,
    fit_lengths,
    fixed_lengths,
)
from batchpilot.workloads.readers import READERS, TIME_UNITS, TraceError, TraceFormat, read_trace
from batchpilot.workloads.table import PRIORITIES, RequestTable, concatenate

__all__ = [
    "RequestTable",
    "concatenate",
    "PRIORITIES",
    "build_requests",
    "draw_arrivals",
    "make_lengths",
    "poisson",
    "gamma",
    "mmpp",
    "diurnal",
    "Lengths",
    "Marginal",
    "Knots",
    "LogNormal",
    "Uniform",
    "FITTED_LENGTHS",
    "fit_lengths",
    "fixed_lengths",
    "estimate_outputs",
    "read_trace",
    "READERS",
    "TIME_UNITS",
    "TraceError",
    "TraceFormat",
]
