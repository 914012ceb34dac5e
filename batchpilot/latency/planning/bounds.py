"""Bounds that need a calculator only: what a device serves at most, what continuous batching gains, what scores take.

Source: batching document, throughput bound and gain; deployment document, flash attention. The bound's three terms are
sequences, steps and tokens a second there; here all are tokens a second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ThroughputBound:
    """Tokens a second that nothing can exceed.

    Attributes:
        compute: operations a second over operations a token.
        memory: a batch's tokens over the time to read weights and the batch's KV cache once.
        latency: a batch's tokens over the time of a decode step.
    """

    compute: float
    memory: float
    latency: float

    @property
    def tokens_per_s(self) -> float:
        """The least of the three."""
        return min(self.compute, self.memory, self.latency)

    @property
    def bound_by(self) -> str:
        """Which it is: compute, memory or latency."""
        return min(("compute", "memory", "latency"), key=lambda name: float(getattr(self, name)))


def throughput_bound(
    batch_size: int,
    *,
    flops: float,
    flop_per_token: float,
    bandwidth: float,
    kv_bytes: float,
    decode_ms: float,
    weight_bytes: float = 0.0,
) -> ThroughputBound:
    """min(C / F, B BW / (W + 2 KV), B / T).

    The document's second term reads (and writes) the KV cache alone; `weight_bytes` adds what every step must read,
    and 0 is the document's.

    Args:
        batch_size: B, requests in a step, >= 1.
        flops: C, operations a second, > 0.
        flop_per_token: F, operations a token, > 0 (about two a parameter).
        bandwidth: BW, bytes a second, > 0.
        kv_bytes: KV, bytes of the batch's KV cache, > 0.
        decode_ms: T, time of a decode step of the batch, > 0.
        weight_bytes: W, >= 0.

    Raises:
        ValueError: an argument is outside its bound; the message names it.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be >= 1")
    positive = {"flops": flops, "flop_per_token": flop_per_token, "bandwidth": bandwidth, "kv_bytes": kv_bytes}
    for name, value in (positive | {"decode_ms": decode_ms}).items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value}; it must be above 0 and finite")
    if not weight_bytes >= 0:
        raise ValueError(f"weight_bytes is {weight_bytes}; it must be >= 0")
    return ThroughputBound(
        compute=flops / flop_per_token,
        memory=batch_size * bandwidth / (weight_bytes + 2 * kv_bytes),
        latency=1000.0 * batch_size / decode_ms,
    )


@dataclass(frozen=True, slots=True)
class ContinuousGain:
    """What continuous batching can gain over static batching on some requests.

    Attributes:
        padding_ratio: share of a padded batch's tokens that are useful, in (0, 1].
        wait_ratio: share of a request's time in a static batch that it is not done yet, in (0, 1].
    """

    padding_ratio: float
    wait_ratio: float

    @property
    def gain(self) -> float:
        """1 / (padding_ratio wait_ratio): an upper bound, since continuous batching is taken to waste nothing."""
        return 1.0 / (self.padding_ratio * self.wait_ratio)


def continuous_gain(prompt_tokens: Sequence[int], output_tokens: Sequence[int], batch_size: int) -> ContinuousGain:
    """Both ratios for requests that are batched in their order.

    Args:
        prompt_tokens: of each request, >= 1.
        output_tokens: of each request, >= 1, as many.
        batch_size: requests of a static batch, >= 1.

    Raises:
        ValueError: an argument is outside its bound.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be >= 1")
    if not prompt_tokens or len(prompt_tokens) != len(output_tokens):
        raise ValueError(f"{len(prompt_tokens)} prompts and {len(output_tokens)} outputs; give as many, at least one")
    if min(prompt_tokens) < 1 or min(output_tokens) < 1:
        raise ValueError("every request needs at least 1 prompt token and 1 output token")
    useful, padded, decoding, held = 0, 0, 0, 0
    for first in range(0, len(prompt_tokens), batch_size):
        prompts = prompt_tokens[first : first + batch_size]
        outputs = output_tokens[first : first + batch_size]
        useful += sum(prompts)
        padded += len(prompts) * max(prompts)
        decoding += sum(outputs)
        held += len(outputs) * max(outputs)
    return ContinuousGain(useful / padded, decoding / held)


def attention_score_bytes(
    batch_size: int, heads: int, tokens: int, bytes_per_value: float = 2.0, tile: int | None = None
) -> float:
    """Memory of one layer's attention scores: all of them, or the tiles that flash attention keeps.

    Check: 8 x 32 x 4,096 x 4,096 in 16 bits are 8,589,934,592 bytes, in tiles of 64 they are 2,097,152.

    Args:
        batch_size: requests, >= 1.
        heads: query heads, >= 1.
        tokens: of a request, >= 1.
        bytes_per_value: of a score, > 0.
        tile: side of a tile, >= 1; None for all scores at once.

    Raises:
        ValueError: an argument is below its bound.
    """
    counts = {"batch_size": batch_size, "heads": heads, "tokens": tokens, "tile": 1 if tile is None else tile}
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be >= 1")
    if not bytes_per_value > 0:
        raise ValueError(f"bytes_per_value is {bytes_per_value}; it must be above 0")
    side = tokens if tile is None else min(tile, tokens)
    return batch_size * heads * side * side * bytes_per_value
