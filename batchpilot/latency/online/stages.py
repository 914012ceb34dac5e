"""Roll-out: which parameters answer a prediction, from the offline fit alone to the adapted ones alone."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.names import unknown_name
from batchpilot.latency.model.saturation import SaturationParameters

STAGES = ("offline", "shadow", "partial", "full")
"""offline: observe only. shadow: update and compare, decide nothing. partial: answer some keys. full: answer all."""

_BUCKETS = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class Published:
    """Parameters that were published at once and never change again.

    Attributes:
        parameters: as everyone reads them.
        values: the same in field order, shape (11,), read-only, as the kernels take them.
        version: 0 for the base, then one more with each update.
    """

    parameters: SaturationParameters
    values: NDArray[np.float64]
    version: int

    @classmethod
    def of(cls, parameters: SaturationParameters, version: int) -> Published:
        """Parameters ready to publish.

        Args:
            parameters: to publish.
            version: their number.
        """
        values = parameters.as_array()
        values.flags.writeable = False
        return cls(parameters, values, version)


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Everything that a prediction needs, as one object: whoever holds it sees one consistent state.

    Attributes:
        base: the offline fit.
        adapted: the newest parameters that were validated.
        share: of keys that the adapted parameters answer; 0 for none, 1 for all and for predictions without a key.
    """

    base: Published
    adapted: Published
    share: float

    def for_key(self, key: str | int | None) -> Published:
        """Which parameters answer; the same key has the same answerer as long as the share does not fall.

        Args:
            key: whom the prediction is for (a user, a tenant, a replica); None if for nobody in particular.
        """
        if self.share >= 1.0:
            return self.adapted
        if self.share <= 0.0 or key is None:
            return self.base
        bucket = zlib.crc32(str(key).encode()) % _BUCKETS
        return self.adapted if bucket < self.share * _BUCKETS else self.base

    def with_adapted(self, adapted: Published) -> Answers:
        """The same with newer parameters.

        Args:
            adapted: validated.
        """
        return replace(self, adapted=adapted)


def stage_share(stage: str, partial_share: float) -> float:
    """The share of keys that adapted parameters answer in a stage.

    Args:
        stage: one of `STAGES`.
        partial_share: the share while in `partial`, 0 to 1.

    Raises:
        ValueError: no such stage, or the share is outside its bound.
    """
    if stage not in STAGES:
        raise ValueError(unknown_name(stage, STAGES, "roll-out stage"))
    if not 0.0 <= partial_share <= 1.0:
        raise ValueError(f"partial_share is {partial_share}; it must be within 0 to 1")
    return {"partial": partial_share, "full": 1.0}.get(stage, 0.0)
