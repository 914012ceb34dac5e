"""The agents of the suites are like those of TraceLab (4,265 sessions of coding agents, 2026), by its tables."""

import numpy as np
import pytest

from batchpilot.configs.scenario import suite
from batchpilot.workloads.build import make_count
from batchpilot.workloads.lengths import LogNormal

AGENTS = [
    one
    for name in ("agents-train", "agents-validation", "agents-held-out")
    for one in suite(name)
    if one.workload.conversations.steps is not None
]
DRAWS = 200_000


@pytest.mark.parametrize("scenario", AGENTS, ids=lambda one: one.name)
def test_sessions_and_requests_are_as_long_as_published(scenario):
    talks, rng = scenario.workload.conversations, np.random.default_rng(0)
    requests = 1 + make_count(talks.requests).draw(DRAWS, rng)
    steps = make_count(talks.steps).draw(DRAWS, rng)
    for drawn, mean, half, p90, p99 in ((requests, 9.2, 1, 18, 137), (steps, 7.8, 1, 20, 86)):
        assert drawn.mean() == pytest.approx(mean, rel=0.1)
        assert np.median(drawn) == half
        assert np.percentile(drawn, (90, 99)) == pytest.approx((p90, p99), rel=0.05)


@pytest.mark.parametrize("scenario", AGENTS, ids=lambda one: one.name)
def test_answers_are_as_long_as_published(scenario):
    shape = scenario.workload.conversations.output_tokens
    lengths = LogNormal(shape.median, shape.sigma, shape.min, shape.max)
    # 186.9 million output tokens in 357,161 steps.
    assert lengths.quantile(np.random.default_rng(0).random(DRAWS)).mean() == pytest.approx(523, rel=0.05)
