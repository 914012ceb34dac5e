"""The simulated executor: plan, T(B, S, C), commit, in one compiled loop."""

from __future__ import annotations

import math

from batchpilot.engines.scheduler.admission import admit_arrivals, next_arrival_ms
from batchpilot.engines.scheduler.calendars import close_calendars, first_end, open_calendars
from batchpilot.engines.scheduler.commit import commit, commit_failure
from batchpilot.engines.scheduler.decoding import commit_by_calendar, plan_by_calendar
from batchpilot.engines.scheduler.plan import is_guarded, plan
from batchpilot.engines.scheduler.speculation import draft_ms, draw_accepted
from batchpilot.engines.scheduler.state import STATIC, SchedulerState
from batchpilot.engines.scheduler.static_batching import commit_static, plan_static
from batchpilot.latency.model.compiled import compiled_once, inlined, kernel
from batchpilot.latency.model.saturation import step_ms

REACHED, DONE, LOG_FULL, STUCK = range(4)
"""Why `advance` returned: the time was reached; every request ended; the step log is full; nothing can ever run."""


@inlined
def look_at_the_time(s: SchedulerState) -> None:
    """Put the true parameters in force that hold from now on."""
    c = s.clock[0]
    while c.parameter_row + 1 < len(s.parameters) and s.parameters[c.parameter_row + 1, 0] <= c.now_ms:
        c.parameter_row += 1


@inlined
def true_step_ms(s: SchedulerState) -> float:
    """Duration of the planned step: its encoding, and by the true parameters its tokens, times the next noise."""
    c = s.clock[0]
    look_at_the_time(s)
    parameters = s.parameters[c.parameter_row, 1:]
    time = step_ms(parameters, float(c.n_plan), float(c.plan_total_tokens), float(c.plan_context))
    if c.plan_drafted > 0:
        time += draft_ms(s, parameters)
    return c.plan_encode_ms + time * s.noise[c.step % len(s.noise)]


@inlined
def out_of_memory(s: SchedulerState) -> bool:
    """Whether the step's activations do not fit beside the weights and the KV cache, which is set aside whole."""
    c = s.clock[0]
    kv_mb = c.total_blocks * c.block_size * c.kv_mb_per_token
    return c.total_mb > 0 and c.fixed_mb + kv_mb + c.plan_total_tokens * c.activation_mb_per_token > c.total_mb


