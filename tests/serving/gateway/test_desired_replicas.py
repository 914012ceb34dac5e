"""How many replicas a gateway wants, from what it sees of its upstreams."""

from collections import Counter
from types import SimpleNamespace

import pytest

pytest.importorskip("httptools")

from batchpilot.core import Limits
from batchpilot.serving.gateway.upstreams.desired import DesiredReplicas


def upstream(inside=0, line=0, **ended):
    figures = SimpleNamespace(count=0, ttft_sum_ms=0.0, e2e_sum_ms=0.0)
    lane = SimpleNamespace(
        gate=SimpleNamespace(line=[None] * line, inside=[None] * inside, texts=inside),
        reading=None,
        session=SimpleNamespace(limits=lambda: Limits(64)),
        observer=SimpleNamespace(figures=figures, arrived_requests=0, arrived_tokens=0.0, ended=Counter(ended)),
    )
    return SimpleNamespace(lanes=[lane])


def wanted(first, last, seconds=30):
    desired = DesiredReplicas()
    for second in range(seconds):
        desired.hear(first, float(second))
    desired.hear(last, float(seconds))
    return desired.replicas


def test_a_full_fleet_asks_for_more_and_an_idle_one_for_less():
    assert wanted([upstream(60)] * 2, [upstream(60)] * 2) == 3
    assert wanted([upstream(2)] * 2, [upstream(2)] * 2) == 1
    assert wanted([upstream(32)] * 2, [upstream(32)] * 2) == 2


@pytest.mark.parametrize("how", ["refused_by_guard", "refused_on_arrival", "refused_upstream"])
def test_who_turns_requests_away_asks_for_more_however_few_are_inside(how):
    assert wanted([upstream(6)] * 2, [upstream(6, **{how: 1}), upstream(6)]) == 3
    assert wanted([upstream(6, **{how: 4})] * 2, [upstream(6, **{how: 4})] * 2) == 1, "that was before"


def test_nothing_is_told_before_it_is_time():
    assert wanted([upstream(60)], [upstream(60)], seconds=20) is None
