"""Columns of a request table, made whole and refused by name where they are not as they should be."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchpilot.workloads.images import Images
from batchpilot.workloads.prefixes import Prefixes
from batchpilot.workloads.turns import Turns


def broadcast(name: str, values: ArrayLike, n: int) -> NDArray[np.generic]:
    """A column, one value a request.

    Args:
        name: of the column.
        values: of it, or one for all.
        n: requests.

    Returns:
        Shape (n,).

    Raises:
        ValueError: there are fewer or more.
    """
    array = np.asarray(values)
    try:
        return np.array(np.broadcast_to(array, (n,)))
    except ValueError:
        raise ValueError(f"{name} has shape {array.shape}; it must match the {n} arrival times") from None


def whole(name: str, values: ArrayLike, n: int, lowest: int, highest: int | None = None) -> NDArray[np.int64]:
    """A column of whole numbers within bounds.

    Args:
        name: of the column.
        values: of it, or one for all.
        n: requests.
        lowest: bound of each.
        highest: likewise; None for none.

    Returns:
        Shape (n,).

    Raises:
        ValueError: a value is no whole number or outside the bounds; the message names column, row and value.
    """
    array = broadcast(name, values, n).astype(np.float64)
    bound = f"a whole number >= {lowest}" if highest is None else f"a whole number from {lowest} to {highest}"
    good = np.isfinite(array) & (array == np.floor(array)) & (array >= lowest)
    if highest is not None:
        good &= array <= highest
    require(name, array, good, bound)
    return array.astype(np.int64)


def require(name: str, values: NDArray[np.float64], good: NDArray[np.bool_], bound: str) -> None:
    """Refuse a column by its first value that is not as it should be.

    Args:
        name: of the column.
        values: of it, shape (n,).
        good: those that are as they should be, shape (n,).
        bound: what they should be.

    Raises:
        ValueError: one is not; the message names column, row and value.
    """
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(f"{name} of request {row} is {values[row]:g}; it must be {bound}")


def check_beside(
    prompt: NDArray[np.int64], concurrency: int, prefixes: Prefixes | None, turns: Turns | None, images: Images | None
) -> None:
    """What stands beside the columns is of as many requests, and images lie within their prompts.

    Args:
        prompt: prompt tokens, shape (n,).
        concurrency: clients of a closed loop.
        prefixes: block hashes of each request.
        turns: conversations of the requests.
        images: of each request.

    Raises:
        ValueError: something does not fit the requests; the message says what.
    """
    n = len(prompt)
    if prefixes is not None and len(prefixes) != n:
        raise ValueError(f"there are block hashes of {len(prefixes)} requests; there must be of all {n}")
    if turns is not None and len(turns) != n:
        raise ValueError(f"there are conversations of {len(turns)} requests; there must be of all {n}")
    if turns is not None and concurrency:
        raise ValueError(f"concurrency is {concurrency}; conversations already wait for their answers, so leave it 0")
    if images is not None:
        _check_images(prompt, images)


def _check_images(prompt: NDArray[np.int64], images: Images) -> None:
    """Images are of as many requests, and lie within their prompts."""
    n = len(prompt)
    if len(images) != n:
        raise ValueError(f"there are images of {len(images)} requests; there must be of all {n}, 0 px for none")
    short = np.flatnonzero(prompt < images.end_tokens)
    if len(short):
        row = short[0]
        last = int(np.argmax(images.ends[row]))
        raise ValueError(
            f"prompt_tokens of request {row} is {prompt[row]}, but its image of {images.side_px[row, last]} px "
            f"ends at token {images.end_tokens[row]}; prompt_tokens counts the tokens of images, too"
        )
