"""Windows made from a known score: with throughput as the only term, a window's score is its tokens over 1000."""

from collections.abc import Callable
from typing import Any

import pytest

from batchpilot.configs.tuner import TunerConfig
from batchpilot.core import Limits, WindowMetrics
from batchpilot.tuners import ProbeTuner

BARE_WEIGHTS = {"throughput_weight": 1.0, "gpu_utilization_weight": 0.0, "memory_efficiency_weight": 0.0}


def make_config(**changes: Any) -> TunerConfig:
    return TunerConfig.from_dict({**BARE_WEIGHTS, **changes}, warn=False)


def make_window(limits: Limits, score: float, index: int = 0, **changes: Any) -> WindowMetrics:
    """A window of 1000 ms, 50 steps, a full batch, memory at 0.8: neither spare nor short."""
    size = limits.batch_size
    plain: dict[str, Any] = {
        "start_ms": 1000.0 * index,
        "duration_ms": 1000.0,
        "busy_ms": 1000.0,
        "steps": 50,
        "generated_tokens": round(1000 * score),
        "arrivals": 20,
        "queue": 30,
        "oldest_wait_ms": 5000.0,
        "running": size,
        "batch_size_mean": float(size),
        "step_ms_mean": 20.0,
        "utilisation": 1.0,
        "memory_used_mb": 80_000.0,
        "memory_peak_mb": 80_000.0,
        "memory_total_mb": 100_000.0,
        "peak_tokens_per_s": 1000.0,
    }
    return WindowMetrics(limits=limits, **{**plain, **changes})


class Drive:
    """A tuner and the curve that answers it; each call tells some windows and returns the sizes they ran with."""

    def __init__(self, tuner: ProbeTuner, score_of: Callable[[int], float]) -> None:
        self.tuner, self.score_of, self.index = tuner, score_of, 0

    def __call__(self, windows: int, **changes: Any) -> list[int]:
        sizes = []
        for _ in range(windows):
            limits = self.tuner.ask()
            sizes.append(limits.batch_size)
            self.tuner.tell(make_window(limits, self.score_of(limits.batch_size), self.index, **changes))
            self.index += 1
        return sizes

    @property
    def size(self) -> int:
        return self.tuner.ask().batch_size

    @property
    def phase(self) -> str:
        return str(self.tuner.status()["phase"])

    def until_stable(self, most: int = 200) -> int:
        """Windows told until the tuner runs stably."""
        for told in range(most):
            if self.tuner.status()["is_stabilized"]:
                return told
            self(1)
        raise AssertionError(f"not stable after {most} windows: {self.tuner.status()}")


@pytest.fixture
def config() -> Callable[..., TunerConfig]:
    return make_config


@pytest.fixture
def window() -> Callable[..., WindowMetrics]:
    return make_window


@pytest.fixture
def drive() -> Callable[..., Drive]:
    """Builds a `Drive`: a curve, configuration keys, and options of the tuner under `options`."""

    def build(score_of: Callable[[int], float], options: dict[str, Any] | None = None, **keys: Any) -> Drive:
        return Drive(ProbeTuner(make_config(**keys), **{"settle_ms": 0.0, **(options or {})}), score_of)

    return build
