"""Images: encoded before the prompt of their request is computed, those of one size together. Compiled, unchecked.

A request whose images have to be encoded is let in like any other; the step that lets it in begins with their encoding.
All images of one size that a step has to encode go through the vision tower in passes of up to `encode_together`. Their
features are kept for whoever comes with the same image, the least recently used being dropped where there are more than
`feature_room`; an image whose KV blocks are all in the prefix cache needs no features.

Requests have up to `clock.images` images; those of request r have the rows from `r * clock.images` on. Without images
nothing here is called but `begin_encoding`, and that does nothing.
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
def is_to_encode(s: SchedulerState, r: int, place: int) -> bool:
    """Whether an image of a request is there of which neither the features nor all KV blocks are.

    One that the request shows twice is encoded once.
    """
    most = s.clock[0].images
    image = s.images[r * most + place]
    if image.kind == NO_IMAGE or s.requests[r].computed >= image.end or s.images[image.number].kept:
        return False
    for before in range(r * most, r * most + place):
        other = s.images[before]
        if other.kind != NO_IMAGE and other.number == image.number and s.requests[r].computed < other.end:
            return False
    return True


@kernel
def least_encode_ms(s: SchedulerState, r: int) -> float:
    """Time that the images of a request take in whatever company."""
    c = s.clock[0]
    time = 0.0
    for place in range(c.images):
        if is_to_encode(s, r, place):
            time += c.encode_token_ms * image_tokens(s.images[r * c.images + place].kind)
    return float(time)


@kernel
def passes_ms(s: SchedulerState, r: int, size: int, planned: int) -> float:
    """Time of the passes that images of one size of a request begin, where so many of it are encoded already."""
    c = s.clock[0]
    time = 0.0
    for place in range(c.images):
        if s.images[r * c.images + place].kind == size and is_to_encode(s, r, place):
            if planned % c.encode_together == 0:
                time += c.encode_pass_ms
            planned += 1
    return float(time)


@kernel
def lone_encode_ms(s: SchedulerState, r: int) -> float:
    """Time that they take if they are the only ones of their sizes."""
    time = least_encode_ms(s, r)
    for size in range(SIZES):
        time += passes_ms(s, r, size, 0)
    return float(time)


@kernel
def encode_ms(s: SchedulerState, r: int) -> float:
    """Time by which the step being planned gets longer for the images of a request."""
    time = least_encode_ms(s, r)
    for size in range(SIZES):
        time += passes_ms(s, r, size, s.images[size].planned)
    return float(time)


@kernel
def plan_encoding(s: SchedulerState, r: int) -> None:
    """The step being planned encodes the images of a request, those that have to be."""
    c = s.clock[0]
    c.plan_encode_ms += encode_ms(s, r)
    for place in range(c.images):
        if is_to_encode(s, r, place):
            s.images[s.images[r * c.images + place].kind].planned += 1


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
    """A request is let in: its images are encoded in this step, or need not be; counted either way."""
    most, w = s.clock[0].images, s.window[0]
    for place in range(most):
        if s.images[r * most + place].kind != NO_IMAGE:
            w.images += 1
            if not is_to_encode(s, r, place):
                w.image_hits += 1
    # Which are encoded is settled before any is kept, since one of them may be dropped for another.
    plan_encoding(s, r)
    for image in range(r * most, r * most + most):
        if s.images[image].kind != NO_IMAGE and s.requests[r].computed < s.images[image].end:
            keep(s, s.images[image].number)


@kernel
def largest_size(s: SchedulerState, r: int) -> int:
    """The size of the largest image of a request, `NO_IMAGE` for none."""
    most = s.clock[0].images
    size = NO_IMAGE
    for image in range(r * most, r * most + most):
        size = max(size, s.images[image].kind)
    return size
