"""What an engine holds at a moment, as metrics and pages show it."""

from typing import NamedTuple


class Gauges(NamedTuple):
    """What an engine holds at a moment.

    Attributes:
        running: requests in the batch.
        waiting: requests in the queue.
        queued_tokens: their prompt tokens.
        kv_used_fraction: KV blocks in use.
    """

    running: int
    waiting: int
    queued_tokens: int
    kv_used_fraction: float
