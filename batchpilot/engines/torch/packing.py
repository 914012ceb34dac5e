"""One step as tensors: the tokens of all its requests in one row, and who attends to what.

Requests are packed without padding, so every layer but attention sees S tokens and nothing else. For attention the
requests fall into groups of similar shape: those that compute one token, by context, and chunks, by length. A group is
padded to its longest, so a step costs a handful of attention calls a layer however many requests it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from batchpilot.engines.torch.cache import PagedKVCache
from batchpilot.engines.torch.vision.shown import Shown


@dataclass(slots=True)
class StepTokens:
    """What a step computes, request by request, all shapes (B,) but the first two.

    A request's KV slot is its position plus its `padding`: a padded static batch begins with slots that no one reads.

    Attributes:
        ids: token ids, one request after the other, shape (S,).
        tables: block ids, shape (B, any).
        tokens: tokens that each request computes, >= 1.
        computed: slots filled before this step.
        padding: slots at the start that hold padding.
        wanted: whether the request's last token is to be followed by a sampled one.
        shown: which of the packed tokens are parts of images.
        drafted: of its tokens, how many at the end are drafts; None for none of anybody's. Those that want a token want
            one after each draft too, and one before.
    """

    ids: NDArray[np.int64]
    tables: NDArray[np.int64]
    tokens: NDArray[np.int64]
    computed: NDArray[np.int64]
    padding: NDArray[np.int64]
    wanted: NDArray[np.bool_]
    shown: Sequence[Shown] = ()
    drafted: NDArray[np.int64] | None = None


@dataclass(slots=True)
class AttentionGroup:
    """Requests whose attention is computed together, padded to T queries and L keys.

    Attributes:
        rows: places of the queries in the packed row, shape (n, T); padding repeats the request's last query.
        table: block ids of the contexts, flat, shape (n * blocks,).
        query_slots: KV slot of each query, shape (n, T, 1).
        padding: leading slots not to be read, shape (n, 1, 1).
        masks: additive masks by sliding window, shape (n, 1, T, L); made once a step and shared by its layers.
    """

    rows: torch.Tensor
    table: torch.Tensor
    query_slots: torch.Tensor
    padding: torch.Tensor
    masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    def mask(self, keys: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """What is added to the scores: 0 where a query may look, minus infinity elsewhere.

        Args:
            keys: L.
            window: tokens that a sliding-window layer sees, None for all.
            dtype: of the scores.
        """
        if window not in self.masks:
            slots = torch.arange(keys, device=self.rows.device)
            seen = (slots <= self.query_slots) & (slots >= self.padding)
            if window is not None:
                seen &= slots > self.query_slots - window
            # A padding token sees itself alone: a row of nothing but minus infinity would be NaN.
            seen |= slots == self.query_slots
            mask = torch.zeros(seen.shape, dtype=dtype, device=slots.device).masked_fill_(~seen, -torch.inf)
            self.masks[window] = mask.unsqueeze(1)
        return self.masks[window]


@dataclass(slots=True)
class PackedStep:
    """A step ready for the model.

    Attributes:
        ids: token ids, shape (1, S).
        positions: their positions, shape (1, S).
        slots: where in the cache their keys and values go, shape (S,).
        groups: who attends together.
        unpadded: where each packed token's row is in the groups' padded rows, one group after the other, shape (S,).
        last: rows of the packed tokens whose next token is wanted, shape (wanted and their drafts,).
        cache: keys and values.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    groups: list[AttentionGroup]
    unpadded: torch.Tensor
    last: torch.Tensor
    cache: PagedKVCache


def pack(step: StepTokens, cache: PagedKVCache) -> PackedStep:
    """Turn a step into tensors on the cache's device.

    Args:
        step: what is computed.
        cache: where keys and values live.
    """
    device = cache.keys[0].device
    ends = np.cumsum(step.tokens)
    starts = ends - step.tokens
    within = np.arange(ends[-1]) - np.repeat(starts, step.tokens)
    slot = within + np.repeat(step.computed, step.tokens)
    owner = np.repeat(np.arange(len(step.tokens)), step.tokens)
    block = step.tables[owner, slot // cache.block_size]
    positions = np.maximum(slot - step.padding[owner], 0)

    def tensor(array: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)

    groups: list[AttentionGroup] = []
    unpadded = np.empty(ends[-1], np.int64)
    padded = 0
    for members in similar(step, cache.block_size):
        tokens, computed = step.tokens[members], step.computed[members]
        blocks = -(-int((computed + tokens).max()) // cache.block_size)
        offsets = np.minimum(np.arange(tokens.max()), tokens[:, None] - 1)
        rows = starts[members, None] + offsets
        # Written from the back, so that of a query and the padding that repeats it the query itself stays.
        unpadded[rows.ravel()[::-1]] = np.arange(padded, padded + rows.size)[::-1]
        padded += rows.size
        groups.append(
            AttentionGroup(
                rows=tensor(rows),
                table=tensor(step.tables[members, :blocks].ravel()),
                query_slots=tensor((computed[:, None] + offsets)[:, :, None]),
                padding=tensor(step.padding[members, None, None]),
            )
        )
    return PackedStep(
        ids=tensor(step.ids[None]),
        positions=tensor(positions[None]),
        slots=tensor(block * cache.block_size + slot % cache.block_size),
        groups=groups,
        unpadded=tensor(unpadded),
        last=tensor(_last_rows(step, ends)),
        cache=cache,
    )


def forward(
    model: Any, step: StepTokens, cache: PagedKVCache, embed: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> torch.Tensor:
    """Run a step on a model.

    Args:
        model: a causal LM on paged attention.
        step: what is computed; its blocks belong to nobody else.
        cache: keys and values.
        embed: from token ids, shape (1, S), to what goes into the first layer; None for the model's own.

    Returns:
        Logits after the tokens whose next one is wanted, shape (`PackedStep.last`, vocabulary).
    """
    packed = pack(step, cache)
    out = model(
        input_ids=packed.ids if embed is None else None,
        inputs_embeds=None if embed is None else embed(packed.ids),
        position_ids=packed.positions,
        use_cache=False,
        logits_to_keep=packed.last,
        paged=packed,
    )
    logits: torch.Tensor = out.logits[0]
    return logits


def _last_rows(step: StepTokens, ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of the tokens whose next one is wanted."""
    last = ends[step.wanted] - 1
    if step.drafted is None:
        return last
    drafted = step.drafted[step.wanted]
    before = np.repeat(np.cumsum(drafted + 1) - 1, drafted + 1) - np.arange(int((drafted + 1).sum()))
    return np.repeat(last, drafted + 1) - before


def similar(step: StepTokens, block_size: int) -> list[NDArray[np.int64]]:
    """Requests in groups whose members differ at most twofold in chunk length, or fourfold in the context of a decode.

    Args:
        step: what is computed.
        block_size: tokens in a block.
    """
    blocks = -(-(step.computed + step.tokens) // block_size)
    lengths = np.ceil(np.log2(step.tokens)).astype(np.int64)
    contexts = np.ceil(np.log2(blocks)).astype(np.int64) // 2
    kinds = np.where(step.tokens == 1, -1 - contexts, lengths)
    return [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]
