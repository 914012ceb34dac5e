"""Seeds of each suite: every suite that is trained, chosen or judged on has a block of its own."""

from __future__ import annotations

BLOCK = 1_000_000
"""Seeds in a block."""

_OWN_BLOCK = ("train", "validation", "held-out")


def suite_seeds(suite: str) -> range:
    """The seeds that a suite's runs draw from: the k-th run of a scenario takes the k-th.

    Args:
        suite: a suite's name; every suite without a block of its own shares the one that starts at 0.
    """
    block = next((k for k, part in enumerate(_OWN_BLOCK, 1) if suite == part or suite.endswith(f"-{part}")), 0)
    return range(block * BLOCK, (block + 1) * BLOCK)


def seeds_of(suite: str, first: int, count: int) -> range:
    """Some seeds of a suite, counted from the suite's first.

    Args:
        suite: a suite's name.
        first: place of the first one within the suite's block, >= 0.
        count: how many, >= 1.

    Raises:
        ValueError: they do not lie within the block.
    """
    if first < 0 or count < 1 or first + count > BLOCK:
        raise ValueError(f"seeds {first} to {first + count - 1}: a suite has the seeds 0 to {BLOCK - 1}, at least one")
    return suite_seeds(suite)[first : first + count]
