"""Static (padded) batching: collect, pad to the longest, finish together. Compiled, unchecked.

A batch starts when `batch_size` requests wait, or when the oldest has waited `max_wait_ms`. Every member computes as
many tokens as the longest one, so the padding costs what it costs on a real engine; all finish with the last.
The token budget bounds the padded prompt tokens of a batch; a single longer prompt is computed in pieces.

Padding has two limits. `max_padding_tokens`: nobody joins a batch who would have more tokens padded. Adaptive padding
(`max_padding_share`): prompts are padded to a multiple of 8, and of a batch that would have a larger share padded than
this only the half goes, by length, in which the first in line is; the others wait on where they stood.
"""

from __future__ import annotations

import math

from batchpilot.engines.scheduler.admission import guard_refuses
from batchpilot.engines.scheduler.commit import count_step
from batchpilot.engines.scheduler.images import begin_encoding, encode_ms, look_at, plan_encoding
from batchpilot.engines.scheduler.kv_blocks import blocks_for
from batchpilot.engines.scheduler.lifecycle import add_to_plan, close_holes, end_request, first_token, turn_away
from batchpilot.engines.scheduler.plan import close_plan, open_plan
from batchpilot.engines.scheduler.queue import push
from batchpilot.engines.scheduler.refusals import note_decision
from batchpilot.engines.scheduler.state import LENGTH, SchedulerState
from batchpilot.engines.scheduler.tenants import count_in, count_out, leave_line, somebody_may_join
from batchpilot.latency.model.compiled import kernel
from batchpilot.latency.model.saturation import step_ms

PADDED_TO = 8
"""Adaptive padding pads to a multiple of so many tokens."""


@kernel
def batch_is_due(s: SchedulerState) -> bool:
    """Whether enough requests wait, or one has waited long enough; otherwise notes when to look again."""
    c = s.clock[0]
    limits = s.limits[0]
    c.wake_ms = math.inf
    if c.n_queue == 0:
        return False
    if c.n_queue >= limits.batch_size:
        return True
    oldest = math.inf
    for k in range(c.n_queue):
        oldest = min(oldest, s.requests[s.lines[k].waiting].arrival_ms)
    if c.now_ms >= oldest + limits.max_wait_ms:
        return True
    c.wake_ms = oldest + limits.max_wait_ms
    if c.n_due > 0:
        c.wake_ms = min(c.wake_ms, s.requests[s.lines[0].due].latest_ms)
    return False


@kernel
def prompt_tokens(s: SchedulerState, r: int) -> int:
    """What a request has to have computed before it speaks: its prompt, and what it said before it was preempted."""
    return int(s.requests[r].prompt + s.requests[r].generated)


