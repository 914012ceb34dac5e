"""A model of the images that requests carry: how many, how large, and how often the same. Lengths in tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.image_sizes import image_tokens
from batchpilot.workloads.images import NONE_PX, Images
from batchpilot.workloads.prefixes import Prefixes
from batchpilot.workloads.table import RequestTable

HASHED_TOKENS = 16
"""Tokens in a hashed block of an image; those of every size fill whole ones."""


@dataclass(frozen=True)
class ImageModel:
    """What images requests carry.

    Attributes:
        share: share of the requests that have one, 0 to 1.
        sizes: weight by side in px.
        different: how many there are of each size, >= 1.
        zipf: the k-th most popular is asked about in proportion to 1 / k ** zipf, >= 0.
        per_request: weight by how many a request has that has any; each is drawn by itself.
    """

    share: float
    sizes: Mapping[int, float]
    different: int = 1000
    zipf: float = 1.0
    per_request: Mapping[int, float] = field(default_factory=lambda: {1: 1.0})

    @property
    def mean_images(self) -> float:
        """Mean images of a request."""
        weights = np.array(list(self.per_request.values()))
        return float(self.share * (np.array(list(self.per_request)) * weights).sum() / weights.sum())

    @property
    def mean_tokens(self) -> float:
        """Mean image tokens of a request."""
        weights = np.array(list(self.sizes.values()))
        return float(self.mean_images * (image_tokens(list(self.sizes)) * weights).sum() / weights.sum())


def draw_images(model: ImageModel, n: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw which images each of n requests or conversations has.

    Args:
        model: what to draw.
        n: how many.
        rng: source of randomness.

    Returns:
        Sides in px, `NONE_PX` for none, and numbers, shape (n, m) each, m the most that a request may have.
    """
    sides, weights = np.array(list(model.sizes), np.int64), np.array(list(model.sizes.values()))
    popularity = 1.0 / np.arange(1, model.different + 1) ** model.zipf
    shown, most = rng.random(n) < model.share, max(model.per_request)
    side_px = rng.choice(sides, (n, most), p=weights / weights.sum())
    number = rng.choice(model.different, (n, most), p=popularity / popularity.sum())
    counts = np.where(shown, 1, 0)
    if most > 1:
        chances = np.array(list(model.per_request.values()))
        counts *= rng.choice(np.array(list(model.per_request)), n, p=chances / chances.sum())
    return np.where(np.arange(most) < counts.reshape(-1, 1), side_px, NONE_PX), number


def add_images(requests: RequestTable, model: ImageModel, rng: np.random.Generator) -> RequestTable:
    """The same requests with images drawn: prompts longer by their tokens.

    Args:
        requests: without images.
        model: what to draw.
        rng: source of randomness.

    Raises:
        ValueError: the requests have images already, or are turns of conversations, which `draw_conversations` draws
            with theirs.
    """
    if requests.images is not None:
        raise ValueError("the requests have images already; leave the drawn ones out")
    if requests.turns is not None:
        raise ValueError("turns repeat what was shown before; draw conversations with their images instead")
    side_px, number = draw_images(model, len(requests), rng)
    if requests.prefixes is None:
        images = Images.from_arrays(side_px, number)
        prefixes = _hashed(images)
    else:
        prefixes = requests.prefixes
        shared_tokens = prefixes.blocks() * prefixes.block_tokens
        images = Images.from_arrays(side_px, number, np.where((side_px > 0).any(axis=1), shared_tokens, 0))
    return replace(requests, prompt_tokens=requests.prompt_tokens + images.tokens, images=images, prefixes=prefixes)


def _hashed(images: Images) -> Prefixes:
    """Block hashes of prompts that begin with their images: equal images are equal beginnings, in equal order."""
    blocks = image_tokens(images.side_px).ravel() // HASHED_TOKENS
    most = int(blocks.max(initial=0))
    firsts = np.cumsum(blocks) - blocks
    owner: NDArray[np.int64] = np.repeat(np.arange(len(blocks)), blocks)
    starts = np.concatenate([[0], np.cumsum(blocks.reshape(-1, images.most).sum(axis=1))]).astype(np.int64)
    return Prefixes(images.runs().ravel()[owner] * most + np.arange(len(owner)) - firsts[owner], starts, HASHED_TOKENS)
