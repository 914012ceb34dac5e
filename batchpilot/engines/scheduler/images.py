"""Images: encoded before the prompt of their request is computed, those of one size together. Compiled, unchecked.

A request whose image has to be encoded is let in like any other; the step that lets it in begins with its encoding. All
images of one size that a step has to encode go through the vision tower in passes of up to `encode_together`. Their
features are kept for whoever comes with the same image, the least recently used being dropped where there are more than
`feature_room`; an image whose KV blocks are all in the prefix cache needs no features.

Without images (`clock.images` 0) nothing here is called but `begin_encoding`, and that does nothing.
"""

from __future__ import annotations

from batchpilot.core.image_sizes import PATCHES_MORE, PATCHES_OF_SMALLEST, SIDES_PX
from batchpilot.engines.scheduler.state import NO_IMAGE, NOBODY, SchedulerState
from batchpilot.latency.model.compiled import inlined, kernel

SIZES = len(SIDES_PX)


@kernel
def image_tokens(size: int) -> int:
    """Tokens of an image of a size, a place in `SIDES_PX`: one a patch."""
    patches: int = PATCHES_OF_SMALLEST + PATCHES_MORE * size
    return patches * patches


@inlined
def begin_encoding(s: SchedulerState) -> None:
    """A step is being planned that has nothing to encode yet."""
    c = s.clock[0]
    c.plan_encode_ms = 0.0
    if c.images:
        for size in range(SIZES):
            s.images[size].planned = 0


@kernel
def is_to_encode(s: SchedulerState, r: int) -> bool:
    """Whether a request has an image of which neither the features nor all KV blocks are there."""
    image = s.images[r]
    if image.kind == NO_IMAGE or s.requests[r].computed >= image.end:
        return False
    return bool(s.images[image.number].kept == 0)


@kernel
def least_encode_ms(s: SchedulerState, r: int) -> float:
    """Time that the image of a request takes in whatever company."""
    if not is_to_encode(s, r):
        return 0.0
    return float(s.clock[0].encode_token_ms * image_tokens(s.images[r].kind))


@kernel
def lone_encode_ms(s: SchedulerState, r: int) -> float:
    """Time that it takes if it is the only one of its size."""
    return s.clock[0].encode_pass_ms + least_encode_ms(s, r) if is_to_encode(s, r) else 0.0


@kernel
def encode_ms(s: SchedulerState, r: int) -> float:
    """Time by which the step being planned gets longer for the image of a request."""
    if not is_to_encode(s, r):
        return 0.0
    c = s.clock[0]
    time = c.encode_token_ms * image_tokens(s.images[r].kind)
    if s.images[s.images[r].kind].planned % c.encode_together == 0:
        time += c.encode_pass_ms
    return float(time)


@kernel
def plan_encoding(s: SchedulerState, r: int) -> None:
    """The step being planned encodes the image of a request, if it has to be."""
    if is_to_encode(s, r):
        s.clock[0].plan_encode_ms += encode_ms(s, r)
        s.images[s.images[r].kind].planned += 1


@kernel
def drop(s: SchedulerState, number: int) -> None:
    """The features of an image leave the line of those that are kept."""
    c = s.clock[0]
    older, newer = s.images[number].older, s.images[number].newer
    if older == NOBODY:
        c.feature_first = newer
    else:
        s.images[older].newer = newer
    if newer == NOBODY:
        c.feature_last = older
    else:
        s.images[newer].older = older
    s.images[number].kept = 0
    c.n_features -= 1


@kernel
def keep(s: SchedulerState, number: int) -> None:
    """The features of an image are kept and the last to be dropped; the first to be dropped make room."""
    c = s.clock[0]
    if s.images[number].kept:
        drop(s, number)
    if c.feature_room == 0:
        return
    if c.n_features == c.feature_room:
        drop(s, c.feature_first)
    s.images[number].older = c.feature_last
    s.images[number].newer = NOBODY
    s.images[number].kept = 1
    if c.feature_last == NOBODY:
        c.feature_first = number
    else:
        s.images[c.feature_last].newer = number
    c.feature_last = number
    c.n_features += 1


@kernel
def look_at(s: SchedulerState, r: int) -> None:
    """A request is let in: its image is encoded in this step, or need not be; counted either way."""
    image = s.images[r]
    if image.kind == NO_IMAGE:
        return
    w = s.window[0]
    w.images += 1
    if not is_to_encode(s, r):
        w.image_hits += 1
    if s.requests[r].computed < image.end:
        plan_encoding(s, r)
        keep(s, image.number)
