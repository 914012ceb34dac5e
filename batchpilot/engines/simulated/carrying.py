"""An engine's requests that have not ended, carried over into an engine with further ones. Times in ms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from batchpilot.engines.scheduler.conversations import COME, KNOWN
from batchpilot.engines.scheduler.state import ABSENT, NOBODY, UNFINISHED, SchedulerState, as_bytes

_ITS_OWN = ("requests", "slots", "lines", "users", "chains", "contents", "turns", "images", "step_log")
"""What belongs to the requests of a state, to their users or prompts; all else goes on as it is."""

_LINES = {"waiting": ("n_queue", "turn_key", "place"), "due": ("n_due", "due_key", "due_place")}
"""How many are in a line, what they are there by, and which column has their places."""


_FEATURES = (
    *("images", "encode_pass_ms", "encode_token_ms", "encode_together"),
    *("feature_room", "n_features", "feature_first", "feature_last"),
)
"""What the clock knows of images: the vision tower, and the line of those of which features are kept."""


def unfinished(state: SchedulerState) -> NDArray[np.int64]:
    """Places of the requests that have not ended, or not even arrived, ascending.

    Args:
        state: one engine's.
    """
    reasons = state.requests["reason"][: int(state.clock["n_requests"][0])]
    return np.flatnonzero(reasons == UNFINISHED).astype(np.int64)


def carry_over(old: SchedulerState, new: SchedulerState, kept: NDArray[np.int64]) -> None:
    """Go on in a new state where the old one is: same clock, same running requests, same queues.

    Between two windows, when nothing is noted of the present one and no calendar of decoding is open. What a prefix
    cache holds is carried by `keep_cached`, features of images by `keep_features`, conversations by `keep_talking`.

    Args:
        old: the one engine's.
        new: the other's, loaded; its first requests are the kept ones, in this order.
        kept: places in the old one of the requests that have not ended, ascending.
    """
    requests, arrived = int(new.clock["n_requests"][0]), int(old.clock["next_arrival"][0])
    encoding = new.clock[list(_FEATURES)].copy()
    for name in SchedulerState._fields:
        before, after = getattr(old, name), getattr(new, name)
        if name not in _ITS_OWN:
            after[...] = before
    for field in _FEATURES:
        new.clock[field] = encoding[field]
    users = new.requests["user"][: len(kept)].copy()
    as_bytes(new.requests)[: len(kept)] = as_bytes(old.requests)[kept]
    new.requests["user"][: len(kept)] = users
    if new.clock["ceilings"][0]:
        for of, column in (("running", "blocks"), ("held", "held")):
            new.users[of] = np.bincount(users[old.requests[column][kept] > 0], minlength=len(new.users))
    place = np.full(len(old.requests), -1, np.int64)
    place[kept] = np.arange(len(kept))
    running = int(old.clock["n_running"][0])
    new.slots["running"][:running] = place[old.slots["running"][:running]]
    for line, (count, key, its_place) in _LINES.items():
        n = int(old.clock[count][0])
        new.lines[line][:n] = place[old.lines[line][:n]]
        new.lines[key][:n] = old.lines[key][:n]
        new.lines[its_place][new.lines[line][:n]] = np.arange(n)
    new.clock["n_requests"] = requests
    new.clock["next_arrival"] = np.searchsorted(kept, arrived)
    new.clock["n_ended"] = new.clock["n_logged"] = 0


def keep_talking(old: SchedulerState, new: SchedulerState, kept: NDArray[np.int64]) -> None:
    """Have conversations go on where they are: who has come, whose time is known, who waits for an answer.

    Args:
        old: the one engine's, with conversations or without.
        new: the other's, with conversations, whose requests are carried over.
        kept: as `carry_over` takes it.
    """
    n, arrived = int(new.clock["n_requests"][0]), int(old.clock["next_arrival"][0])
    if old.clock["conversations"][0]:
        came = old.turns["arrived"][:arrived]
        new.turns["stage"][: len(kept)] = old.turns["stage"][kept]
    else:
        came = np.arange(arrived)
        new.turns["stage"][: len(kept)] = np.where(kept < arrived, COME, KNOWN)
    place = np.full(len(old.requests), -1, np.int64)
    place[kept] = np.arange(len(kept))
    here = place[came][place[came] >= 0]
    new.turns["arrived"][: len(here)] = here
    coming = np.flatnonzero(new.turns["stage"][:n] == KNOWN)
    # In order of arrival, and so a heap.
    coming = coming[np.argsort(new.requests["arrival_ms"][coming], kind="stable")]
    new.turns["coming"][: len(coming)] = coming
    new.clock["conversations"], new.clock["n_coming"], new.clock["next_arrival"] = 1, len(coming), len(here)


def cached(state: SchedulerState) -> NDArray[np.int64]:
    """Numbers of the contents that are in the prefix cache, ascending.

    Args:
        state: one engine's.
    """
    here = state.contents["holders"] != ABSENT if state.clock["prefix_cache"][0] else np.zeros(0, np.bool_)
    return np.flatnonzero(here).astype(np.int64)


def keep_cached(
    old: SchedulerState,
    new: SchedulerState,
    kept: NDArray[np.int64],
    before: NDArray[np.int64],
    after: NDArray[np.int64],
) -> None:
    """Have in the prefix cache what was in it: held by the same requests, to be forgotten in the same order.

    Args:
        old: the one engine's.
        new: the other's, whose requests are carried over.
        kept: as `carry_over` takes it.
        before: numbers of the cached contents in the old one.
        after: the same contents' in the new one, which has room for them.
    """
    new.clock["prefix_cache"] = int(len(new.contents) > 0)
    new.contents["holders"] = ABSENT
    if not old.clock["prefix_cache"][0]:
        return
    number = np.full(len(old.contents) + 1, NOBODY, np.int64)  # its last one is what NOBODY points to
    number[before] = after
    new.chains["shared"][: len(kept)] = old.chains["shared"][kept]
    new.contents["holders"][after] = old.contents["holders"][before]
    for neighbour in ("older", "newer"):
        new.contents[neighbour][after] = number[old.contents[neighbour][before]]
    for end in ("idle_first", "idle_last"):
        new.clock[end] = number[old.clock[end]]


def features_kept(state: SchedulerState) -> list[int]:
    """Numbers of the images of which features are kept, the least recently used first.

    Args:
        state: one engine's.
    """
    clock, numbers = state.clock[0], []
    number = int(clock.feature_first)
    for _ in range(int(clock.n_features)):
        numbers.append(number)
        number = int(state.images["newer"][number])
    return numbers


def keep_features(state: SchedulerState, numbers: Sequence[int]) -> None:
    """Have features of images, and of no others.

    Args:
        state: one engine's, with as many rows of images.
        numbers: of the images, the least recently used first; no more than there is room for.
    """
    if not numbers:
        return
    images, clock = state.images, state.clock[0]
    images["kept"][numbers] = 1
    images["older"][numbers] = [NOBODY, *numbers[:-1]]
    images["newer"][numbers] = [*numbers[1:], NOBODY]
    clock.n_features, clock.feature_first, clock.feature_last = len(numbers), numbers[0], numbers[-1]
