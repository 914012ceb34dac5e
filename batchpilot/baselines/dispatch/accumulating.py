"""The constant that the source documents set out to replace: batches of 8, gathered for at most 50 ms."""

from __future__ import annotations

from batchpilot.baselines.static import StaticTuner
from batchpilot.core import Limits

MIN_BATCH_SIZE_FOR_ACCUMULATION = 8
MAX_WAIT_MS = 50.0


def accumulating(base: Limits | None = None) -> StaticTuner:
    """A static tuner that gathers up to 8 requests for at most 50 ms; the wait matters to static batching only.

    Args:
        base: the limits whose other fields are kept; None for none.

    Source: dynamic batch tuner document, problem statement (SPEC 1).
    """
    base = base or Limits(batch_size=MIN_BATCH_SIZE_FOR_ACCUMULATION)
    limits = base.replace(batch_size=MIN_BATCH_SIZE_FOR_ACCUMULATION, max_wait_ms=MAX_WAIT_MS)
    return StaticTuner(limits, "static-accumulate")