@kernel
def decode_on(s: SchedulerState, until_ms: float) -> int:
    """Run steps in which nobody starts or ends, as many as are known: only the clock and the window's sums move.

    They end before the step that begins at `until_ms` or later, that an arrival or a change of the true latency comes
    before, in which a request ends, that the log has no room for, or that asks for more KV blocks than are free and
    without cached content.

    Returns:
        How many.
    """
    c = s.clock[0]
    size = c.n_decoding
    if size == 0 or (c.n_prefilling > 0 and c.n_held == 0) or is_guarded(s):
        return 0
    if c.n_queue > 0 and c.n_running < s.limits[0].batch_size:
        return 0
    look_at_the_time(s)
    steps = first_end(s) - c.epoch - 1
    if len(s.step_log) > 0:
        steps = min(steps, len(s.step_log) - c.n_logged)
    end_ms = min(until_ms, next_arrival_ms(s))
    if c.parameter_row + 1 < len(s.parameters):
        end_ms = min(end_ms, s.parameters[c.parameter_row + 1, 0])
    parameters = s.parameters[c.parameter_row, 1:]
    without_context = step_ms(parameters, float(size), float(size), 0.0)
    w = s.window[0]
    # What `count_step` writes to records is kept in variables here, added up in the same order, and places in rings are
    # counted on instead of divided for.
    now_ms, busy_ms, kv_block_ms, memory_mb_ms, peak_mb = c.now_ms, w.busy_ms, w.kv_block_ms, w.memory_mb_ms, w.peak_mb
    free, context, context_sum = c.free_blocks, c.decode_context, 0
    activations_mb = size * c.activation_mb_per_token
    phase, ring = -c.epoch % c.block_size, w.steps % len(s.step_times)
    draw = c.step % len(s.noise)
    done = 0
    while done < steps and now_ms < end_ms:
        due = s.slots[phase].asking
        if due > free - c.n_idle:
            break
        free -= due
        draw = draw + 1 if draw + 1 < len(s.noise) else 0
        duration_ms = (without_context + parameters[8] * float(context)) * s.noise[draw]
        if len(s.step_log) > 0:
            log_step(s, c.n_logged + done, now_ms, size, context, duration_ms)
        now_ms += duration_ms
        s.step_times[ring] = duration_ms
        busy_ms += duration_ms
        context_sum += context
        used = c.total_blocks - free
        memory_mb = c.fixed_mb + used * c.block_size * c.kv_mb_per_token + activations_mb
        kv_block_ms += used * duration_ms
        memory_mb_ms += memory_mb * duration_ms
        peak_mb = max(peak_mb, memory_mb)
        ring = ring + 1 if ring + 1 < len(s.step_times) else 0
        phase = phase - 1 if phase > 0 else c.block_size - 1
        context += size
        done += 1
    if done == 0:
        return 0
    c.n_plan = size
    c.plan_total_tokens = size
    c.plan_encode_ms = 0.0
    c.plan_context = context - size
    c.now_ms = now_ms
    c.step += done
    c.epoch += done
    c.free_blocks = free
    c.decode_context = context
    c.computed_tokens += done * size
    c.useful_tokens += done * size
    if len(s.step_log) > 0:
        c.n_logged += done
    w.steps += done
    w.busy_ms, w.kv_block_ms, w.memory_mb_ms, w.peak_mb = busy_ms, kv_block_ms, memory_mb_ms, peak_mb
    w.batch_sum += done * size
    w.token_sum += done * size
    w.context_sum += context_sum
    w.generated_tokens += done * size
    return done


@inlined
def log_step(s: SchedulerState, entry: int, start_ms: float, size: int, context: int, duration_ms: float) -> None:
    """Write a step of decoding requests into the log."""
    logged = s.step_log[entry]
    logged[0] = start_ms
    logged[1] = size
    logged[2] = size
    logged[3] = context
    logged[4] = duration_ms


@compiled_once
def run_steps(s: SchedulerState, until_ms: float) -> int:
    """`advance`, but for the records of requests that decode."""
    c = s.clock[0]
    static = c.mode == STATIC
    while c.now_ms < until_ms:
        if len(s.step_log) > 0 and c.n_logged == len(s.step_log):
            return LOG_FULL
        admit_arrivals(s)
        planned = -1
        if c.decoding or open_calendars(s):
            if decode_on(s, until_ms) > 0:
                continue
            planned = plan_by_calendar(s)
            if planned < 0:
                close_calendars(s)
        if planned < 0:
            planned = plan_static(s) if static else plan(s)
        if planned == 0:
            following = next_arrival_ms(s)
            if static:
                following = min(following, c.wake_ms)
            if following == math.inf:
                if c.n_ended < c.n_requests:
                    return STUCK
                if until_ms < math.inf:
                    c.now_ms = until_ms
                return DONE
            c.now_ms = min(max(following, c.now_ms), until_ms)
        elif out_of_memory(s):
            commit_failure(s, true_step_ms(s))
        elif c.decoding:
            commit_by_calendar(s, true_step_ms(s))
        elif static:
            commit_static(s, true_step_ms(s))
        else:
            duration_ms = true_step_ms(s)
            if c.plan_drafted > 0:
                draw_accepted(s)
            commit(s, duration_ms)
    return DONE if c.n_ended == c.n_requests else REACHED


@kernel
def advance(s: SchedulerState, until_ms: float) -> int:
    """Run steps until the clock reaches `until_ms`; a step that began before it is finished, idle time is skipped.

    Returns:
        REACHED, DONE, LOG_FULL or STUCK.
    """
    code = run_steps(s, until_ms)
    if s.clock[0].decoding:
        close_calendars(s)
    return code
