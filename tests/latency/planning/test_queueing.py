"""Waits and refusals: limits in which the answer is known, and directions that must hold."""

import math

import numpy as np
import pytest

from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.latency.planning.demand import Demand, kv_residents, residents_at, residents_for
from batchpilot.latency.planning.full_steps import full_steps
from batchpilot.latency.planning.queueing import (
    late_for_memory,
    refused_for_compute,
    refused_for_memory,
    slo_probability,
)

P = SaturationParameters(10.0, 10.0, 0.01, tau_0=5.0, tau_b=0.02, tau_c=2e-4)
CHAT = Demand(np.array([100.0, 400.0, 1500.0]), np.array([200.0, 100.0, 50.0]))


def test_little_s_law_ties_the_average_step_to_the_rate():
    requests, tokens, context = (float(x) for x in CHAT.step_at(30.0))
    assert requests == pytest.approx(30.0)
    assert tokens / requests == pytest.approx(CHAT.tokens / CHAT.steps)
    expected = np.mean([sum(p + g for g in range(1, n)) for p, n in ((100, 200), (400, 100), (1500, 50))])
    assert CHAT.context == pytest.approx(expected, rel=0.01)
    assert context == pytest.approx(30.0 / CHAT.steps * CHAT.context)


def test_at_saturation_the_average_step_takes_exactly_the_target():
    residents = residents_at(P, CHAT, 60.0)
    assert float(P.predict(*CHAT.step_at(residents))) == pytest.approx(60.0, rel=1e-6)
    engine = full_steps(P, CHAT, 60.0, 16_384)
    assert engine.rate * float(engine.work_ms.mean()) == pytest.approx(1.0)
    assert residents_for(P, CHAT, 0.99 * engine.rate) <= residents


def test_memory_bounds_the_tokens_of_a_full_step():
    engine = full_steps(P, CHAT, 400.0, 256)
    assert float(CHAT.step_at(engine.residents)[1]) == pytest.approx(256)
    assert engine.step_ms < 400.0


def test_no_engine_where_the_shortest_step_is_longer_than_the_target():
    assert full_steps(P, CHAT, 1.0, 16_384) is None


def test_the_kv_cache_holds_as_many_as_its_mean_and_spread_allow():
    mean, variance = CHAT.resident_kv
    places = kv_residents(CHAT, 50_000)
    assert places * mean + (places * variance) ** 0.5 <= 50_000
    assert (places + 1) * mean + ((places + 1) * variance) ** 0.5 > 50_000


def test_refusals_rise_with_the_rate_and_fall_with_patience():
    engine = full_steps(P, CHAT, 60.0, 16_384)
    by_rate = [refused_for_compute(engine, load * engine.rate, 2000.0).mean() for load in (0.5, 0.8, 0.95, 1.2)]
    assert by_rate == sorted(by_rate)
    assert by_rate[0] < 0.01
    by_patience = [refused_for_compute(engine, 0.95 * engine.rate, ttft).mean() for ttft in (500.0, 2000.0, 8000.0)]
    assert by_patience == sorted(by_patience, reverse=True)


def test_beyond_saturation_the_patient_lose_the_excess():
    engine = full_steps(P, CHAT, 60.0, 16_384)
    lost = refused_for_compute(engine, 2.0 * engine.rate, 1e6).mean()
    assert lost == pytest.approx(0.5, abs=0.02)


def test_a_prompt_that_is_too_long_by_itself_is_always_refused():
    engine = full_steps(P, CHAT, 60.0, 16_384)
    alone_ms = float(engine.prompt_ms[2])
    refused = refused_for_compute(engine, 1e-6, alone_ms)
    assert refused[2] == 1.0
    assert refused[0] < 0.01


def test_without_patience_places_are_refused_as_a_poisson_number_in_use_says():
    residence = np.full(4, 1000.0)
    in_use = 0.02 * 1000.0
    tail = 1 - sum(math.exp(-in_use) * in_use**k / math.factorial(k) for k in range(30))
    assert late_for_memory(residence, 0.02, 30, 1e-9) == pytest.approx(tail, rel=1e-6)


def test_more_places_and_more_patience_refuse_fewer():
    residence = np.array([500.0, 1500.0])
    by_places = [refused_for_memory(residence, 0.02, places, 300.0) for places in (15, 20, 25, 40)]
    assert by_places == sorted(by_places, reverse=True)
    assert by_places[0] > 0.2
    assert by_places[-1] < 1e-3
    assert refused_for_memory(residence, 0.02, 22, 2000.0) < refused_for_memory(residence, 0.02, 22, 20.0)


@pytest.mark.parametrize(
    ("rate", "service", "target", "bound"),
    [(0.5, 1000, 2000, 1 - 0.5**2), (0.0, 1000, 2000, 1.0), (1.0, 1000, 2000, 0.0), (0.5, 1000, 900, 0.0)],
)
def test_the_documents_bound_is_its_formula_where_it_says_anything(rate, service, target, bound):
    assert slo_probability(rate, service, target) == pytest.approx(bound)


@pytest.mark.parametrize("arguments", [(-1, 1, 1), (1, 0, 1), (1, 1, 0), (math.nan, 1, 1)])
def test_the_documents_bound_refuses_what_is_no_queue(arguments):
    with pytest.raises(ValueError, match="must be >= 0"):
        slo_probability(*arguments)


@pytest.mark.parametrize(("prompts", "outputs"), [([], []), ([0.0], [1.0]), ([1.0, 2.0], [1.0]), ([np.nan], [1.0])])
def test_a_demand_without_proper_lengths_is_refused(prompts, outputs):
    with pytest.raises(ValueError, match=r"must hold at least one length|give as many"):
        Demand(np.array(prompts), np.array(outputs))
