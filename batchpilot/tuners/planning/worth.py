"""What work in progress is worth at the end of a plan. Times in ms."""

from __future__ import annotations

from batchpilot.latency.model.saturation import SaturationParameters

LARGEST_BATCH_SIZE = 256
SPARE_UNTIL_LOAD, SCARCE_FROM_LOAD = 1.0, 1.3
"""Load between which capacity goes from being worth nothing more to being worth all that it can serve."""


def work_in_progress(
    latency: SaturationParameters,
    prompt_tokens: float,
    output_tokens: float,
    rate_per_ms: float,
    kv_capacity_tokens: int,
) -> float:
    """Which share of a request's output counts once its prompt is computed; the rest counts as it is generated.

    Below capacity a request that was let in will be finished anyway, and counts whole. Where there is more to do than
    can be done, what is left of it takes the place of others, and it counts for what was spent on it: the share of its
    engine time that its prompt has.

    Args:
        latency: step latency.
        prompt_tokens: mean prompt, > 0.
        output_tokens: mean output, > 0.
        rate_per_ms: requests that arrive.
        kv_capacity_tokens: KV tokens that fit; 0 for no bound.
    """
    context = prompt_tokens + output_tokens / 2
    fits = kv_capacity_tokens / context if kv_capacity_tokens else LARGEST_BATCH_SIZE
    batch_size = min(max(fits, 1.0), LARGEST_BATCH_SIZE)
    prefill_ms = prompt_tokens * (latency.w_1 / latency.p_max + latency.tau_s)
    decode_ms = output_tokens * latency.predict_one(batch_size, batch_size, batch_size * context) / batch_size
    load = rate_per_ms * (prefill_ms + decode_ms)
    scarcity = min(max((load - SPARE_UNTIL_LOAD) / (SCARCE_FROM_LOAD - SPARE_UNTIL_LOAD), 0.0), 1.0)
    return 1.0 - scarcity * decode_ms / (prefill_ms + decode_ms)
