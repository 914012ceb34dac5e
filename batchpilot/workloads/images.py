"""Images in requests: how large, which, and where in the prompt. Sides in pixels, lengths in tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchpilot.core.image_sizes import SIDES_PX, image_tokens

NONE_PX = 0
"""Stands for "no image" among sides."""


@dataclass(frozen=True, eq=False)
class Images:
    """Images of some requests, at most one each. Build one with `from_arrays`.

    Attributes:
        side_px: one of `SIDES_PX`, `NONE_PX` for a request without, shape (n,), int64.
        number: which image it is, shape (n,), int64; equal sides and numbers are one image. Of those without it is
            ignored.
        before_tokens: prompt tokens before it, shape (n,), int64.
    """

    side_px: NDArray[np.int64]
    number: NDArray[np.int64]
    before_tokens: NDArray[np.int64]

    @classmethod
    def from_arrays(cls, side_px: ArrayLike, number: ArrayLike | None = None, before_tokens: ArrayLike = 0) -> Images:
        """Build from columns.

        Args:
            side_px: sides, shape (n,); 0 for a request without an image.
            number: which image each is, whole numbers that broadcast to (n,); None for all different ones.
            before_tokens: prompt tokens before each, >= 0, likewise; by default a prompt begins with its image.

        Raises:
            ValueError: a side that is none of `SIDES_PX`, or a number below 0; the message names the request.
        """
        side = np.atleast_1d(np.asarray(side_px)).astype(np.int64)
        wrong = np.flatnonzero(~np.isin(side, (NONE_PX, *SIDES_PX)))
        if len(wrong):
            allowed = ", ".join(map(str, SIDES_PX))
            raise ValueError(
                f"side_px of request {wrong[0]} is {side[wrong[0]]}; it must be {allowed}, or {NONE_PX} for no image"
            )
        which = np.arange(len(side)) if number is None else np.asarray(number)
        before = np.broadcast_to(np.asarray(before_tokens, np.int64), side.shape).copy()
        if (before < 0).any():
            raise ValueError(f"before_tokens of request {np.argmin(before)} is {before.min()}; it must be >= 0")
        return cls(side, np.broadcast_to(which, side.shape).astype(np.int64), before)

    @classmethod
    def none(cls, n: int) -> Images:
        """So many requests without an image.

        Args:
            n: how many.
        """
        return cls.from_arrays(np.full(n, NONE_PX))

    def __len__(self) -> int:
        return len(self.side_px)

    @property
    def shown(self) -> NDArray[np.bool_]:
        """Which requests have one, shape (n,)."""
        shown: NDArray[np.bool_] = self.side_px != NONE_PX
        return shown

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Prompt tokens of each, 0 for none, shape (n,)."""
        return image_tokens(self.side_px)

    @property
    def end_tokens(self) -> NDArray[np.int64]:
        """Prompt tokens up to the end of each, 0 for none, shape (n,)."""
        return np.where(self.shown, self.before_tokens + self.tokens, 0)

    def contents(self) -> NDArray[np.int64]:
        """A number 0, 1, 2 ... for each different image, -1 for none, shape (n,)."""
        told = np.full(len(self), -1, np.int64)
        pairs = np.stack([self.number, self.side_px], axis=1)[self.shown]
        if len(pairs):
            told[self.shown] = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
        return told

    def encoded(self, room: int, cached_tokens: ArrayLike | None = None) -> NDArray[np.bool_]:
        """Which are encoded where requests are let in one by one in this order, features kept as an engine keeps them.

        Args:
            room: images whose features are kept, the least recently used dropped first, >= 0.
            cached_tokens: prompt tokens that a prefix cache has of each; an image among them needs no features. None
                for no such cache.

        Returns:
            A mask of shape (n,).
        """
        needed = self.shown if cached_tokens is None else self.end_tokens > np.asarray(cached_tokens)
        encoded = np.zeros(len(self), np.bool_)
        kept: dict[int, None] = {}
        contents = self.contents()
        for row in np.flatnonzero(needed).tolist():
            content = int(contents[row])
            encoded[row] = content not in kept
            kept.pop(content, None)
            kept[content] = None
            if len(kept) > room:
                del kept[next(iter(kept))]
        return encoded

    def select(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Images:
        """Those of some requests, in order.

        Args:
            rows: an index array, a mask of shape (n,) or a slice.
        """
        return Images(self.side_px[rows], self.number[rows], self.before_tokens[rows])

    def apart(self, group: NDArray[np.int64]) -> Images:
        """The same with no image in two groups of requests.

        Args:
            group: a number for each request, >= 0, shape (n,).
        """
        contents = self.contents()
        return Images(self.side_px, contents + (int(contents.max(initial=-1)) + 1) * group, self.before_tokens)
