"""The state of a scheduler as arrays, one row a simulation, so that kernels can run one or many. Times in ms.

`SchedulerState` holds every array with a leading axis of simulations; `row(state, i)` is the same tuple over one of
them, and that is what the kernels of `scheduler.py` take. A request id is its place in the request table; requests
never move, only queues of ids do. Columns become records here because a step visits few requests and many fields.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchpilot.latency.model.compiled import allocating
from batchpilot.latency.model.saturation import N_PARAMETERS

UNFINISHED, LENGTH, REFUSED_ARRIVAL, REFUSED_GUARD, FAILED, CANCELLED = range(6)
FINISH_REASONS = ("unfinished", "length", "refused_on_arrival", "refused_by_guard", "failed", "cancelled")

CONTINUOUS, STATIC = range(2)
BATCHING_MODES = {"continuous": CONTINUOUS, "static": STATIC}

CHUNKED, WHOLE, SELECTIVE = range(3)
PREFILL_MODES = {"chunked": CHUNKED, "whole": WHOLE, "selective": SELECTIVE}

OFF_TOKENS = 2**62
"""Stands for "no limit" where a limit counts tokens."""

STEP_WINDOW = 4096
"""Step times remembered within a window, for their percentile."""

TARGET_WINDOW = 256
"""Latency targets remembered within a window, those of the last arrivals."""

CLOCK = np.dtype(
    [
        ("now_ms", "f8"),
        ("n_requests", "i8"),
        ("next_arrival", "i8"),
        ("cancelled_ahead", "i8"),
        ("n_ended", "i8"),
        ("concurrency", "i8"),
        ("n_queue", "i8"),
        ("queued_tokens", "i8"),
        ("unanswered_tokens", "i8"),
        ("n_due", "i8"),
        ("n_running", "i8"),
        ("free_blocks", "i8"),
        ("total_blocks", "i8"),
        ("block_size", "i8"),
        ("max_model_len", "i8"),
        ("mode", "i8"),
        ("prefill", "i8"),
        ("discipline", "i8"),
        ("ttft_guard", "f8"),
        ("fastest_ms", "f8"),
        ("fastest_token_ms", "f8"),
        ("virtual_time", "f8"),
        ("step", "i8"),
        ("n_plan", "i8"),
        ("plan_total_tokens", "i8"),
        ("plan_context", "i8"),
        ("kv_short", "i8"),
        ("long_prompt_last", "i8"),
        ("prompt_end_ms", "f8"),
        ("prompt_step_ms", "f8"),
        ("decoding", "i8"),
        ("decoding_pause", "i8"),
        ("epoch", "i8"),
        ("n_decoding", "i8"),
        ("n_prefilling", "i8"),
        ("n_order", "i8"),
        ("n_held", "i8"),
        ("first_held", "i8"),
        ("decode_context", "i8"),
        ("prefix_cache", "i8"),
        ("n_idle", "i8"),
        ("idle_first", "i8"),
        ("idle_last", "i8"),
        ("looks", "i8"),
        ("conversations", "i8"),
        ("n_coming", "i8"),
        ("images", "i8"),
        ("encode_pass_ms", "f8"),
        ("encode_token_ms", "f8"),
        ("encode_together", "i8"),
        ("feature_room", "i8"),
        ("n_features", "i8"),
        ("feature_first", "i8"),
        ("feature_last", "i8"),
        ("plan_encode_ms", "f8"),
        ("static_prompt", "i8"),
        ("static_output", "i8"),
        ("static_computed", "i8"),
        ("static_generated", "i8"),
        ("wake_ms", "f8"),
        ("front_ms", "f8"),
        ("parameter_row", "i8"),
        ("n_logged", "i8"),
        ("computed_tokens", "i8"),
        ("useful_tokens", "i8"),
        ("fixed_mb", "f8"),
        ("kv_mb_per_token", "f8"),
        ("activation_mb_per_token", "f8"),
        ("total_mb", "f8"),
        ("peak_tokens_per_s", "f8"),
        ("ttft_target_ms", "f8"),
        ("tpot_target_ms", "f8"),
        ("plan_drafted", "i8"),
        ("n_drafting", "i8"),
        ("draft_steps", "i8"),
        ("draft_context", "i8"),
        ("acceptance", "f8"),
        ("acceptance_decay", "f8"),
        ("draft_share", "f8"),
        ("draw_a", "i8"),
        ("draw_b", "i8"),
        ("ceilings", "i8"),
    ],
    align=True,
)
"""One record a simulation: the clock, counters, the step being planned and the engine's constants. A request that was
sent at `arrival_ms` reaches the scheduler `front_ms` later. `cancelled_ahead`
counts requests that were cancelled and whose turn to arrive has not come; `unanswered_tokens` are prompts of requests
without a first token; `n_due` requests are in the line of `due`, made for this `ttft_guard` and for prompts that take
`fastest_ms`, and `fastest_token_ms` a token at least; the last step with a prompt ended at `prompt_end_ms` and took
`prompt_step_ms`; `decoding` to `decode_context` belong to `calendars.py`, `prefix_cache` (1 for on)
to `looks` to `prefix_cache.py`: cached blocks that nobody holds, as a line from the oldest on, and how often somebody
outside has looked at the cache; `conversations` (1 for some) and `n_coming` to `conversations.py`; `images` (the most
of a request) to `plan_encode_ms` to `images.py`: images of which features are kept, as a line from the least recently
used on, and the time that the step being planned spends on encoding before it computes tokens; `plan_drafted` to
`draw_b` to `speculation.py`; `ceilings` is 1 where some tenant has one, which `tenants.py` keeps."""

LIMITS = np.dtype(
    [
        ("batch_size", "i8"),
        ("token_budget", "i8"),
        ("max_queued_tokens", "i8"),
        ("max_wait_ms", "f8"),
        ("step_target_ms", "f8"),
        ("ttft_guard", "f8"),
        ("discipline", "i8"),
        ("delay_factor", "f8"),
        ("max_padding_tokens", "i8"),
        ("max_padding_share", "f8"),
        ("speculative_tokens", "i8"),
        ("refusal_bound", "f8"),
    ],
    align=True,
)
"""`Limits` as the kernels read it: off is `OFF_TOKENS`, or infinity; 0 of what is waited for."""

WINDOW = np.dtype(
    [
        ("start_ms", "f8"),
        ("busy_ms", "f8"),
        ("steps", "i8"),
        ("generated_tokens", "i8"),
        ("prefill_tokens", "i8"),
        ("arrivals", "i8"),
        ("arrived_prompt_tokens", "i8"),
        ("preemptions", "i8"),
        ("recomputed_tokens", "i8"),
        ("admitted_prompt_tokens", "i8"),
        ("cached_prompt_tokens", "i8"),
        ("failures", "i8"),
        ("batch_sum", "i8"),
        ("token_sum", "i8"),
        ("context_sum", "i8"),
        ("kv_block_ms", "f8"),
        ("memory_mb_ms", "f8"),
        ("peak_mb", "f8"),
        ("n_ttft", "i8"),
        ("n_tpot", "i8"),
        ("completions", "i8"),
        ("refused_on_arrival", "i8"),
        ("refused_by_guard", "i8"),
        ("failed_requests", "i8"),
        ("cancelled_requests", "i8"),
        ("slo_met", "i8"),
        ("slo_met_tokens", "i8"),
        ("images", "i8"),
        ("image_hits", "i8"),
        ("encode_ms", "f8"),
        ("drafts", "i8"),
        ("drafted_tokens", "i8"),
        ("accepted_tokens", "i8"),
    ],
    align=True,
)
"""What is counted since the window began; `n_ttft` and `n_tpot` times were noted in the slots."""


REQUEST = np.dtype(
    [
        ("prompt", "i8"),
        ("generated", "i8"),
        ("computed", "i8"),
        ("blocks", "i8"),
        ("in_step", "i8"),
        ("output", "i8"),
        ("key", "f8"),
        ("arrival_ms", "f8"),
        ("first_ms", "f8"),
        ("finish_ms", "f8"),
        ("ttft_target_ms", "f8"),
        ("tpot_target_ms", "f8"),
        ("estimated_output", "f8"),
        ("latest_ms", "f8"),
        ("user", "i4"),
        ("cached", "i4"),
        ("priority", "i1"),
        ("reason", "i1"),
        ("admitted", "i1"),
        ("retries", "i1"),
        ("unanswered", "i1"),
        ("held", "i1"),
    ],
    align=True,
)
"""One record a request, what a step touches first: lengths, `computed` (tokens in the KV cache; of a request that
waits those that were found there when it was last looked up), `cached` (prompt tokens found on arrival, from its first
turn on those found then), `blocks` (KV blocks held), `in_step` (the last step that planned it), `key` (smaller is
sooner), times and targets. `arrival_ms` is written when the request arrives in a closed loop; `latest_ms` is when a
waiting request becomes hopeless; `held` is 1 while its tenant's ceiling keeps it behind the others."""

