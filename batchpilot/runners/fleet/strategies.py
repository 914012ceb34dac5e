"""What may compete for a fleet, by the name typed: ROUTER+SCALER, ROUTER+SCALER+LIMITS, and references in hindsight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from batchpilot.baselines import SERVER_DEFAULT, Setting
from batchpilot.baselines.guarded import GuardedTuner
from batchpilot.baselines.static import StaticTuner
from batchpilot.configs.tuner import TunerConfig
from batchpilot.core.limits import Limits
from batchpilot.core.names import lookup, unknown_name
from batchpilot.core.slo import SLO
from batchpilot.core.tuner import Tuner
from batchpilot.envs.fleet.finding import found_in_turns
from batchpilot.envs.fleet.prepared import PreparedFleet
from batchpilot.envs.fleet.references import BEST_FIXED, CLAIRVOYANT, clairvoyants_of
from batchpilot.envs.fleet.run import POLL_MS, Orders
from batchpilot.envs.scenarios import PreparedRun, prepare
from batchpilot.fleet.forecast import Forecast
from batchpilot.fleet.routers import RULES, Router
from batchpilot.fleet.scalers import SCALERS, Predictive, Scaler
from batchpilot.fleet.spec import ReplicaSpec
from batchpilot.fleet.tuner import FleetTuner, Kind
from batchpilot.latency.planning.demand import Demand
from batchpilot.runners.leaderboard.evaluation import tightest_slo
from batchpilot.runners.leaderboard.strategies import make_strategy
from batchpilot.tuners import TUNERS
from batchpilot.workloads.table import RequestTable

NONE, SPLIT, PLANNED = "none", "split", "fleet-tuner"
"""No scaler; none, and replicas split into pools that prefill and decode; replicas and limits planned together."""

SHIPPED, GUARDED = "static-default", "guarded-default"
"""Limits of replicas: what servers ship, which hold unless others are named, and those that hold in the references."""

DEFAULT, ALL = "default", "all"

FORECAST_SLOT_S = 30.0

REFERENCES = (BEST_FIXED, CLAIRVOYANT)

_LOG_REQUESTS = 400
_LOG_SEED_STRIDE = 7_919

_SCALERS = (NONE, SPLIT, *(name for name in SCALERS if name != CLAIRVOYANT), PLANNED)

DEFAULT_STRATEGIES = (
    *(f"{rule}+{how}" for rule, how in product(("round-robin", "least-tokens"), _SCALERS[:-1])),
    *(f"least-tokens+{how}+{GUARDED}" for how in (NONE, SPLIT, "queue-and-use", "predictive")),
    f"least-tokens+{PLANNED}",
    *REFERENCES,
)
"""Strategies that compete when none are named."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """Who routes, who scales, and what replicas run with.

    Attributes:
        name: as typed.
        rule: of routing.
        scaler: of `_SCALERS`, or a reference.
        limits: a tuner of each replica, by name.
    """

    name: str
    rule: str
    scaler: str
    limits: str = SHIPPED

    @property
    def is_reference(self) -> bool:
        """Whether it knows the future."""
        return self.scaler in REFERENCES

    def make(self, run: PreparedRun, seed: int) -> Limits | Tuner:
        """What a replica runs with; limits that never move as such, since those need no windows.

        Args:
            run: of its engine.
            seed: of a tuner's draws.
        """
        return limits_by(self.limits, run, seed)

    def router(self) -> Router:
        """Who takes a request; replicas are looked at once a second."""
        return Router(self.rule, poll_ms=POLL_MS)

    def ways(self, prepared: PreparedFleet) -> list[tuple[PreparedFleet, Scaler | None]]:
        """What is played: replicas at the start and who scales them; of a reference all that it may choose from.

        Args:
            prepared: what is run.
        """
        if self.scaler == BEST_FIXED:
            bounds = range(prepared.scenario.least, prepared.scenario.most + 1)
            return [(prepared.standing(count), Orders(prepared.scenario.interval_s)) for count in bounds]
        if self.scaler == CLAIRVOYANT:
            return [(prepared, scaler) for scaler in clairvoyants_of(prepared)]
        if self.scaler in (NONE, SPLIT):
            return [(prepared.split() if self.scaler == SPLIT else prepared, None)]
        return [(prepared, _BUILDERS.get(self.scaler, _by_rule)(self.scaler, prepared))]


def limits_by(tuner: str, run: PreparedRun, seed: int) -> Limits | Tuner:
    """What a replica runs with; limits that never move as such, since those need no windows.

    Args:
        tuner: by name.
        run: of the replica's engine.
        seed: of the tuner's draws.

    Raises:
        ValueError: an unknown name.
    """
    believed = run.engine.believed_latency()
    setting = Setting(TunerConfig(), SERVER_DEFAULT, tightest_slo(run), seed, "guarded", believed)
    built = make_strategy(tuner, setting)
    fixed = isinstance(built, StaticTuner) or (isinstance(built, GuardedTuner) and setting.slo is not None)
    return built.ask() if fixed else built


def parse(name: str) -> Strategy:
    """A strategy by name.

    Args:
        name: ROUTER+SCALER, ROUTER+SCALER+LIMITS, or a reference.

    Raises:
        ValueError: an unknown router, scaler or tuner of limits; the message names the closest ones.
    """
    if name in REFERENCES:
        return Strategy(name, "least-tokens", name, GUARDED)
    parts = name.split("+")
    if len(parts) not in (2, 3):
        raise ValueError(
            f"{unknown_name(name, REFERENCES, 'fleet strategy')}; others are ROUTER+SCALER or ROUTER+SCALER+LIMITS, "
            f"such as least-tokens+queue-and-use+{GUARDED}"
        )
    rule, scaler, *limits = parts
    lookup(RULES, rule, "routing rule")
    lookup(dict.fromkeys(_SCALERS), scaler, "scaler")
    if limits:
        lookup(dict.fromkeys(TUNERS), limits[0], "tuner of a replica's limits")
        if scaler == PLANNED:
            raise ValueError(f"{name}: {PLANNED} sets the limits itself; leave +{limits[0]} out")
    return Strategy(name, rule, scaler, limits[0] if limits else GUARDED if scaler == PLANNED else SHIPPED)


def expand(names: tuple[str, ...]) -> tuple[str, ...]:
    """Strategies as typed, without doubles: "default" (or none at all) and "all" stand for many.

    Args:
        names: as typed.

    Raises:
        ValueError: an unknown one.
    """
    every = (*(f"{rule}+{how}" for rule, how in product(RULES, _SCALERS)), *REFERENCES)
    known = {DEFAULT: DEFAULT_STRATEGIES, ALL: every}
    found = dict.fromkeys(one for name in names or (DEFAULT,) for one in known.get(name, (name,)))
    for one in found:
        parse(one)
    return tuple(found)


def forecast_of(prepared: PreparedFleet) -> Forecast:
    """A forecast that looks for the scenario's day, where it has one.

    Args:
        prepared: what is run.
    """
    day_s = prepared.scenario.day_s
    return Forecast(period_s=day_s or 0.0, slot_s=FORECAST_SLOT_S)


def _predictive(_: str, prepared: PreparedFleet) -> Scaler:
    scenario = prepared.scenario
    return Predictive(
        prepared.added_tokens_per_s,
        ahead_s=scenario.startup_s,
        forecast=forecast_of(prepared),
        interval_s=scenario.interval_s,
    )


def planner(
    specs: Sequence[ReplicaSpec],
    log: RequestTable,
    *,
    least: int,
    most: int,
    startup_s: float,
    scaled: Mapping[int, int] | None = None,
    **options: Any,
) -> FleetTuner:
    """The fleet tuner, which believes of steps what replicas believe.

    Where replicas have a prefix cache it believes that they find in it what they would where they take turns.

    Args:
        specs: kinds of replicas.
        log: requests like those that come: the mix of lengths and the tightest promise.
        least: fewest replicas of the kinds that are scaled together.
        most: most of them.
        startup_s: of a replica.
        scaled: which these are, as `scaled_kinds` tells them; None for the first alone.
        **options: others of `FleetTuner`.

    Raises:
        ValueError: the log is empty, or no replica keeps its promise.
    """
    if not len(log):
        raise ValueError(f"the log holds no requests; {PLANNED} plans for their lengths and promises")
    lengths = (log.prompt_tokens, log.output_tokens)
    demand = Demand(*(one[:_LOG_REQUESTS].astype(np.float64) for one in lengths))
    standing = max(sum(spec.count for spec in specs), 1)
    kinds = [
        Kind(
            spec.engine.believed_latency(),
            spec.engine.capacity_tokens,
            0 if k in (scaled or (0,)) else spec.count,
            _beside_cache(spec, log, standing),
        )
        for k, spec in enumerate(specs)
    ]
    promise = SLO(float(log.ttft_target_ms.min()), float(log.tpot_target_ms.min()))
    bounds: dict[str, Any] = {"least": least, "most": most, "ahead_s": startup_s, "scaled": scaled}
    return FleetTuner(kinds, demand, promise, **bounds, **options)


def _beside_cache(spec: ReplicaSpec, log: RequestTable, standing: int) -> Demand | None:
    if not spec.engine.prefix_cache or log.prefixes is None:
        return None
    own, found = found_in_turns(spec.engine, log, standing)
    return Demand(*(column.astype(np.float64) for column in (own.prompt_tokens, own.output_tokens, found)))


def _planned(_: str, prepared: PreparedFleet) -> Scaler:
    """The fleet tuner, told another day's log of the scenario."""
    scenario = prepared.scenario
    return planner(
        prepared.offer.specs,
        prepare(scenario.each, prepared.seed + _LOG_SEED_STRIDE).requests,
        least=scenario.least,
        most=scenario.most,
        startup_s=scenario.startup_s,
        scaled=prepared.growing,
        interval_s=scenario.interval_s,
        forecast=forecast_of(prepared),
    )


def _by_rule(name: str, prepared: PreparedFleet) -> Scaler:
    return SCALERS[name](interval_s=prepared.scenario.interval_s)


_BUILDERS: dict[str, Callable[[str, PreparedFleet], Scaler]] = {
    "predictive": _predictive,
    PLANNED: _planned,
}
