"""The steps that a fit is made on: decoding alone, prompts alone, and both together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

REGIMES = ("decode", "prefill", "mixed")
"""Kinds of steps, judged apart."""

GRID_VERSION = 1
"""Of the grid below; entries say which one they were made on."""

_DECODING = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_CONTEXTS = (128, 512, 2048, 8192)
_CHUNKS = (80, 150, 230, 330, 480, 700, 1100, 1600, 2300, 3300, 5000, 7000, 8192)
"""Not multiples of tiles: measured products take up to 1.6 times as long from 256 tokens to 257, and the tokens of a
step are any number."""

_EARLIER = (0, 2048)
_PROMPT = 512
_MIXED_DECODING = (4, 16, 64, 256)
_MIXED_CHUNKS = (150, 330, 700, 1600, 3300, 7000)
_MIXED_CONTEXTS = (512, 4096)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an engine.

    Attributes:
        regime: one of `REGIMES`.
        prompts: requests whose prompt is computed.
        prompt_tokens: of their prompts, computed in this step, all together.
        prompt_context: of their prompts, computed before, all together.
        decoding: requests that decode.
        decode_context: their contexts together.
    """

    regime: str
    prompts: int = 0
    prompt_tokens: int = 0
    prompt_context: int = 0
    decoding: int = 0
    decode_context: int = 0

    @property
    def batch_size(self) -> int:
        """Requests B."""
        return self.prompts + self.decoding

    @property
    def tokens(self) -> int:
        """Tokens S."""
        return self.prompt_tokens + self.decoding

    @property
    def context_tokens(self) -> int:
        """Context tokens C."""
        return self.prompt_context + self.decode_context


def grid_of_steps(kv_capacity_tokens: float) -> Iterator[Step]:
    """The steps whose requests fit into a KV cache.

    Args:
        kv_capacity_tokens: tokens that fit.
    """
    for step in _all_steps():
        if step.context_tokens + step.prompt_tokens <= kv_capacity_tokens:
            yield step


def _all_steps() -> Iterator[Step]:
    for size in _DECODING:
        for context in _CONTEXTS:
            yield Step("decode", decoding=size, decode_context=size * context)
    for chunk in _CHUNKS:
        for earlier in _EARLIER:
            yield Step("prefill", 1, chunk, earlier)
        if chunk > 2 * _PROMPT:
            yield Step("prefill", chunk // _PROMPT, chunk)
    for size in _MIXED_DECODING:
        for chunk in _MIXED_CHUNKS:
            for context in _MIXED_CONTEXTS:
                yield Step("mixed", 1, chunk, 0, size, size * context)