SLOT = np.dtype(
    [
        ("ttft_ms", "f8"),
        ("tpot_ms", "f8"),
        ("running", "i4"),
        ("planned", "i4"),
        ("tokens", "i4"),
        ("ended", "i4"),
        ("order", "i4"),
        ("position", "i4"),
        ("prefilling", "i4"),
        ("asking", "i4"),
    ],
    align=True,
)
"""Queues of request ids, side by side: `running` in order of admission, `planned` with `tokens` for the step being
planned, `ended` in order of end; and TTFT and TPOT noted in the window. The last three are rings.

The rest belongs to `calendars.py`: running requests in `order` of admission with holes, and those of
them that are `prefilling`; `position` in the order is by request id, `asking` (how many ask for a KV block) by phase of
the decode epoch."""

LINE = np.dtype(
    [
        ("turn_key", "f8"),
        ("due_key", "f8"),
        ("ends", "i8"),
        ("waiting", "i4"),
        ("due", "i4"),
        ("place", "i4"),
        ("due_place", "i4"),
    ],
    align=True,
)
"""Three binary heaps, side by side: requests `waiting` by `turn_key`, those that the guard may refuse (`due`) by
`due_key`, the time at which it does, and the entries of the calendar of `ends`. By request id: its `place` in the first
and its `due_place` in the second. Keys stand beside the ids, since looking for each in its request's record took half
of the time of a run with a long queue."""


