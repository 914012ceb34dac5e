"""Workloads: who asks for how much, and when. All of them end in one `RequestTable`."""

from batchpilot.workloads.table import RequestTable, concatenate

__all__ = ["RequestTable", "concatenate"]
