"""Ray Serve: the fleet's scalers as a custom autoscaling policy. Ray starts and stops the replicas. Times in s.

    @serve.deployment(autoscaling_config={"min_replicas": 1, "max_replicas": 8, "policy": scaling_policy()})
    class Model: ...

Ray tells what waits at its handles and what runs; use is what runs over `target_ongoing_requests` of each replica. A
deployment that has `record_autoscaling_stats` may tell more: `utilisation` (0-1), `ttft_s`, `response_s` (means), and
`arrivals_per_s` and `tokens_per_s`, which are added over replicas.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from batchpilot.core.extras import needing
from batchpilot.core.names import lookup
from batchpilot.fleet.scalers import SCALERS, FleetView, Scaler

with needing("the Ray Serve scaling policy", "ray"):
    from ray.serve.config import AutoscalingContext, AutoscalingPolicy

KNOWS_THE_FUTURE = "clairvoyant"


def scaling_policy(rule: str = "queue-and-use", **options: Any) -> AutoscalingPolicy:
    """What `autoscaling_config` takes under `policy`.

    Args:
        rule: a scaler: queue-and-use, target-use, response-time or predictive.
        **options: the scaler's own, as `interval_s` or `up_queue`.

    Raises:
        ValueError: no such rule, or one that nobody can follow who does not know the future.
        TypeError: the rule has no such option.
    """
    _scaler(rule, options)
    return AutoscalingPolicy(policy_function=ScalerPolicy, policy_kwargs={"rule": rule, **options})


class ScalerPolicy:
    """Asks a scaler as often as it wants to be asked; in between its last answer holds.

    Args:
        rule: as for `scaling_policy`.
        **options: likewise.
    """

    def __init__(self, rule: str = "queue-and-use", **options: Any) -> None:
        self._scaler = _scaler(rule, options)
        self._asked_s = -math.inf
        self._wanted: int | None = None

    def __call__(self, ctx: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Ray's interface: replicas wanted, and state that is not needed, as a policy lives in the controller.

        Args:
            ctx: what Ray knows of the deployment.
        """
        now_s = time.time() if ctx.current_time is None else float(ctx.current_time)
        if now_s - self._asked_s >= self._scaler.interval_s:
            self._asked_s = now_s
            self._wanted = self._scaler.decide(_view(ctx, now_s))
        wanted = ctx.target_num_replicas if self._wanted is None else self._wanted
        return min(max(wanted, ctx.capacity_adjusted_min_replicas), ctx.capacity_adjusted_max_replicas), {}


def _scaler(rule: str, options: Mapping[str, Any]) -> Scaler:
    known = {name: make for name, make in SCALERS.items() if name != KNOWS_THE_FUTURE}
    return lookup(known, rule, "scaler")(**options)


def _view(ctx: AutoscalingContext, now_s: float) -> FleetView:
    told = ctx.aggregated_metrics or {}

    def values(name: str) -> list[float]:
        return [float(value) for value in told.get(name, {}).values() if not math.isnan(float(value))]

    def mean(name: str, otherwise: float) -> float:
        known = values(name)
        return sum(known) / len(known) if known else otherwise

    serving = int(ctx.current_num_replicas)
    queued, running = float(ctx.total_queued_requests or 0.0), float(ctx.total_running_requests)
    room = max(serving, 1) * float(ctx.config.get_target_ongoing_requests())
    return FleetView(
        now_s=now_s,
        serving=serving,
        starting=max(int(ctx.target_num_replicas) - serving, 0),
        queued=round(queued),
        running=round(running),
        utilisation=mean("utilisation", min(running / room, 1.0)),
        ttft_s=mean("ttft_s", math.nan),
        response_s=mean("response_s", math.nan),
        arrivals_per_s=sum(values("arrivals_per_s")),
        tokens_per_s=sum(values("tokens_per_s")),
    )