CHAIN = np.dtype([("first", "i8"), ("hashed", "i4"), ("shared", "i4")])
"""By request, what the prefix cache knows of it: its first entry in `contents`, how many of its blocks have one, and
how many leading blocks it shares with whoever else may want them."""

CONTENT = np.dtype([("content", "i4"), ("holders", "i4"), ("older", "i4"), ("newer", "i4")])
"""Two tables side by side. By block of a request, one request after another: the number of its `content`, the same for
equal tokens behind equal blocks. By that number: how many requests hold the block, `ABSENT` where it is not in the
cache; and its neighbours among the idle ones, that is cached and held by nobody. Where somebody outside looks, there
are twice as many rows, and `content` in the second half is by number, too: twice the number of the look before the
block came or went last, plus 1 if it is not as it was at that look."""

TURN = np.dtype([("think_ms", "f8"), ("following", "i4"), ("coming", "i4"), ("arrived", "i4"), ("stage", "i4")])
"""Of conversations, by request: the time before it is asked, the turn `following` it, -1 for none, and whether its time
is unknown, known or come (`stage`). Beside them two lines of request ids: those `coming`, as a heap by arrival, and
those that `arrived`, in order."""

IMAGE = np.dtype(
    [
        ("number", "i4"),
        ("end", "i4"),
        ("kind", "i4"),
        ("older", "i4"),
        ("newer", "i4"),
        ("kept", "i4"),
        ("planned", "i4"),
        ("length", "i4"),
        ("rank", "i4"),
        ("score", "f8"),
    ],
    align=True,
)
"""Four tables side by side. By image of a request, as many rows each as `clock.images`: its `number`, where in the
prompt it ends, and its `kind`, a place in `SIDES_PX`, `NO_IMAGE` for none. By that number: whether its features are
`kept`, and its neighbours among those. By size: how many the step being planned encodes. By queue of `vision.py`: how
many wait in it, what they score and which turn that gives it; these rows are there without images, too."""

IMAGE_ROWS = 12
"""Rows that `vision.py` needs at least: three priorities, each with no image or one of three sizes."""

NO_IMAGE = -1

USER = np.dtype([("finish", "f8"), ("weight", "f8"), ("ceiling", "i8"), ("running", "i8"), ("held", "i8")], align=True)
"""By tenant: virtual finish time and weight of fair sharing; and where some tenant has a ceiling, the most of its
requests that may run, those that do, and those held back."""

ORDINARY_USER = np.array((0.0, 1.0, OFF_TOKENS, 0, 0), USER)
"""Of a tenant without terms of its own, who has not been served yet."""

ABSENT = -1

NOBODY = -1
"""Stands for "no content" where a line of idle blocks ends."""


