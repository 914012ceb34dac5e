"""Limits for latency targets and lengths, one closed form each. Times in ms, lengths in tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from batchpilot.core.slo import SLO
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.latency.planning.demand import Demand, kv_residents, residents_at
from batchpilot.latency.planning.inverse import sla_inverse

MAX_BATCH_SIZE = 4096
MAX_STEP_TOKENS = 16_384
"""Most tokens of a step that are considered where memory does not bound them."""


@dataclass(frozen=True, slots=True)
class StepLimits:
    """The largest limits that meet a target.

    Attributes:
        batch_size: requests.
        token_budget: tokens in a step.
    """

    batch_size: int
    token_budget: int


def largest_decode_batch(
    parameters: SaturationParameters,
    context_per_request: float,
    target_ms: float,
    largest: int = MAX_BATCH_SIZE,
) -> int:
    """The most requests that can decode together: T(B, B, B * context) <= target.

    Args:
        parameters: step latency.
        context_per_request: context tokens of each, >= 0.
        target_ms: longest step.
        largest: the largest batch considered, >= 1.

    Returns:
        Requests, 0 where none fits.
    """
    sizes = np.arange(1, largest + 1)
    fits = np.flatnonzero(parameters.predict(sizes, sizes, sizes * context_per_request) <= target_ms)
    return int(sizes[fits[-1]]) if len(fits) else 0


def token_budget(
    parameters: SaturationParameters,
    batch_size: float,
    context_tokens: float,
    target_ms: float,
    max_tokens: int = MAX_STEP_TOKENS,
) -> int:
    """The most tokens of a step of so many requests within a target; the TPOT bound on prefill beside decoding.

    Args:
        parameters: step latency.
        batch_size: requests in the step, >= 1.
        context_tokens: context tokens they read.
        target_ms: longest step.
        max_tokens: most tokens that memory allows.

    Returns:
        Tokens, at least one for each request, so that decoding is never held back.
    """
    fitting = int(sla_inverse(parameters, batch_size, target_ms, context_tokens, max_tokens))
    return max(fitting, math.ceil(batch_size))


def max_queued_tokens(
    parameters: SaturationParameters,
    batch_size: float,
    context_tokens: float,
    budget: int,
    ttft_ms: float,
    encode_ms_per_token: float = 0.0,
) -> int:
    """Prompt tokens without a first token beyond which a request would come too late: TTFT times prefill throughput.

    Args:
        parameters: step latency.
        batch_size: requests that decode meanwhile, >= 1.
        context_tokens: context tokens they read.
        budget: tokens of a step.
        ttft_ms: target of the time to first token; the step under way on arrival is taken off.
        encode_ms_per_token: mean time of encoding images for each prompt token, >= 0.

    Returns:
        Tokens, >= 0.
    """
    prefill = max(budget - batch_size, 1.0)
    step_ms = float(parameters.predict(batch_size, max(budget, 1), context_tokens)) + encode_ms_per_token * prefill
    return max(0, int((ttft_ms - step_ms) / step_ms * prefill))


def limits_for_lengths(
    parameters: SaturationParameters,
    prompt_tokens: int,
    output_tokens: int,
    slo: SLO,
    kv_capacity_tokens: int,
    max_tokens: int = MAX_STEP_TOKENS,
) -> StepLimits | None:
    """The largest batch and token budget for requests of one length: every step full, none longer than the TPOT target.

    Args:
        parameters: step latency.
        prompt_tokens: length of every prompt.
        output_tokens: length of every output.
        slo: targets; a prompt's own chunks must fit into the TTFT target.
        kv_capacity_tokens: KV tokens that fit.
        max_tokens: most tokens of a step that memory allows.

    Returns:
        The limits; None where no batch meets both targets.
    """
    demand = Demand(np.array([prompt_tokens]), np.array([output_tokens]))
    fitting = min(residents_at(parameters, demand, slo.tpot_ms), float(kv_residents(demand, kv_capacity_tokens)))
    for batch_size in range(min(int(fitting), MAX_BATCH_SIZE), 0, -1):
        context = float(demand.step_at(batch_size)[2])
        budget = int(sla_inverse(parameters, batch_size, slo.tpot_ms, context, max_tokens))
        # The request itself is one of the batch; the others take a token each.
        room = budget - (batch_size - 1)
        if room < 1:
            continue
        chunks = math.ceil(prompt_tokens / room)
        if chunks * float(parameters.predict(batch_size, budget, context)) <= slo.ttft_ms:
            return StepLimits(batch_size, budget)
    return None
