"""What an interval of a fleet is worth: tokens served within SLO, minus what the replicas cost."""

from __future__ import annotations

import math
from collections.abc import Callable

from batchpilot.envs.fleet.prepared import PreparedFleet
from batchpilot.envs.fleet.run import Interval

FleetReward = Callable[[Interval, PreparedFleet], float]
"""From an interval, and what is run, to its reward."""

COST_WEIGHT = 0.3
"""A replica is worth its cost when it serves this share of what it could, within SLO."""


class GoodputMinusCost:
    """Good tokens over what one replica of the first kind can serve, minus a share for every replica paid for.

    Both are counted in replicas: +1 for as many output tokens within SLO as one replica can generate in the interval by
    estimate, -`cost_weight` for each replica that starts, serves or drains throughout it, kinds weighed by their price.

    Args:
        cost_weight: what a replica costs, >= 0.

    Raises:
        ValueError: the weight is below 0 or not finite.
    """

    def __init__(self, cost_weight: float = COST_WEIGHT) -> None:
        if not (cost_weight >= 0 and math.isfinite(cost_weight)):
            raise ValueError(f"cost_weight is {cost_weight}; it must be >= 0 and finite")
        self.cost_weight = cost_weight

    def __call__(self, interval: Interval, prepared: PreparedFleet) -> float:
        """The reward of an interval.

        Args:
            interval: what it brought.
            prepared: what is run.
        """
        able = prepared.offer.capacity_output_tokens_per_s * interval.duration_ms / 1000.0
        good = interval.total_good_tokens / able if able > 0 else 0.0
        return good - self.cost_weight * interval.paid_replicas

    def by_row(self, interval: Interval, prepared: PreparedFleet) -> list[float]:
        """The same for each row alone; together they are the fleet's but for requests whose replica is gone.

        Args:
            interval: what it brought.
            prepared: what is run.
        """
        able = prepared.offer.capacity_output_tokens_per_s * interval.duration_ms / 1000.0
        good = interval.good_tokens / able if able > 0 else 0.0 * interval.good_tokens
        found: list[float] = (good - self.cost_weight * interval.paid_by_row).tolist()
        return found


class OwnFleetReward:
    """A reward of the user's own, held to its contract.

    Args:
        reward: the function.
    """

    def __init__(self, reward: FleetReward) -> None:
        self._reward = reward

    def __call__(self, interval: Interval, prepared: PreparedFleet) -> float:
        """The reward of an interval.

        Args:
            interval: what it brought.
            prepared: what is run.

        Raises:
            ValueError: it gave no finite number.
        """
        reward = self._reward(interval, prepared)
        if not isinstance(reward, int | float) or not math.isfinite(reward):
            raise ValueError(f"the reward gave {reward!r} for an interval; it must give one finite number")
        return float(reward)