class SchedulerState(NamedTuple):
    """Every array of the scheduler; a kernel sees one row of each.

    Few arrays on purpose: a kernel passes them all to every helper, and each costs the call some nanoseconds.

    Attributes:
        clock: one record of `CLOCK`.
        limits: one record of `LIMITS`.
        window: one record of `WINDOW`.
        requests: records of `REQUEST`, shape (n,).
        slots: records of `SLOT`, shape (n,).
        lines: records of `LINE`, shape (n,).
        chains: records of `CHAIN`, shape (n,); none without a prefix cache.
        contents: records of `CONTENT`; none without a prefix cache.
        turns: records of `TURN`, shape (n,); none without conversations.
        images: records of `IMAGE`, shape (n * images a request,) or as many as there are images; `IMAGE_ROWS` without
            any.
        parameters: rows of (start_ms, latency parameters): row 0 is the estimate, the others are the true ones
            from their start on, ascending.
        users: records of `USER`, shape (users,).
        noise: factors on step time, used in turn.
        step_times: step times of the window, a ring of `STEP_WINDOW`.
        targets: TTFT and TPOT targets of those who arrived in the window, two rings of `TARGET_WINDOW`; a third row is
            that of `refusals.py`.
        step_log: rows of (start_ms, B, S, C, T_ms), or no row.
    """

    clock: NDArray[np.void]
    limits: NDArray[np.void]
    window: NDArray[np.void]
    requests: NDArray[np.void]
    slots: NDArray[np.void]
    lines: NDArray[np.void]
    chains: NDArray[np.void]
    contents: NDArray[np.void]
    turns: NDArray[np.void]
    images: NDArray[np.void]
    parameters: NDArray[np.float64]
    users: NDArray[np.void]
    noise: NDArray[np.float64]
    step_times: NDArray[np.float64]
    targets: NDArray[np.float64]
    step_log: NDArray[np.float64]


def allocate(
    simulations: int,
    requests: int,
    *,
    users: int = 1,
    noise: int = 1,
    drift_rows: int = 0,
    step_log: int = 0,
    hashed_blocks: int = 0,
    conversations: bool = False,
    images: int = 0,
) -> SchedulerState:
    """An empty state.

    Args:
        simulations: rows.
        requests: capacity in requests, each row.
        users: number of tenants.
        noise: length of the noise table.
        drift_rows: changes of the true latency.
        step_log: steps that can be logged, 0 for none.
        hashed_blocks: KV blocks of all requests of a row whose content is known; 0 for no prefix cache.
        conversations: whether requests may be turns of one.
        images: images that the requests of a row may have, or different images, whichever is more; 0 for none.

    Returns:
        A state whose arrays have the leading axis `simulations`.
    """
    size = max(requests, 1)
    return SchedulerState(
        clock=np.zeros(simulations, CLOCK).view(np.recarray),
        limits=np.zeros(simulations, LIMITS).view(np.recarray),
        window=np.zeros(simulations, WINDOW).view(np.recarray),
        requests=np.zeros((simulations, size), REQUEST).view(np.recarray),
        slots=np.zeros((simulations, size), SLOT).view(np.recarray),
        lines=np.zeros((simulations, size), LINE).view(np.recarray),
        chains=np.zeros((simulations, size if hashed_blocks else 0), CHAIN).view(np.recarray),
        contents=np.zeros((simulations, hashed_blocks), CONTENT).view(np.recarray),
        turns=np.zeros((simulations, size if conversations else 0), TURN).view(np.recarray),
        images=np.zeros((simulations, max(images, IMAGE_ROWS)), IMAGE).view(np.recarray),
        parameters=np.full((simulations, drift_rows + 2, 1 + N_PARAMETERS), np.inf),
        users=np.array([[(0.0, 1.0, OFF_TOKENS, 0, 0)]], USER)
        .repeat(max(users, 1), 1)
        .repeat(simulations, 0)
        .view(np.recarray),
        noise=np.ones((simulations, noise)),
        step_times=np.zeros((simulations, STEP_WINDOW)),
        targets=np.zeros((simulations, 3, TARGET_WINDOW)),
        step_log=np.zeros((simulations, step_log, 5)),
    )


@allocating
def row(s: SchedulerState, i: int) -> SchedulerState:
    """One simulation's state: views into row `i` of every array; single records keep an axis of length one."""
    return SchedulerState(
        s.clock[i : i + 1],
        s.limits[i : i + 1],
        s.window[i : i + 1],
        s.requests[i],
        s.slots[i],
        s.lines[i],
        s.chains[i],
        s.contents[i],
        s.turns[i],
        s.images[i],
        s.parameters[i],
        s.users[i],
        s.noise[i],
        s.step_times[i],
        s.targets[i],
        s.step_log[i],
    )


def as_bytes(array: NDArray[Any]) -> NDArray[Any]:
    """A view of records, or of numbers, as plain bytes: numpy copies records field by field, fifty times slower.

    Args:
        array: of any type without references.
    """
    return array.view(np.ndarray).view(f"V{array.dtype.itemsize}")
