"""A fleet scenario of conversations, decision by decision: intervals tell of the turns when they come."""

import numpy as np
import pytest

from batchpilot.configs.fleet_scenario import FleetScenario
from batchpilot.core.limits import Limits
from batchpilot.envs.fleet.prepared import prepare_fleet
from batchpilot.envs.fleet.run import Decision, FleetRun
from batchpilot.fleet.routers import Router

TALKS = {
    "name": "talks",
    "description": "Conversations whose turns find their history.",
    "family": "agents",
    "replicas": {"A100-80GB": 2},
    "most": 3,
    "startup_s": 5,
    "interval_s": 10,
    "model": "Llama-3-8B",
    "engine": {"prefix_cache": True},
    "workload": {
        "conversations": {
            "duration_s": 40,
            "arrivals": {"kind": "poisson", "rate_per_s": 1.0},
            "requests": {"median": 4, "sigma": 0.5, "max": 8},
            "system_tokens": 64,
            "first_tokens": {"median": 300, "sigma": 0.5, "max": 1000},
            "message_tokens": {"median": 60, "sigma": 0.5, "max": 400},
            "output_tokens": {"median": 50, "sigma": 0.5, "max": 200},
            "think": {"median_s": 2, "sigma": 0.5, "max_s": 10},
            "max_context_tokens": 4000,
        }
    },
}


def test_intervals_add_up_to_the_run_and_turns_count_when_they_come():
    prepared = prepare_fleet(FleetScenario.model_validate(TALKS), 0, lambda run, seed: Limits(64, 2048))
    run = FleetRun(prepared, Router("prefix", poll_ms=1000.0))
    intervals = [run.step(Decision(replicas=3))]
    while not (run.done or run.over):
        intervals.append(run.step())
    served = run.result().served
    assert served.count("length") == len(served.requests) > 200
    assert sum(int(one.arrivals.sum()) for one in intervals) == len(served.requests)
    assert sum(one.good for one in intervals) == served.slo_met.sum()
    assert prepared.offer.found > 0.4
    came, planned = served.requests.arrival_ms, prepared.offer.requests.arrival_ms
    later = ~prepared.offer.requests.turns.first()
    assert (came[later] > planned[later]).all(), "answers take time"
    np.testing.assert_array_equal(came[~later], planned[~later])


def test_a_fleet_has_no_fixed_number_of_clients():
    closed = {"concurrency": 4, "requests": 10, "lengths": {"kind": "fixed", "prompt_tokens": 10, "output_tokens": 10}}
    with pytest.raises(ValueError, match="no fixed number of clients"):
        FleetScenario.model_validate(TALKS | {"workload": {"closed_loop": closed}})