@kernel
def padded(s: SchedulerState, longest: int, output: int) -> int:
    """To how many tokens the prompts of a batch are padded; where the cache has no room for more, to the longest."""
    c = s.clock[0]
    rounded = -(-longest // PADDED_TO) * PADDED_TO
    if s.limits[0].max_padding_share == math.inf or blocks_for(rounded + output - 1, c.block_size) > c.total_blocks:
        return longest
    return rounded


@kernel
def goes_before(s: SchedulerState, a: int, b: int) -> bool:
    """Whether the member at place `a` of the batch is shorter than that at `b`, or as long and before it."""
    first, second = prompt_tokens(s, s.slots[a].running), prompt_tokens(s, s.slots[b].running)
    return first < second or (first == second and a < b)


@kernel
def is_in_shorter_half(s: SchedulerState, k: int) -> bool:
    """Whether the member at place `k` belongs to the shorter half of the batch, the larger one of an odd number."""
    c = s.clock[0]
    shorter = 0
    for other in range(c.n_running):
        if goes_before(s, other, k):
            shorter += 1
    return 2 * shorter < c.n_running


@kernel
def measure_batch(s: SchedulerState) -> None:
    """Note what the members of the batch are padded to."""
    c = s.clock[0]
    longest = 0
    output = 0
    for k in range(c.n_running):
        r = s.slots[k].running
        longest = max(longest, prompt_tokens(s, r))
        output = max(output, s.requests[r].output - s.requests[r].generated)
    c.static_prompt = padded(s, longest, output)
    c.static_output = output


@kernel
def split_batch(s: SchedulerState) -> None:
    """Put the half of the batch back, by length, in which the first in line is not, if too much would be padding."""
    c = s.clock[0]
    useful = 0
    for k in range(c.n_running):
        useful += prompt_tokens(s, s.slots[k].running)
    computed = c.n_running * c.static_prompt
    if c.n_running < 2 or computed - useful <= s.limits[0].max_padding_share * computed:
        return
    kept_half = is_in_shorter_half(s, 0)
    for k in range(c.n_running):
        # The plan is empty yet, so its place can hold the mark until all are compared.
        s.slots[k].tokens = is_in_shorter_half(s, k) == kept_half
    kept = 0
    for k in range(c.n_running):
        r = s.slots[k].running
        if s.slots[k].tokens:
            s.slots[kept].running = r
            kept += 1
        else:
            if c.ceilings:
                count_out(s, r)
            push(s, r)
    c.n_running = kept
    measure_batch(s)


@kernel
def form_batch(s: SchedulerState) -> None:
    """Take the next requests in order while count, padded tokens, padding, KV blocks and the step target allow."""
    c = s.clock[0]
    limits = s.limits[0]
    c.static_prompt = 0
    c.static_output = 0
    c.static_computed = 0
    c.static_generated = 0
    useful = 0
    while c.n_queue > 0 and c.n_running < limits.batch_size:
        if c.ceilings and not somebody_may_join(s):
            break
        r = s.lines[0].waiting
        members = c.n_running + 1
        output = max(c.static_output, s.requests[r].output - s.requests[r].generated)
        longest = padded(s, max(c.static_prompt, prompt_tokens(s, r)), output)
        prefill_ms = step_ms(s.parameters[0, 1:], float(members), float(members * longest), 0.0)
        first_ms = prefill_ms + c.plan_encode_ms + encode_ms(s, r) if c.images else prefill_ms
        if guard_refuses(s, r, first_ms):
            turn_away(s, r)
            continue
        blocks = blocks_for(longest + output - 1, c.block_size)
        useful += prompt_tokens(s, r)
        too_much = members * longest > limits.token_budget or prefill_ms > limits.step_target_ms
        too_much = too_much or members * longest - useful > limits.max_padding_tokens
        if members > 1 and (too_much or members * blocks > c.total_blocks):
            break
        if c.ceilings:
            count_in(s, r)
        leave_line(s, r)
        s.slots[c.n_running].running = r
        c.n_running = members
        c.static_prompt = longest
        c.static_output = output
        if c.images:
            plan_encoding(s, r)
    if limits.max_padding_share < math.inf:
        split_batch(s)
    blocks = blocks_for(c.static_prompt + c.static_output - 1, c.block_size)
    # Those that were put back are not encoded, so who stays is looked at anew.
    begin_encoding(s)
    for k in range(c.n_running):
        # A lone request was checked against its own length on arrival, so its block count fits as well.
        r = s.slots[k].running
        if s.requests[r].admitted == 0:
            note_decision(s, r, 0.0)
        s.requests[r].admitted = 1
        s.requests[r].blocks = blocks
        c.virtual_time = max(c.virtual_time, s.requests[r].key)
        c.free_blocks -= blocks
        if c.images:
            look_at(s, r)


@kernel
def end_batch(s: SchedulerState) -> None:
    """All members of the batch finish."""
    for k in range(s.clock[0].n_running):
        end_request(s, s.slots[k].running, LENGTH)
    close_holes(s)


@kernel
def shorten_batch(s: SchedulerState) -> None:
    """A member has left: the batch lasts as long as the longest output that remains, and ends if all are done."""
    c = s.clock[0]
    remaining = 0
    for k in range(c.n_running):
        r = s.slots[k].running
        remaining = max(remaining, s.requests[r].output - s.requests[r].generated)
    c.static_output = c.static_generated + remaining
    if remaining == 0:
        end_batch(s)


@kernel
def plan_static(s: SchedulerState) -> int:
    """Plan one step of static batching: the same number of tokens for every member of the batch.

    Returns:
        Requests in the step, 0 while a batch accumulates.
    """
    c = s.clock[0]
    open_plan(s)
    if c.n_running == 0:
        if not batch_is_due(s):
            return 0
        form_batch(s)
    if c.n_running == 0:
        return 0
    tokens = 1
    if c.static_computed < c.static_prompt:
        tokens = min(c.static_prompt - c.static_computed, max(s.limits[0].token_budget // c.n_running, 1))
    for k in range(c.n_running):
        add_to_plan(s, s.slots[k].running, tokens)
    return close_plan(s)


@kernel
def commit_static(s: SchedulerState, duration_ms: float) -> None:
    """The padded step ran: members advance together, and all finish when the longest output is done."""
    c = s.clock[0]
    w = s.window[0]
    count_step(s, duration_ms)
    tokens = s.slots[0].tokens
    in_prefill = c.static_computed < c.static_prompt
    c.static_computed += tokens
    emits = c.static_computed >= c.static_prompt
    if emits:
        c.static_generated += 1
    for k in range(c.n_plan):
        r = s.slots[k].planned
        need = s.requests[r].prompt + s.requests[r].generated - s.requests[r].computed
        s.requests[r].computed += tokens
        if in_prefill:
            useful = min(max(need, 0), tokens)
            c.useful_tokens += useful
            w.prefill_tokens += useful
        elif s.requests[r].generated < s.requests[r].output:
            c.useful_tokens += 1
        if emits and s.requests[r].generated < s.requests[r].output:
            s.requests[r].generated += 1
            w.generated_tokens += 1
            if s.requests[r].generated == 1:
                first_token(s, r)
    if emits and c.static_generated == c.static_output:
        end_batch(s)
