"""The discipline of vision-language batches: queues by (priority, largest image), who is next by how others wait.

A high-priority request that has waited 80 ms goes before anything else. Otherwise the queue goes first that has the
highest length x weight / (1 + mean wait in ms), and what it leaves of a step goes to the next; within a queue, first
come first served. Weights are in inverse proportion to the deadlines 100, 500 and 2000 ms of the three priorities.
Compiled, unchecked.

The rule divides by the wait, so a queue that nobody joins any more falls behind ever further until it is alone.

Source: batching document for vision-language models.
"""

from __future__ import annotations

from batchpilot.core.limits import URGENT_WAIT_MS, VISION_DEADLINES_MS
from batchpilot.engines.scheduler.images import largest_size
from batchpilot.engines.scheduler.queue import put_in_order
from batchpilot.engines.scheduler.state import IMAGE_ROWS, SchedulerState
from batchpilot.latency.model.compiled import kernel

_STRIDE_MS = 1e12

_CLASSES = IMAGE_ROWS // len(VISION_DEADLINES_MS)
"""No image, or one of three sizes."""


@kernel
def queue_of(s: SchedulerState, r: int) -> int:
    """The queue that a request waits in."""
    queue: int = s.requests[r].priority * _CLASSES
    if s.clock[0].images:
        queue += largest_size(s, r) + 1
    return queue


@kernel
def score_queues(s: SchedulerState) -> None:
    """Note how long each queue is and what it scores."""
    c = s.clock[0]
    for q in range(IMAGE_ROWS):
        s.images[q].length = 0
        s.images[q].score = 0.0
    for k in range(c.n_queue):
        r = s.lines[k].waiting
        q = queue_of(s, r)
        s.images[q].length += 1
        s.images[q].score += s.requests[r].arrival_ms
    for q in range(IMAGE_ROWS):
        length = s.images[q].length
        if length > 0:
            mean_wait_ms = c.now_ms - s.images[q].score / length
            s.images[q].score = length / VISION_DEADLINES_MS[q // _CLASSES] / (1.0 + mean_wait_ms)


@kernel
def rank_queues(s: SchedulerState) -> None:
    """Note how many queues go before each."""
    for q in range(IMAGE_ROWS):
        s.images[q].rank = 0
        for other in range(IMAGE_ROWS):
            more = s.images[other].score > s.images[q].score
            if more or (other < q and s.images[other].score == s.images[q].score):
                s.images[q].rank += 1


@kernel
def line_up(s: SchedulerState) -> None:
    """Put those that wait in the order in which they go now."""
    c = s.clock[0]
    if c.n_queue < 2:
        return
    score_queues(s)
    rank_queues(s)
    for k in range(c.n_queue):
        r = s.lines[k].waiting
        arrival_ms = s.requests[r].arrival_ms
        if s.requests[r].priority == 0 and c.now_ms - arrival_ms >= URGENT_WAIT_MS:
            s.requests[r].key = arrival_ms - _STRIDE_MS
        else:
            s.requests[r].key = s.images[queue_of(s, r)].rank * _STRIDE_MS + arrival_ms
    put_in_order(s)
