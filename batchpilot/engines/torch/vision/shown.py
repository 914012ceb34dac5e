"""Which rows of a step are image tokens, and which part of which image they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchpilot.workloads.prompt_images import PromptImage


class Shown(NamedTuple):
    """A part of an image that a step computes.

    Attributes:
        image: it.
        row: of the step's packed tokens, the first that is one of its.
        first: which of its tokens that is.
        tokens: how many follow one another.
    """

    image: PromptImage
    row: int
    first: int
    tokens: int


class ShownImages:
    """The images of the requests in an engine, by row."""

    def __init__(self) -> None:
        self._images: dict[int, tuple[PromptImage, ...]] = {}

    def __len__(self) -> int:
        return len(self._images)

    def enter(self, r: int, images: Sequence[PromptImage]) -> None:
        """A request comes.

        Args:
            r: its row.
            images: in order.
        """
        if images:
            self._images[r] = tuple(images)

    def leave(self, r: int) -> None:
        """A request has gone.

        Args:
            r: its row.
        """
        self._images.pop(r, None)

    def of_step(self, requests: NDArray[np.int64], first: NDArray[np.int64], tokens: NDArray[np.int64]) -> list[Shown]:
        """What a step shows.

        Args:
            requests: rows of the requests in it, shape (n,).
            first: place in its prompt of the first token that each computes; below 0 is padding, shape (n,).
            tokens: how many each computes, shape (n,).
        """
        if not self._images:
            return []
        shown, row = [], 0
        for r, place, count in zip(requests.tolist(), first.tolist(), tokens.tolist(), strict=True):
            for image in self._images.get(r, ()):
                begin, end = max(image.start, place), min(image.end, place + count)
                if begin < end:
                    shown.append(Shown(image, row + begin - place, begin - image.start, end - begin))
            row += count
        return shown
