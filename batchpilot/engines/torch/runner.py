"""A loaded model with its KV cache: give it a step, get the next tokens. Engines come and go, it stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

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
from batchpilot.engines.torch.drafting.base import Drafter, Drafts
from batchpilot.engines.torch.drafting.draft_model import DraftModel
from batchpilot.engines.torch.drafting.prompt_lookup import PromptLookup
from batchpilot.engines.torch.drafting.verification import Verified, joined, rows_of, verify
from batchpilot.engines.torch.kv_types import KV_TYPES, kv_type
from batchpilot.engines.torch.memory import divide_memory, weight_bytes
from batchpilot.engines.torch.model import load_model
from batchpilot.engines.torch.packing import StepTokens, forward
from batchpilot.engines.torch.sampling import choose
from batchpilot.engines.torch.shape import ModelShape
from batchpilot.engines.torch.shaping import Shaping
from batchpilot.engines.torch.vision import Shown, VisionEncoder
from batchpilot.engines.torch.warm_up import synthetic_step, warm_up
from batchpilot.latency.model.saturation import SaturationParameters

Result = TypeVar("Result")


class ModelRunner:
    """A model on a device, its KV cache set aside, warm.

    Args:
        model: what `load_model` takes, or a loaded causal LM of `transformers`, which then runs on paged attention.
        device: torch device; a loaded model is moved there.
        dtype: "float32", "bfloat16", "float16" or "int8" (weights alone); a loaded model keeps its own.
        kv_dtype: type of the KV cache: "auto" for the one computed in, "int8" or "fp8".
        kv_capacity_tokens: KV tokens to set aside, >= block_size; None for all that fit.
        memory_fraction: share of the free memory to take; None for 0.9 of an accelerator's, 0.25 of a processor's.
        block_size: tokens in a KV block, >= 1.
        draft_model: what drafts tokens where the limits ask for drafts, as `model`, of the same vocabulary; its cache
            takes the place of some of the model's. None drafts by prompt lookup.
        step_tokens: tokens of the largest step that memory is kept free for, >= 1.
        vision: whether prompts may hold images, which a small tower with random weights encodes.
        seed: of random weights.

    Attributes:
        model: the model.
        shape: its sizes.
        device: where it runs.
        dtype: of the weights.
        kv_dtype: of the KV cache.
        memory: where the device's memory goes.
        cache: keys and values.
        drafter: guesses what requests say next.
        latency: a first estimate of the step latency, from the warm-up.
        vision: what encodes images; None where prompts are of text.

    Raises:
        ValueError: an argument is outside its bound, or the model does not fit; the message names the numbers.
    """

    def __init__(
        self,
        model: Any,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        kv_dtype: str = "auto",
        kv_capacity_tokens: int | None = None,
        memory_fraction: float | None = None,
        block_size: int = 16,
        step_tokens: int = 2048,
        vision: bool = False,
        draft_model: Any = None,
        seed: int = 0,
    ) -> None:
        for name, value, least in (("block_size", block_size, 1), ("step_tokens", step_tokens, 1)):
            if value < least:
                raise ValueError(f"{name} is {value}; it must be >= {least}")
        if kv_capacity_tokens is not None and kv_capacity_tokens < block_size:
            raise ValueError(f"kv_capacity_tokens {kv_capacity_tokens} holds no block of {block_size} tokens")
        self.model, self.dtype = _loaded(model, device, dtype, seed)
        self.device = torch.device(device)
        self.shape = ModelShape.of(self.model.config)
        self._drafting: tuple[Any, ModelShape] | None = None
        if draft_model is not None:
            drafting = _loaded(draft_model, device, dtype, seed)[0]
            self._drafting = drafting, ModelShape.of(drafting.config)
            if self._drafting[1].vocabulary != self.shape.vocabulary:
                raise ValueError(
                    f"the draft model has {self._drafting[1].vocabulary} token ids, the model {self.shape.vocabulary}; "
                    "a draft model must have the same vocabulary"
                )
        self.kv_dtype, self._kv_type = kv_dtype, kv_type(kv_dtype)
        self.vision = self._tower(seed) if vision else None
        self.memory = self._divide_memory(kv_capacity_tokens, memory_fraction, block_size, step_tokens)
        self.cache = self._cache(self.memory.kv_capacity_tokens, block_size)
        self.drafter: Drafter = PromptLookup()
        if self._drafting is not None:
            small, shape = self._drafting
            cache = PagedKVCache(shape, self.cache.blocks, block_size, small.dtype, self.device)
            self.drafter = DraftModel(small, cache)
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
        self, step: StepTokens, draws: NDArray[np.void], place: NDArray[np.int64], shaping: Shaping | None = None
    ) -> NDArray[np.int64] | None:
        """Run a step, choose the next tokens and wait for them.

        Args:
            step: what is computed.
            draws: how the tokens are chosen, records of `DRAW`, shape (wanted,).
            place: place of that token in each output, shape (wanted,).
            shaping: what is asked beside; it hears what was chosen.

        Returns:
            Token ids, shape (wanted,); None if the device ran out of memory, which leaves nothing behind but slots
            of the cache that the next attempt writes anew.
        """

        def run() -> NDArray[np.int64]:
            logits = self._forward(step, self.cache)
            chosen = choose(logits if shaping is None else shaping.constrain(logits), draws, place)
            ids: NDArray[np.int64] = chosen.cpu().numpy()
            synchronise(self.device)
            if shaping is not None:
                shaping.hear(logits, ids)
            return ids

        return self._unless_out_of_memory(run)

    def verified(
        self,
        step: StepTokens,
        draws: NDArray[np.void],
        place: NDArray[np.int64],
        drafts: Drafts,
        shaping: Callable[[NDArray[np.int64]], Shaping | None],
    ) -> Verified | None:
        """Run a step with drafts, and say what stands of them.

        Args:
            step: what is computed, `drafted` in it.
            draws: how the tokens are chosen, records of `DRAW`, shape (wanted,).
            place: tokens that each request has said, shape (wanted,).
            drafts: of the same requests; of some perhaps none.
            shaping: what is asked beside by some of them, told by their places, one a row of logits or a token.

        Returns:
            What each says; None as `next_tokens`.
        """

        def run() -> Verified:
            logits = self._forward(step, self.cache)
            everybody = np.arange(len(drafts.counts))
            bound = shaping(np.repeat(everybody, drafts.counts + 1))
            accepted, chosen = verify(logits if bound is None else bound.constrain(logits), drafts, draws, place)
            synchronise(self.device)
            ids = joined(drafts, accepted, chosen)
            said = shaping(np.repeat(everybody, accepted + 1))
            if said is not None:
                said.hear(logits[torch.from_numpy(rows_of(drafts.counts, accepted)).to(logits.device)], ids)
            return Verified(accepted + 1, ids, [] if said is None else said.told)

        return self._unless_out_of_memory(run)

    def _unless_out_of_memory(self, run: Callable[[], Result]) -> Result | None:
        try:
            with torch.inference_mode():
                return run()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Out here the error is gone, and with it the frames that kept the failed step's tensors alive.
        release_cached(self.device)
        return None

    def _forward(self, step: StepTokens, cache: PagedKVCache) -> torch.Tensor:
        return forward(self.model, step, cache, (lambda ids: self._embedded(ids, step.shown)) if step.shown else None)

    def _embedded(self, ids: torch.Tensor, shown: Sequence[Shown]) -> torch.Tensor:
        """Embeddings of a step's tokens, those of images from the tower."""
        if self.vision is None:
            raise ValueError("the step shows images, and the runner was made without vision")
        embedded: torch.Tensor = self.model.get_input_embeddings()(ids).clone()
        for part, features in zip(shown, self.vision.embeddings(shown), strict=True):
            embedded[0, part.row : part.row + part.tokens] = features.to(embedded.dtype)
        return embedded

    def _tower(self, seed: int) -> VisionEncoder:
        weights = self.model.get_input_embeddings().weight
        scale = float(weights[:1024].detach().float().std())
        return VisionEncoder(weights.shape[1], scale, self.device, self.model.dtype, seed=seed)

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
            weights=self._weight_bytes(),
            token_bytes=self._kv_type.bytes_per_token(self.shape, self.model.dtype) + self._draft_token_bytes(),
            gathered_bytes=KV_TYPES["auto"].bytes_per_token(self.shape, self.model.dtype) / self.shape.layers,
            activation_peak=activation_peak,
            step_tokens=tokens,
            kv_capacity_tokens=kv_capacity_tokens,
        )

    def _weight_bytes(self) -> int:
        beside = weight_bytes(self._drafting[0]) if self._drafting else 0
        return weight_bytes(self.model) + beside + (0 if self.vision is None else self.vision.weight_bytes)

    def _draft_token_bytes(self) -> int:
        if self._drafting is None:
            return 0
        small, shape = self._drafting
        return KV_TYPES["auto"].bytes_per_token(shape, small.dtype)

    def _cache(self, tokens: int, block_size: int) -> PagedKVCache:
        return self._kv_type.cache(self.shape, tokens // block_size, block_size, self.model.dtype, self.device)


def _loaded(model: Any, device: str, dtype: str, seed: int) -> tuple[Any, str]:
    """A model on paged attention, and the type of its weights."""
    if isinstance(model, str | Path):
        return load_model(model, device=device, dtype=dtype, seed=seed), dtype
    model = model.to(device).eval()
    model.set_attn_implementation(PAGED_ATTENTION)
    return model, str(model.dtype).removeprefix("torch.")
