"""A loaded model with its KV cache: give it a step, get the next tokens. Engines come and go, it stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from batchpilot.engines.memory import MemoryModel
from batchpilot.engines.torch.attention import PAGED_ATTENTION
from batchpilot.engines.torch.cache import PagedKVCache
from batchpilot.engines.torch.device import (
    default_memory_fraction,
    is_out_of_memory,
    peak_bytes,
    release_cached,
    synchronise,
)
from batchpilot.engines.torch.memory import divide_memory, kv_bytes_per_token, weight_bytes
from batchpilot.engines.torch.model import load_model
from batchpilot.engines.torch.packing import StepTokens, pack
from batchpilot.engines.torch.sampling import choose
from batchpilot.engines.torch.shape import ModelShape
from batchpilot.engines.torch.warm_up import synthetic_step, warm_up
from batchpilot.latency.model.saturation import SaturationParameters


class ModelRunner:
    """A model on a device, its KV cache set aside, warm.

    Args:
        model: what `load_model` takes, or a loaded causal LM of `transformers`, which then runs on paged attention.
        device: torch device; a loaded model is moved there.
        dtype: "float32", "bfloat16" or "float16"; a loaded model keeps its own.
        kv_capacity_tokens: KV tokens to set aside, >= block_size; None for all that fit.
        memory_fraction: share of the free memory to take; None for 0.9 of an accelerator's, 0.25 of a processor's.
        block_size: tokens in a KV block, >= 1.
        step_tokens: tokens of the largest step that memory is kept free for, >= 1.
        seed: of random weights.

    Attributes:
        model: the model.
        shape: its sizes.
        device: where it runs.
        memory: where the device's memory goes.
        cache: keys and values.
        latency: a first estimate of the step latency, from the warm-up.

    Raises:
        ValueError: an argument is outside its bound, or the model does not fit; the message names the numbers.
    """

    def __init__(
        self,
        model: Any,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        kv_capacity_tokens: int | None = None,
        memory_fraction: float | None = None,
        block_size: int = 16,
        step_tokens: int = 2048,
        seed: int = 0,
    ) -> None:
        for name, value, least in (("block_size", block_size, 1), ("step_tokens", step_tokens, 1)):
            if value < least:
                raise ValueError(f"{name} is {value}; it must be >= {least}")
        if kv_capacity_tokens is not None and kv_capacity_tokens < block_size:
            raise ValueError(f"kv_capacity_tokens {kv_capacity_tokens} holds no block of {block_size} tokens")
        if isinstance(model, str | Path):
            self.model = load_model(model, device=device, dtype=dtype, seed=seed)
        else:
            self.model = model.to(device).eval()
            self.model.set_attn_implementation(PAGED_ATTENTION)
        self.device = torch.device(device)
        self.shape = ModelShape.of(self.model.config)
        self.memory = self._divide_memory(kv_capacity_tokens, memory_fraction, block_size, step_tokens)
        self.cache = self._cache(self.memory.kv_capacity_tokens, block_size)
        self.latency: SaturationParameters = warm_up(self._run, self.memory.kv_capacity_tokens, block_size)

    @property
    def kv_capacity_tokens(self) -> int:
        """KV tokens that the cache holds."""
        return self.cache.blocks * self.cache.block_size

    def logits(self, step: StepTokens) -> torch.Tensor:
        """Run a step.

        Args:
            step: what is computed; its blocks belong to nobody else.

        Returns:
            Logits after the last token of each request that wants one, shape (wanted, vocabulary).
        """
        with torch.inference_mode():
            return self._forward(step, self.cache)

    def next_tokens(
        self, step: StepTokens, draws: NDArray[np.void], place: NDArray[np.int64]
    ) -> NDArray[np.int64] | None:
        """Run a step, choose the next tokens and wait for them.

        Args:
            step: what is computed.
            draws: how the tokens are chosen, records of `DRAW`, shape (wanted,).
            place: place of that token in each output, shape (wanted,).

        Returns:
            Token ids, shape (wanted,); None if the device ran out of memory, which leaves nothing behind but slots
            of the cache that the next attempt writes anew.
        """
        try:
            with torch.inference_mode():
                chosen = choose(self._forward(step, self.cache), draws, place)
                ids: NDArray[np.int64] = chosen.cpu().numpy()
                synchronise(self.device)
                return ids
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Out here the error is gone, and with it the frames that kept the failed step's tensors alive.
        release_cached(self.device)
        return None

    def _forward(self, step: StepTokens, cache: PagedKVCache) -> torch.Tensor:
        packed = pack(step, cache)
        out = self.model(
            input_ids=packed.ids,
            position_ids=packed.positions,
            use_cache=False,
            logits_to_keep=packed.last,
            paged=packed,
        )
        logits: torch.Tensor = out.logits[0]
        return logits

    def _run(self, step: StepTokens) -> None:
        self.logits(step)
        synchronise(self.device)

    def _divide_memory(
        self, kv_capacity_tokens: int | None, fraction: float | None, block_size: int, step_tokens: int
    ) -> MemoryModel:
        tokens = min(step_tokens, self.shape.max_positions or step_tokens)
        step = synthetic_step(1, tokens, 0, block_size)
        provisional = self._cache(tokens + block_size, block_size)
        with torch.inference_mode():
            self._forward(step, provisional)
            activation_peak = peak_bytes(lambda: self._forward(step, provisional), self.device)
        return divide_memory(
            self.device,
            fraction=default_memory_fraction(self.device) if fraction is None else fraction,
            weights=weight_bytes(self.model),
            token_bytes=kv_bytes_per_token(self.shape, self.model.dtype),
            layers=self.shape.layers,
            activation_peak=activation_peak,
            step_tokens=tokens,
            kv_capacity_tokens=kv_capacity_tokens,
        )

    def _cache(self, tokens: int, block_size: int) -> PagedKVCache:
        return PagedKVCache(self.shape, tokens // block_size, block_size, self.model.dtype, self.device)
