"""The memory guard shrinks what fills the device."""

import pytest

from batchpilot import Limits, RequestTable, simulate
from batchpilot.baselines import BASELINES, Setting
from batchpilot.configs.tuner import TunerConfig
from batchpilot.core import WindowMetrics
from batchpilot.latency.model.saturation import SaturationParameters


def heard(used_mb, *, queue=0, size=100, running=100, windows=1, **memory):
    tuner = BASELINES["memory-guard"](Setting(TunerConfig(), Limits(size)))
    for k in range(windows):
        tuner.tell(
            WindowMetrics(
                limits=tuner.ask(), start_ms=1000.0 * k, duration_ms=1000.0, busy_ms=900.0, steps=20, queue=queue,
                generated_tokens=2000, running=running, batch_size_mean=float(running), memory_peak_mb=used_mb,
                memory_total_mb=1000.0, **memory,
            )
        )  # fmt: skip
    return tuner.ask().batch_size


@pytest.mark.parametrize(
    ("used_mb", "queue", "running", "size"),
    [
        (850.0, 0, 100, 100),
        (851.0, 0, 100, 80),
        (900.0, 5, 40, 32),  # what ran shrinks, not a limit that nothing reached
        (679.0, 5, 100, 101),
        (679.0, 0, 100, 100),
        (700.0, 5, 100, 100),
    ],
)
def test_it_shrinks_above_the_threshold_and_grows_well_below_it(used_mb, queue, running, size):
    assert heard(used_mb, queue=queue, running=running) == size


def test_weights_that_fill_the_device_shrink_no_batch():
    assert heard(990.0, kv_capacity_tokens=4096, kv_used_fraction=0.5) == 100
    assert heard(990.0, kv_capacity_tokens=4096, kv_used_fraction=0.9) == 80


def test_it_stops_at_the_smallest_batch():
    assert heard(990.0, windows=40, running=1) == TunerConfig().min_batch_size


def test_a_cache_that_is_too_small_preempts_less_often():
    table = RequestTable.from_arrays([20.0 * k for k in range(400)], 100, 200)
    latency = SaturationParameters(p_max=12.0, k_b=2.0, k_s=0.02, tau_0=4.0, tau_b=0.05, tau_c=4e-4)
    guarded, default = (
        simulate(table, latency, tuner, kv_capacity_tokens=6000, window_ms=500.0)
        for tuner in (BASELINES["memory-guard"](Setting(base=Limits(128))), Limits(128))
    )
    assert guarded.preemptions < default.preemptions / 2
