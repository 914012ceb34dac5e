"""What some requests of several tables have, put end to end: conversations, images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TypeVar

import numpy as np

from batchpilot.workloads.images import Images
from batchpilot.workloads.turns import Turns

C = TypeVar("C", Images, Turns)


def put_end_to_end(kind: type[C], parts: Sequence[C | None], lengths: Sequence[int]) -> C | None:
    """The columns of several tables as one; tables have nothing in common with one another.

    Args:
        kind: of columns.
        parts: of each table; None for one without.
        lengths: requests of each table.

    Returns:
        None where no table has any.
    """
    if all(part is None for part in parts):
        return None
    whole = [kind.none(n) if part is None else part for part, n in zip(parts, lengths, strict=True)]
    most = max(_most(part) for part in whole)
    whole = [part.widened(most) if isinstance(part, Images) else part for part in whole]
    joined = kind(*(np.concatenate([getattr(part, one.name) for part in whole]) for one in fields(kind)))
    return joined.apart(np.repeat(np.arange(len(whole)), lengths))


def _most(part: Images | Turns) -> int:
    """Columns that a request has."""
    return part.most if isinstance(part, Images) else 1
