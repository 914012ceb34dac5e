"""What work in progress is worth at the end of a plan, and how much KV memory there is for it. Times in ms."""

from __future__ import annotations

import numpy as np

from batchpilot.core import WindowMetrics
from batchpilot.core.details import WindowDetails
from batchpilot.latency.model.saturation import SaturationParameters

LARGEST_BATCH_SIZE = 256

MOST_KV_TOKENS = 2**40
"""A cache of more is none that is known."""

SPARE_UNTIL_LOAD, SCARCE_FROM_LOAD = 1.0, 1.3
"""Load between which capacity goes from being worth nothing more to being worth all that it can serve."""


def work_in_progress(
    latency: SaturationParameters,
    prompt_tokens: float,
    output_tokens: float,
    rate_per_ms: float,
    kv_capacity_tokens: int,
    cached_tokens: float = 0.0,
    encode_ms: float = 0.0,
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
        cached_tokens: of a mean prompt, what need not be computed.
        encode_ms: time that encoding a request's image takes, in the mean over all requests.
    """
    context = prompt_tokens + output_tokens / 2
    fits = kv_capacity_tokens / context if kv_capacity_tokens else LARGEST_BATCH_SIZE
    batch_size = min(max(fits, 1.0), LARGEST_BATCH_SIZE)
    prefill_ms = (prompt_tokens - cached_tokens) * (latency.w_1 / latency.p_max + latency.tau_s) + encode_ms
    decode_ms = output_tokens * latency.predict_one(batch_size, batch_size, batch_size * context) / batch_size
    load = rate_per_ms * (prefill_ms + decode_ms)
    scarcity = min(max((load - SPARE_UNTIL_LOAD) / (SCARCE_FROM_LOAD - SPARE_UNTIL_LOAD), 0.0), 1.0)
    return 1.0 - scarcity * decode_ms / (prefill_ms + decode_ms)


def believed_kv_tokens(details: WindowDetails, metrics: WindowMetrics) -> int:
    """KV tokens that fit as the twin counts them, which shares no blocks; 0 for no bound that is known.

    Where requests share blocks more of them fit: as many more as those that run would take up without it.

    Args:
        details: of the window that just ended.
        metrics: of the same window.
    """
    if not 0 < metrics.kv_capacity_tokens < MOST_KV_TOKENS:
        return 0
    capacity, running = int(metrics.kv_capacity_tokens), details.running
    used = float(metrics.kv_used_fraction * capacity)
    if not running["cached_tokens"].any() or not used > 0:
        return capacity
    apart = np.maximum(running["computed_tokens"], running["prompt_tokens"] + running["generated_tokens"] - 1).sum()
    # However little is told to be in use, no block is shared by more than run.
    return int(capacity * min(max(float(apart) / used, 1.0), float(len(running))))
