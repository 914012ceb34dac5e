"""Limits of many servers, as numbers, put into force in compiled code. Unchecked."""

from __future__ import annotations

import math

from batchpilot.core.limit_arrays import NO_DISCIPLINE, LimitArrays
from batchpilot.engines.scheduler.state import OFF_TOKENS, SchedulerState
from batchpilot.latency.model.compiled import inlined, kernel

(
    BATCH_SIZE, TOKEN_BUDGET, MAX_QUEUED_TOKENS, MAX_WAIT, STEP_TARGET, TTFT_GUARD, DISCIPLINE, DELAY_FACTOR,
    MAX_PADDING_TOKENS, MAX_PADDING_SHARE, SPECULATIVE_TOKENS, REFUSAL_BOUND,
) = range(len(LimitArrays._fields))  # fmt: skip


@inlined
def whole(tokens: float) -> int:
    """Tokens of a limit as a whole number; infinity is off."""
    return int(tokens) if tokens < OFF_TOKENS else OFF_TOKENS


@inlined
def waited(number: float) -> float:
    """What is waited for; infinity is off, and nothing."""
    return number if number < math.inf else 0.0


@kernel
def put_limits(s: SchedulerState, numbers, discipline: int, drafted: int) -> None:  # type: ignore[no-untyped-def]
    """Put limits into force.

    Args:
        s: one simulation.
        numbers: the fields of `LimitArrays`, shape (F,).
        discipline: code of who is next where they do not say.
        drafted: `speculative_tokens` where they have none.
    """
    limits = s.limits[0]
    limits.batch_size = int(numbers[BATCH_SIZE])
    limits.token_budget = whole(numbers[TOKEN_BUDGET])
    limits.max_queued_tokens = whole(numbers[MAX_QUEUED_TOKENS])
    limits.max_wait_ms = waited(numbers[MAX_WAIT])
    limits.step_target_ms = numbers[STEP_TARGET]
    limits.ttft_guard = numbers[TTFT_GUARD]
    own = numbers[DISCIPLINE] == NO_DISCIPLINE
    limits.discipline = discipline if own else int(numbers[DISCIPLINE])
    limits.delay_factor = waited(numbers[DELAY_FACTOR])
    limits.max_padding_tokens = whole(numbers[MAX_PADDING_TOKENS])
    limits.max_padding_share = numbers[MAX_PADDING_SHARE]
    asked = int(numbers[SPECULATIVE_TOKENS])
    limits.speculative_tokens = asked if asked > 0 else drafted
    limits.refusal_bound = numbers[REFUSAL_BOUND]
