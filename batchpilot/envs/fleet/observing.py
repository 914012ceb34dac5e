"""What an agent sees of a fleet: ratios over the last interval, of the whole and of each row that may be a replica."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.limits import Limits
from batchpilot.envs.fleet.run import FleetRun, Interval

_KINDS = {"flag": (0.0, 1.0), "share": (0.0, 1.0), "fill": (0.0, 2.0), "against": (0.0, 1.0), "level": (-1.0, 1.0)}


class FleetFeature(NamedTuple):
    """One number of the observation.

    Attributes:
        name: what it is called.
        kind: `flag` 0 or 1; `share` a / b, at most 1; `fill` a / b, at most 2; `against` a / (a + b); `level`
            log2(a / b) / 8, from -1 to 1.
        over: a / b in words.
        unit: of a and b.
    """

    name: str
    kind: str
    over: str
    unit: str

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and most."""
        return _KINDS[self.kind]


FLEET_FEATURES = (
    FleetFeature("serving", "share", "replicas that serve / rows", "replicas"),
    FleetFeature("starting", "share", "replicas that start / rows", "replicas"),
    FleetFeature("draining", "share", "replicas that finish what they have / rows", "replicas"),
    FleetFeature("load", "fill", "tokens that arrived / what the serving replicas can serve by estimate", "tokens/s"),
    FleetFeature("load_before", "fill", "the same of the interval before", "tokens/s"),
    FleetFeature("queue_against_running", "against", "waiting / running", "requests"),
    FleetFeature("utilisation", "share", "time within steps / time, mean of serving replicas", "ms"),
    FleetFeature("ttft_against_target", "against", "mean TTFT / its target", "ms"),
    FleetFeature("tpot_against_target", "against", "mean TPOT / its target", "ms"),
    FleetFeature("slo_attainment", "share", "ended within SLO / ended", "requests"),
    FleetFeature("refused", "share", "refused or failed / ended", "requests"),
)
"""Of the whole fleet."""

REPLICA_FEATURES = (
    FleetFeature("exists", "flag", "the row has a replica", "1"),
    FleetFeature("serves", "flag", "it has started and takes requests", "1"),
    FleetFeature("started", "share", "time since it was asked for / start-up time", "ms"),
    FleetFeature("suspected", "flag", "health checks have taken it out", "1"),
    FleetFeature("speed", "share", "what it can serve / what the quickest kind can", "requests/s"),
    FleetFeature("batch_fill", "fill", "running / batch size", "requests"),
    FleetFeature("queue_against_batch", "against", "waiting / batch size", "requests"),
    FleetFeature("replica_utilisation", "share", "time within steps / time", "ms"),
    FleetFeature("replica_ttft_against_target", "against", "mean TTFT / its target", "ms"),
    FleetFeature("replica_tpot_against_target", "against", "mean TPOT / its target", "ms"),
    FleetFeature("arrivals", "share", "requests that it took / all that arrived", "requests"),
    FleetFeature("batch_size_level", "level", "batch size / its kind's at the start", "requests"),
    FleetFeature("weight_level", "level", "weight / its kind's at the start", "1"),
)
"""Of each row, one behind another."""


