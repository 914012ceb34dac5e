"""The simulated executor: plan, T(B, S, C), commit, in one compiled loop over one or many simulations."""

from __future__ import annotations

import math

from numba import prange

from batchpilot.engines.scheduler.admission import admit_arrivals, next_arrival_ms
from batchpilot.engines.scheduler.commit import commit, commit_failure
from batchpilot.engines.scheduler.plan import plan
from batchpilot.engines.scheduler.state import STATIC, SchedulerState, row
from batchpilot.engines.scheduler.static_batching import commit_static, plan_static
from batchpilot.latency.model.compiled import inlined, kernel, parallel
from batchpilot.latency.model.saturation import step_ms

REACHED, DONE, LOG_FULL, STUCK = range(4)
"""Why `advance` returned: the time was reached; every request ended; the step log is full; nothing can ever run."""


@inlined
def true_step_ms(s: SchedulerState) -> float:
    """Duration of the planned step: the true parameters in force now, times the next noise factor."""
    c = s.clock[0]
    while c.parameter_row + 1 < len(s.parameters) and s.parameters[c.parameter_row + 1, 0] <= c.now_ms:
        c.parameter_row += 1
    parameters = s.parameters[c.parameter_row, 1:]
    time = step_ms(parameters, float(c.n_plan), float(c.plan_total_tokens), float(c.plan_context))
    return time * s.noise[c.step % len(s.noise)]


@inlined
def out_of_memory(s: SchedulerState) -> bool:
    """Whether the step's activations do not fit beside the weights and the KV cache, which is set aside whole."""
    c = s.clock[0]
    kv_mb = c.total_blocks * c.block_size * c.kv_mb_per_token
    return c.total_mb > 0 and c.fixed_mb + kv_mb + c.plan_total_tokens * c.activation_mb_per_token > c.total_mb


@kernel
def advance(s: SchedulerState, until_ms: float) -> int:
    """Run steps until the clock reaches `until_ms`; a step that began before it is finished, idle time is skipped.

    Returns:
        REACHED, DONE, LOG_FULL or STUCK.
    """
    c = s.clock[0]
    while c.now_ms < until_ms:
        if len(s.step_log) > 0 and c.n_logged == len(s.step_log):
            return LOG_FULL
        admit_arrivals(s)
        static = c.mode == STATIC
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
        elif static:
            commit_static(s, true_step_ms(s))
        else:
            commit(s, true_step_ms(s))
    return DONE if c.n_ended == c.n_requests else REACHED


@parallel
def advance_many(s: SchedulerState, until_ms, codes) -> None:  # type: ignore[no-untyped-def]
    """`advance` for every row in parallel threads; rows share nothing, so the thread count changes no number.

    Args:
        s: state with a leading axis of simulations, n rows.
        until_ms: times to reach, shape (n,).
        codes: where the outcomes are written, shape (n,), int64.
    """
    for i in prange(len(until_ms)):
        codes[i] = advance(row(s, i), until_ms[i])
