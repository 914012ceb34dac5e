"""A toy engine whose step slows down as the batch grows: does the tuner find, and keep, a good size?"""

import numpy as np
import pytest

from batchpilot.core import Limits, WindowMetrics
from batchpilot.tuners import make_tuner

WINDOWS_IN_TWO_MINUTES = 120


class ToyEngine:
    """Decoding under a full queue; a step takes 15 + 0.25 B + 0.004 B^2 ms, so throughput peaks near B = 61."""

    def __init__(self, noise: float, seed: int) -> None:
        self.noise, self.rng, self.now_ms = noise, np.random.default_rng(seed), 0.0
        self.slowdown = 1.0

    def run(self, limits: Limits, load: int = 10_000) -> WindowMetrics:
        batch = min(limits.batch_size, load)
        step_ms = self.slowdown * (15 + 0.25 * batch + 0.004 * batch**2)
        steps = int(1000 / step_ms)
        tokens = steps * batch * max(0.1, 1 + self.noise * self.rng.standard_normal())
        window = WindowMetrics(
            limits=limits,
            start_ms=self.now_ms,
            duration_ms=1000.0,
            busy_ms=steps * step_ms,
            steps=steps,
            generated_tokens=int(tokens),
            arrivals=int(self.rng.poisson(20)),
            queue=100 if load > batch else 0,
            oldest_wait_ms=9000.0 if load > batch else 0.0,
            running=batch,
            batch_size_mean=float(batch),
            utilisation=steps * step_ms / 1000,
            memory_used_mb=14_000.0 + 90 * batch,
            memory_peak_mb=14_200.0 + 90 * batch,
            memory_total_mb=40_000.0,
            peak_tokens_per_s=2000.0,
        )
        self.now_ms += 1000.0
        return window

    def score(self, size: int) -> float:
        step_ms = 15 + 0.25 * size + 0.004 * size**2
        used, peak = 14_000.0 + 90 * size, 14_200.0 + 90 * size
        return 0.5 * 1000 * size / step_ms / 2000 + 0.3 + 0.2 * used / peak


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("strategy", ["dynamic", "hybrid"])
def test_comes_within_five_percent_of_the_best_fixed_size_and_holds_still(strategy, noise, seed):
    engine, tuner = ToyEngine(noise, seed), make_tuner(strategy)
    sizes, stable_since = [], None
    for index in range(400):
        sizes.append(tuner.ask().batch_size)
        tuner.tell(engine.run(tuner.ask()))
        if stable_since is None and tuner.status()["is_stabilized"]:
            stable_since = index
    best = max(engine.score(size) for size in range(1, 257))
    assert stable_since is not None
    assert stable_since < WINDOWS_IN_TWO_MINUTES
    steady = np.array(sizes[stable_since:])
    assert steady.std() / steady.mean() <= 0.10
    assert np.mean([engine.score(size) for size in steady]) >= 0.95 * best


@pytest.mark.parametrize("seed", range(3))
def test_a_throttled_engine_is_not_answered_by_a_collapse_of_the_batch(seed):
    engine, tuner = ToyEngine(0.03, seed), make_tuner("dynamic")
    for _ in range(150):
        tuner.tell(engine.run(tuner.ask()))
    engine.slowdown = 2.0
    sizes = []
    for _ in range(150):
        sizes.append(tuner.ask().batch_size)
        tuner.tell(engine.run(tuner.ask()))
    best = max(engine.score(size) for size in range(1, 257))
    assert np.mean([engine.score(size) for size in sizes[-50:]]) >= 0.95 * best


@pytest.mark.parametrize("seed", range(3))
def test_a_light_load_is_served_without_a_restriction_and_never_called_best_beyond_what_it_fills(seed):
    engine, tuner = ToyEngine(0.1, seed), make_tuner("dynamic")
    for _ in range(300):
        tuner.tell(engine.run(tuner.ask(), load=12))
    assert tuner.ask().batch_size >= 12
    best = tuner.status()["best_batch_size"]
    assert best is not None
    assert best <= 13


def test_a_load_that_grows_is_followed():
    engine, tuner = ToyEngine(0.02, 1), make_tuner("dynamic")
    for _ in range(60):
        tuner.tell(engine.run(tuner.ask(), load=12))
    for _ in range(60):
        tuner.tell(engine.run(tuner.ask()))
    assert engine.score(tuner.ask().batch_size) >= 0.95 * max(engine.score(size) for size in range(1, 257))
