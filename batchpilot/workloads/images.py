"""Images in requests: how large, which, and where in the prompt. Sides in pixels, lengths in tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchpilot.core.image_sizes import MOST_IMAGES, SIDES_PX, image_tokens

NONE_PX = 0
"""Stands for "no image" among sides."""


@dataclass(frozen=True, eq=False)
class Images:
    """Images of n requests, up to m each, in the order of the prompt. Build one with `from_arrays`.

    Attributes:
        side_px: one of `SIDES_PX`, `NONE_PX` where there is none, shape (n, m), int64.
        number: which image it is, shape (n, m), int64; equal sides and numbers are one image. Where there is none it is
            ignored.
        before_tokens: prompt tokens before each, shape (n, m), int64.
    """

    side_px: NDArray[np.int64]
    number: NDArray[np.int64]
    before_tokens: NDArray[np.int64]

    @classmethod
    def from_arrays(cls, side_px: ArrayLike, number: ArrayLike | None = None, before_tokens: ArrayLike = 0) -> Images:
        """Build from columns.

        Args:
            side_px: sides, shape (n,), or (n, m) for up to m images a request; 0 for none.
            number: which image each is, whole numbers that broadcast to that shape; None for all different ones.
            before_tokens: prompt tokens before the first image of each, >= 0, of shape (n,) or less; images follow one
                another. Or before each image, of shape (n, m). By default a prompt begins with its images.

        Raises:
            ValueError: a side that is none of `SIDES_PX`, more than `MOST_IMAGES` of a request, a number of tokens
                below 0, or images that overlap; the message names the request.
        """
        given = np.atleast_1d(np.asarray(side_px)).astype(np.int64)
        each = -1 if given.size else 1 if given.ndim == 1 or len(given) else given.shape[1]
        side = given.reshape(len(given), each)
        wrong = np.argwhere(~np.isin(side, (NONE_PX, *SIDES_PX)))
        if len(wrong):
            row, place = wrong[0]
            allowed = ", ".join(map(str, SIDES_PX))
            raise ValueError(
                f"side_px of request {row} is {side[row, place]}; it must be {allowed}, or {NONE_PX} for no image"
            )
        if given.ndim > 2 or side.shape[1] > MOST_IMAGES:
            raise ValueError(
                f"side_px has shape {given.shape}; it must be (n,), or (n, m) for up to {MOST_IMAGES} each"
            )
        which = np.arange(side.size).reshape(side.shape) if number is None else np.asarray(number)
        if which.ndim == 1 and given.ndim == 1:
            which = which.reshape(-1, 1)
        start = np.asarray(before_tokens, np.int64)
        if start.ndim == 2:
            before = np.broadcast_to(start, side.shape).copy()
        else:
            lengths = image_tokens(side)
            before = np.broadcast_to(start, len(side)).reshape(-1, 1) + np.cumsum(lengths, axis=1) - lengths
        if (before < 0).any():
            row = np.argmin(before.min(axis=1))
            raise ValueError(f"before_tokens of request {row} is {before[row].min()}; it must be >= 0")
        images = cls(side, np.broadcast_to(which, side.shape).astype(np.int64), before)
        ends = np.where(side != NONE_PX, before + image_tokens(side), 0)
        so_far = np.maximum.accumulate(ends, axis=1)[:, :-1]
        overlap = np.flatnonzero((images.each[:, 1:] & (so_far > before[:, 1:])).any(axis=1))
        if len(overlap):
            raise ValueError(f"images of request {overlap[0]} overlap, or are not in the order of its prompt")
        return images

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
    def most(self) -> int:
        """How many images a request may have at most, m."""
        return int(self.side_px.shape[1])

    @property
    def each(self) -> NDArray[np.bool_]:
        """Where there is one, shape (n, m)."""
        each: NDArray[np.bool_] = self.side_px != NONE_PX
        return each

    @property
    def shown(self) -> NDArray[np.bool_]:
        """Which requests have any, shape (n,)."""
        return np.asarray(self.each.any(axis=1))

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Prompt tokens of the images of each request, 0 for none, shape (n,)."""
        return np.asarray(image_tokens(self.side_px).sum(axis=1))

    @property
    def ends(self) -> NDArray[np.int64]:
        """Prompt tokens up to the end of each image, 0 where there is none, shape (n, m)."""
        return np.where(self.each, self.before_tokens + image_tokens(self.side_px), 0)

    @property
    def end_tokens(self) -> NDArray[np.int64]:
        """Prompt tokens up to the end of the last image of each request, 0 for none, shape (n,)."""
        return np.asarray(self.ends.max(axis=1, initial=0))

    def contents(self) -> NDArray[np.int64]:
        """A number 0, 1, 2 ... for each different image, -1 where there is none, shape (n, m)."""
        told = np.full(self.side_px.shape, -1, np.int64)
        each = self.each
        pairs = np.stack([self.number[each], self.side_px[each]], axis=1)
        if len(pairs):
            told[each] = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
        return told

    def runs(self) -> NDArray[np.int64]:
        """A number for each run of images from the first on, the same for equal runs, -1 behind the last, shape (n, m).

        Runs of other lengths have other numbers.
        """
        contents, told, known = self.contents(), np.full(self.side_px.shape, -1, np.int64), 0
        before = np.full(len(self), -1, np.int64)
        for place in range(self.most):
            here = contents[:, place] >= 0
            pairs = np.stack([before, contents[:, place]], axis=1)[here]
            if len(pairs):
                told[here, place] = known + np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
                known = int(told.max()) + 1
            before = np.where(here, told[:, place], before)
        return told

    def encoded(self, room: int, cached_tokens: ArrayLike | None = None) -> NDArray[np.bool_]:
        """Which are encoded where requests are let in one by one in this order, features kept as an engine keeps them.

        Args:
            room: images whose features are kept, the least recently used dropped first, >= 0.
            cached_tokens: prompt tokens that a prefix cache has of each request, shape (n,); images among them need no
                features. None for no such cache.

        Returns:
            A mask of shape (n, m).
        """
        needed = self.each if cached_tokens is None else self.ends > np.asarray(cached_tokens).reshape(-1, 1)
        encoded = np.zeros(needed.shape, np.bool_)
        kept: dict[int, None] = {}
        contents = self.contents()
        for row in np.flatnonzero(needed.any(axis=1)).tolist():
            fresh: set[int] = set()
            for place in np.flatnonzero(needed[row]).tolist():
                content = int(contents[row, place])
                encoded[row, place] = content not in kept and content not in fresh
                fresh.add(content)
            for content in contents[row, needed[row]].tolist():
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
        shift = (int(contents.max(initial=-1)) + 1) * group.reshape(-1, 1)
        return Images(self.side_px, contents + shift, self.before_tokens)

    def widened(self, most: int) -> Images:
        """The same with room for more images a request.

        Args:
            most: how many, >= m.
        """
        more = ((0, 0), (0, most - self.most))
        return Images(*(np.pad(one, more) for one in (self.side_px, self.number, self.before_tokens)))
