"""Limits in closed form, from the latency estimate and the promise alone: where planning begins. Times in ms."""

from __future__ import annotations

from collections.abc import Sequence

from batchpilot.baselines.guarded import STEP_TARGET_SHARE
from batchpilot.core import SLO, Limits
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.latency.planning.inverse import sla_inverse

TYPICAL_BATCH_SIZE, TYPICAL_CONTEXT_TOKENS = 32, 1000
LARGEST_BATCH_SIZE, LARGEST_TOKEN_BUDGET, SMALLEST_TOKEN_BUDGET = 256, 8192, 128


def starting_limits(
    fields: Sequence[str], base: Limits | None, latency: SaturationParameters, slo: SLO | None
) -> Limits:
    """What the model says before anything was measured.

    The token budget is the largest with which a typical step meets the TPOT target (SLA inverse); the queue holds the
    prompt tokens that such steps compute within the TTFT target; the guard stands at the promise, the step target just
    below.

    Args:
        fields: those that may be set; the others stay at the base.
        base: limits to begin with; None for batch 256.
        latency: estimated step latency.
        slo: the promise; None leaves the base as it is.

    Source: vLLM's advice for `max_num_queued_tokens`, with the throughput taken from the model instead of the user.
    """
    limits = base or Limits(LARGEST_BATCH_SIZE)
    if slo is None:
        return limits
    context = TYPICAL_BATCH_SIZE * TYPICAL_CONTEXT_TOKENS
    fits = int(sla_inverse(latency, TYPICAL_BATCH_SIZE, slo.tpot_ms, context, LARGEST_TOKEN_BUDGET))
    budget = max(fits, SMALLEST_TOKEN_BUDGET)
    step_ms = latency.predict_one(TYPICAL_BATCH_SIZE, budget, context)
    queued = int(max(budget - TYPICAL_BATCH_SIZE, 1) * slo.ttft_ms / step_ms)
    closed_form = {
        "token_budget": budget,
        "max_queued_tokens": queued,
        "step_target_ms": STEP_TARGET_SHARE * slo.tpot_ms,
        "ttft_guard": 1.0,
        "discipline": "spf",
    }
    if "ttft_guard" in fields:
        # The guard looks at each request's own promise; beside it a bound on the queue only refuses too early.
        closed_form |= {"max_queued_tokens": None, "token_budget": limits.token_budget}
    return limits.replace(**{name: value for name, value in closed_form.items() if name in fields})
