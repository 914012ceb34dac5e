"""What replicas have cached is no load: scalers, plans and the load that is offered count what has to be computed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from batchpilot import SLO, Limits, RequestTable, SaturationParameters
from batchpilot.configs.scenario import Scenario
from batchpilot.engines import EngineConfig
from batchpilot.envs.fleet.finding import found_in_turns, share_found
from batchpilot.envs.fleet.offering import Offer, offer, rates, to_compute
from batchpilot.fleet import Fleet, ReplicaSpec, Router
from batchpilot.fleet.scalers import Clairvoyant, FleetView, Predictive
from batchpilot.runners.fleet.strategies import planner
from batchpilot.workloads.prefixes import Prefixes

LATENCY = SaturationParameters(p_max=12.0, k_b=10.0, k_s=0.008, tau_0=5.0, tau_b=0.02, tau_c=3e-5)
PROMPT, CACHED, OUTPUT = 640, 592, 8
"""Tokens of a prompt, those of it that are cached wherever one was before, and of an answer."""


def spec(cache: bool, count: int = 1) -> ReplicaSpec:
    engine = EngineConfig(LATENCY, estimate=LATENCY, kv_capacity_tokens=40_000, prefix_cache=cache)
    return ReplicaSpec(engine, Limits(32, 2048), count=count, startup_s=1.0)


def table(n: int = 400, gap_ms: float = 50.0) -> RequestTable:
    """All prompts begin with the same 37 blocks."""
    lists = [[*range(37)] for _ in range(n)]
    arrivals = np.arange(n) * gap_ms
    prefixes = Prefixes.from_lists(lists, 16)
    return RequestTable.from_arrays(
        arrivals, np.full(n, PROMPT), np.full(n, OUTPUT), slos=SLO(2000.0, 100.0), prefixes=prefixes
    )


def test_what_one_replica_finds_is_told_beforehand():
    own, found = found_in_turns(spec(True).engine, table(), 4)
    assert len(own) == len(found) == 50
    assert (found == CACHED).all()
    assert share_found(spec(True).engine, table(), 4) == CACHED / PROMPT
    assert share_found(spec(False).engine, table(), 4) == 0
    assert share_found(spec(True).engine, replace(table(), prefixes=None), 4) == 0
    assert share_found(spec(True).engine, table(1), 4) == 0


class Listening(Predictive):
    """Keeps what it was told and what it wanted."""

    def decide(self, view: FleetView) -> int:
        wanted = super().decide(view)
        heard.append((view, wanted))
        return wanted


heard: list[tuple[FleetView, int]] = []


def test_a_predictive_scaler_wants_fewer_replicas_where_most_tokens_are_cached():
    wanted, told = {}, {}
    for cache in (False, True):
        heard.clear()
        scaler = Listening((PROMPT + OUTPUT) * 8.0, ahead_s=1.0, headroom=1.0, interval_s=4.0)
        fleet = Fleet(table(), [spec(cache)], Router("least-tokens"), scaler=scaler, bounds=(1, 4))
        fleet.run_until(math.inf)
        told[cache] = [view.tokens_per_s for view, _ in heard[1:4]]
        wanted[cache] = [count for _, count in heard[1:4]]
    assert told[False] == pytest.approx([20 * (PROMPT + OUTPUT)] * 3)
    # A replica that was added computes what all have in common once.
    assert told[True][-1] == pytest.approx(20 * (PROMPT - CACHED + OUTPUT))
    assert wanted[False] == [3, 3, 3]
    assert wanted[True][-1] == 1


def test_the_clairvoyant_knows_what_is_cached():
    requests = table()
    known = {
        found: rates(Offer(requests, [spec(True)], math.inf, 1.0, 1.0, "", found), 10.0)
        for found in (0.0, CACHED / PROMPT)
    }
    view = FleetView(0.0, 1, 0, 0, 0, 0.0, math.nan, math.nan, 20.0, 0.0)
    wants = [Clairvoyant(*told, (PROMPT + OUTPUT) * 8.0, headroom=1.0).decide(view) for told in known.values()]
    assert wants == [3, 1]
    assert to_compute(requests, CACHED / PROMPT).tolist() == pytest.approx([PROMPT - CACHED + OUTPUT] * 400)


def test_the_fleet_tuner_plans_fewer_replicas_where_most_tokens_are_cached():
    plans = []
    for cache in (False, True):
        tuner = planner([spec(cache)], table(), least=1, most=6, startup_s=1.0)
        for k in range(6):
            tuner.tell(FleetView(30.0 * (k + 1), 2, 0, 0, 5, 0.5, 0.1, 1.0, 60.0, 0.0))
        plans.append(tuner.ask())
    assert plans[1].replicas < plans[0].replicas
    assert plans[1].rate_per_s == plans[0].rate_per_s


def test_a_load_is_a_share_of_what_replicas_serve_with_their_caches():
    def scenario(cache: bool) -> Scenario:
        return Scenario.model_validate(
            {
                "name": "shared",
                "description": "Prompts behind one system prompt.",
                "family": "overload",
                "device": "A100-80GB",
                "model": "Llama-3-8B",
                "engine": {"prefix_cache": cache},
                "workload": {
                    "phases": [
                        {
                            "duration_s": 10,
                            "arrivals": {"kind": "poisson", "rate_per_s": 20},
                            "lengths": {"kind": "azure-conv", "max_prompt_tokens": 2000},
                        }
                    ],
                    "sharing": {"levels": [{"tokens": 4000}]},
                },
            }
        )

    offers = [
        offer(scenario(cache), [("A100-80GB", 2)], lambda run, seed: Limits(64), 0, 0.5, 1.0) for cache in (False, True)
    ]
    bare, cached = offers
    assert bare.found == 0 < 0.5 < cached.found < 1
    assert cached.capacity_per_s > 1.5 * bare.capacity_per_s
    rate_per_s = [len(one.requests) / (one.requests.duration_ms / 1000.0) for one in offers]
    assert rate_per_s[1] / rate_per_s[0] == pytest.approx(cached.capacity_per_s / bare.capacity_per_s, rel=1e-6)