def bounds(rows: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Least and most of every number of an observation.

    Args:
        rows: of the fleet.

    Returns:
        Two arrays of shape (fleet features + rows x replica features,).
    """
    features = [*FLEET_FEATURES, *REPLICA_FEATURES * rows]
    low, high = np.array([feature.bounds for feature in features], np.float32).T
    return low, high


def observe(run: FleetRun, interval: Interval | None, load_before: float) -> NDArray[np.float32]:
    """An observation.

    Args:
        run: the fleet.
        interval: the last one; None before the first.
        load_before: the feature `load` of the observation before.

    Returns:
        The fleet's features, then each row's; shape (fleet features + rows x replica features,).
    """
    whole = _whole(run, interval, load_before)
    low, high = bounds(run.prepared.rows)
    found = np.concatenate([whole, _rows(run, interval).ravel()])
    return np.asarray(np.clip(np.nan_to_num(found), low, high), np.float32)


def _whole(run: FleetRun, interval: Interval | None, load_before: float) -> NDArray[np.float64]:
    views, now_ms, rows = run.fleet.replicas.views, run.fleet.now_ms, run.prepared.rows
    here = (views["on"] == 1) & (views["dead"] == 0)
    started = here & (views["ready_ms"] <= now_ms)
    draining = started & (views["draining"] == 1)
    serving = started & ~draining
    counts = [serving.sum() / rows, (here & ~started).sum() / rows, draining.sum() / rows]
    if interval is None:
        return np.array([*counts, 0.0, load_before, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    offer = run.prepared.offer
    able = offer.capacity_tokens_per_s * _speeds(run)[serving].sum() / offer.specs[0].weight
    ttft_target, tpot_target = _targets(run)
    ended = max(interval.ended, 1)
    return np.array(
        [
            *counts,
            interval.view.tokens_per_s / able if able > 0 else 2.0,
            load_before,
            _against(float(interval.queued.sum()), float(interval.running.sum())),
            float(interval.utilisation[serving].mean()) if serving.any() else 0.0,
            _against(_mean(interval.ttft_ms), ttft_target),
            _against(_mean(interval.tpot_ms), tpot_target),
            interval.good / ended if interval.ended else 1.0,
            interval.refused / ended,
        ]
    )


def _rows(run: FleetRun, interval: Interval | None) -> NDArray[np.float64]:
    replicas, now_ms = run.fleet.replicas, run.fleet.now_ms
    views, speeds = replicas.views, _speeds(run)
    ttft_target, tpot_target = _targets(run)
    taken = 0 if interval is None else max(int(interval.arrivals.sum()), 1)
    found = np.zeros((len(replicas), len(REPLICA_FEATURES)))
    for i, kind in enumerate(replicas.kinds):
        spec, limits, view = replicas.specs[kind], replicas.limits_of(i), views[i]
        here = bool(view.on) and not view.dead
        ready = here and float(view.ready_ms) <= now_ms
        size = 1 if limits is None else limits.batch_size
        base = spec.limits.batch_size if isinstance(spec.limits, Limits) else size
        found[i, :5] = (
            here,
            ready and not view.draining,
            _started(float(view.ready_ms) - now_ms, spec.startup_s) if here else 0.0,
            here and view.suspected,
            speeds[i],
        )
        found[i, 11:] = math.log2((size if here else base) / base) / 8, math.log2(view.weight / spec.weight) / 8
        if interval is not None:
            found[i, 5:11] = (
                interval.running[i] / size,
                _against(float(interval.queued[i]), size),
                interval.utilisation[i],
                _against(float(interval.ttft_ms[i]), ttft_target),
                _against(float(interval.tpot_ms[i]), tpot_target),
                interval.arrivals[i] / taken,
            )
    return found


def _started(left_ms: float, startup_s: float) -> float:
    return 1.0 if left_ms <= 0 else 1.0 - min(left_ms / (1000.0 * startup_s), 1.0)


def _speeds(run: FleetRun) -> NDArray[np.float64]:
    """What each row can serve over what the quickest kind can, shape (rows,)."""
    return np.array([run.prepared.offer.specs[kind].weight for kind in run.fleet.replicas.kinds])


def _targets(run: FleetRun) -> tuple[float, float]:
    requests = run.prepared.offer.requests
    if not len(requests):
        return math.inf, math.inf
    return float(np.median(requests.ttft_target_ms)), float(np.median(requests.tpot_target_ms))


def _against(a: float, b: float) -> float:
    """Share of a in a + b: 0 where there is no a, or no end to b."""
    return a / (a + b) if a > 0 and math.isfinite(b) else 0.0


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
