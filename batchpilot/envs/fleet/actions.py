"""What an agent may decide about a fleet, as whole numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from batchpilot.core.limits import Limits
from batchpilot.core.names import lookup
from batchpilot.envs.fleet.prepared import PreparedFleet
from batchpilot.envs.fleet.run import Decision
from batchpilot.fleet.routers import RULES

FIELDS = ("replicas", "router", "weights", "limits")
"""What an action may set: how many replicas, by which rule requests are routed, each row's weight, each kind's batch
size."""

BATCH_FACTORS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)
"""Of the batch size that a kind has at the start: the ladder of `limits`."""

WEIGHT_FACTORS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)
"""Of the weight that a kind has at the start: the ladder of `weights`."""


class FleetActions:
    """From whole numbers to decisions.

    Args:
        fields: of `FIELDS`, each once; their numbers stand in this order.
        least: fewest replicas of the first kind.
        most: most of them.
        kinds: the kind of each row.

    Attributes:
        fields: what an action sets.
        space: `MultiDiscrete`: one number for `replicas` (0 is `least`) and for `router` (the place in `RULES`), one a
            row for `weights`, one a kind for `limits`.

    Raises:
        ValueError: an unknown field, none, or one twice.
    """

    def __init__(self, fields: Sequence[str], least: int, most: int, kinds: Sequence[int]) -> None:
        for name in fields:
            lookup(dict.fromkeys(FIELDS), name, "field of a fleet's action")
        if not fields or len(set(fields)) < len(fields):
            raise ValueError(f"fields is {tuple(fields)!r}; name at least one of {', '.join(FIELDS)}, each once")
        self.fields = tuple(fields)
        self._least, self._kinds = least, list(kinds)
        sizes = {
            "replicas": [most - least + 1],
            "router": [len(RULES)],
            "weights": [len(WEIGHT_FACTORS)] * len(kinds),
            "limits": [len(BATCH_FACTORS)] * (max(kinds) + 1),
        }
        self._counts = [len(sizes[name]) for name in self.fields]
        self.space = spaces.MultiDiscrete([size for name in self.fields for size in sizes[name]])

    def decision(self, action: Any, prepared: PreparedFleet) -> Decision:
        """What an action means.

        Args:
            action: one number a place, shape (places,).
            prepared: the fleet that it is for.

        Raises:
            ValueError: it is not in the space.
        """
        given = np.asarray(action)
        if given.dtype.kind not in "iu" or not self.space.contains(given.astype(self.space.dtype)):
            raise ValueError(f"action is {action!r}; it must be in {self.space}")
        parts = dict(zip(self.fields, np.split(given.astype(int), np.cumsum(self._counts)[:-1]), strict=True))
        specs = prepared.offer.specs
        decided: dict[str, Any] = {}
        if "replicas" in parts:
            decided["replicas"] = self._least + int(parts["replicas"][0])
        if "router" in parts:
            decided["rule"] = list(RULES)[int(parts["router"][0])]
        if "weights" in parts:
            decided["weights"] = {
                i: specs[kind].weight * WEIGHT_FACTORS[int(parts["weights"][i])] for i, kind in enumerate(self._kinds)
            }
        if "limits" in parts:
            decided["limits"] = {
                i: scaled(specs[kind].limits, BATCH_FACTORS[int(parts["limits"][kind])])  # type: ignore[arg-type]
                for i, kind in enumerate(self._kinds)
            }
        return Decision(**decided)

    def start(self, replicas: int) -> np.ndarray[Any, Any]:
        """The action that leaves a fleet as it is at the start.

        Args:
            replicas: of the first kind that stand ready.
        """
        neutral = {
            "replicas": replicas - self._least,
            "router": list(RULES).index("least-tokens"),
            "weights": WEIGHT_FACTORS.index(1.0),
            "limits": BATCH_FACTORS.index(1.0),
        }
        each = zip(self.fields, self._counts, strict=True)
        return np.concatenate([np.full(count, neutral[name], self.space.dtype) for name, count in each])


def scaled(limits: Limits, factor: float) -> Limits:
    """Limits with a multiple of their batch size, at least 1.

    Args:
        limits: at the start.
        factor: one of `BATCH_FACTORS`.
    """
    return limits.replace(batch_size=max(round(limits.batch_size * factor), 1))
