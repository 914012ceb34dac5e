"""`static-best` of a real engine, with a simulated engine in its place that differs from its calibration."""

from dataclasses import replace

import pytest

from batchpilot.baselines.references.static_best import goodput_of, track_grid
from batchpilot.core import Limits
from batchpilot.envs.backends import SimulatedBackend
from batchpilot.runners.torch.references import best_on_engine, robust_settings


class SlowerThanCalibrated(SimulatedBackend):
    """Its steps take longer than `run.engine` says."""

    def __init__(self, factor):
        self.factor = factor
        self.started = 0

    def start(self, run):
        self.started += 1
        return super().start(replace(run, engine=replace(run.engine, latency=run.engine.latency.scaled(self.factor))))


@pytest.fixture
def run(tiny):
    return SimulatedBackend().prepare(tiny, 0)


def test_of_settings_equal_in_simulation_the_one_that_bears_a_slower_engine_comes_first(run):
    settings = [Limits(size, token_budget=2048) for size in (48, 64, 96, 128)]
    assert all(goodput_of(run, limits) == 1.0 for limits in settings)
    first = robust_settings(run, settings, 1)[0]
    slow = replace(run, engine=replace(run.engine, latency=run.engine.latency.scaled(1.6)))
    assert goodput_of(slow, first) == max(goodput_of(slow, limits) for limits in settings)
    assert goodput_of(slow, first) > goodput_of(slow, settings[0])


def test_the_engine_decides_among_three_finalists(run):
    engine = SlowerThanCalibrated(1.6)
    best = best_on_engine(run, "batch", engine)
    assert engine.started == 3
    slow = replace(run, engine=replace(run.engine, latency=run.engine.latency.scaled(1.6)))
    finalists = robust_settings(run, track_grid("batch", 100.0), 3)
    assert goodput_of(slow, best) == max(goodput_of(slow, limits) for limits in finalists)
