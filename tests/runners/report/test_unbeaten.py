"""Who is not beaten in promises, latency, energy and money at once."""

import math

import pytest
from synthetic_results import result_row

from batchpilot.runners.report.pareto import pareto_grid, unbeaten
from batchpilot.runners.report.summary import summarise


def row(tuner, goodput, ttft=100.0, joules=1.0, usd=1.0):
    aims = {"goodput_fraction": goodput, "ttft_p95_ms": ttft, "joules_per_token": joules, "usd_per_million": usd}
    return result_row(tuner=tuner, **aims)


@pytest.mark.parametrize(
    ("rows", "left"),
    [
        ([row("a", 0.9), row("b", 0.8)], ["a"]),
        ([row("a", 0.9, ttft=200.0), row("b", 0.8)], ["a", "b"]),
        ([row("a", 0.9, joules=0.5), row("b", 0.9, usd=0.5)], ["a", "b"]),
        ([row("a", 0.9), row("b", 0.9)], ["a", "b"]),
        ([row("a", 0.9, usd=math.nan), row("b", 0.9)], ["b"]),
        ([row("a", math.nan, math.nan, math.nan, math.nan), row("b", 0.1)], ["b"]),
    ],
)
def test_who_is_as_good_in_all_and_better_in_one_beats(rows, left):
    assert [kept["tuner"] for kept in unbeaten(rows)] == left


def test_a_reference_beats_nobody_and_is_not_marked():
    summary = summarise([row("dynamic", 0.8), row("aimd", 0.7), row("static-best", 0.9)])
    cells = {line[0].text.split()[-1]: line[-1].text for line in pareto_grid(summary).rows}
    assert cells == {"dynamic": "yes", "aimd": "", "\u2020": ""}
