"""The timeline of a load test: every request once, where it was due, by what became of it."""

import re
from xml.etree import ElementTree

import numpy as np

from batchpilot import SLO, Limits, RequestTable, SaturationParameters, simulate
from batchpilot.runners.http.load.charts import latency_chart, timeline_chart

LATENCY = SaturationParameters(p_max=12.0, k_b=10.0, k_s=0.008, tau_0=5.0, tau_c=3e-4)


def served(limits, requests=60):
    rng = np.random.default_rng(0)
    table = RequestTable.from_arrays(
        arrival_ms=np.cumsum(rng.exponential(20.0, requests)),
        prompt_tokens=rng.integers(50, 600, requests),
        output_tokens=rng.integers(10, 80, requests),
        slos=SLO(ttft_ms=400.0, tpot_ms=60.0),
    )
    return simulate(table, LATENCY, limits, kv_capacity_tokens=50_000)


def counts(svg):
    texts = [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]
    return {name: int(n) for text in texts for name, n in re.findall(r"^(.+): (\d+)$", text)}


def test_every_request_stands_on_the_timeline_by_what_became_of_it():
    outcome = served(Limits(8, token_budget=512, max_queued_tokens=1500))
    shown = counts(timeline_chart(outcome))
    assert shown["refused"] == outcome.count("refused_on_arrival") > 0
    assert shown["served within the promise"] == int(outcome.slo_met.sum()) > 0
    assert sum(shown.values()) == len(outcome.requests)


def ends(outcome):
    """Height at which each panel's line ends."""
    svg = latency_chart({"over HTTP": outcome})
    lines = re.findall(r'<path d="([^"]*)" clip-path="[^"]*" style="[^"]*stroke: #0072b2; stroke-width: 1.6', svg)
    return [float(line.split()[-1]) for line in lines]


def test_the_lines_of_the_served_end_at_all_of_them_however_many_are_refused():
    refusing, generous = served(Limits(2, token_budget=256, max_queued_tokens=300)), served(Limits(64))
    assert refusing.refused_fraction > 0.2
    assert generous.refused_fraction == 0
    assert len(ends(refusing)) == 3
    assert ends(refusing) == ends(generous)
