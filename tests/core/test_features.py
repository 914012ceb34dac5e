import math
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpilot.core import Limits, WindowMetrics
from batchpilot.core.features import (
    FEATURE_HIGH,
    FEATURE_LOW,
    FEATURE_NAMES,
    FEATURES,
    QUANTITIES,
    window_features,
)
from batchpilot.core.limit_arrays import limit_arrays
from batchpilot.core.metrics import to_record
from batchpilot.envs.observing import observe

BUSY = WindowMetrics(
    limits=Limits(batch_size=16, token_budget=512, max_queued_tokens=4096, step_target_ms=50.0, ttft_guard=2.0),
    duration_ms=1000.0,
    busy_ms=800.0,
    steps=20,
    generated_tokens=240,
    prefill_tokens=4000,
    arrivals=6,
    arrived_prompt_tokens=6000,
    completions=3,
    refused_on_arrival=1,
    preemptions=1,
    failures=2,
    queue=4,
    queued_tokens=2048,
    oldest_wait_ms=500.0,
    running=16,
    batch_size_mean=12.0,
    tokens_per_step_mean=212.0,
    context_tokens_mean=12000.0,
    step_ms_mean=40.0,
    step_ms_p95=60.0,
    ttft_ms_p50=1000.0,
    ttft_ms_p95=3000.0,
    ttft_ms_p99=4000.0,
    tpot_ms_p50=50.0,
    tpot_ms_p95=100.0,
    tpot_ms_p99=100.0,
    slo_attainment=0.5,
    goodput_tokens_per_s=200.0,
    kv_used_fraction=0.4,
    utilisation=0.8,
    memory_used_mb=30_000.0,
    memory_peak_mb=36_000.0,
    memory_total_mb=40_000.0,
    kv_capacity_tokens=64_000,
    peak_tokens_per_s=1000.0,
    ttft_target_ms=1000.0,
    tpot_target_ms=100.0,
)


def named(window):
    return dict(zip(FEATURE_NAMES, window_features(window).tolist(), strict=True))


NUMBERS = st.floats(allow_nan=True, allow_infinity=True, width=64) | st.sampled_from(
    [0.0, -1.0, math.nan, math.inf, 1e308]
)


@st.composite
def windows(draw):
    limits = Limits(
        batch_size=draw(st.integers(1, 10**6)),
        token_budget=draw(st.none() | st.integers(1, 10**9)),
        max_queued_tokens=draw(st.none() | st.integers(0, 10**9)),
        step_target_ms=draw(st.none() | st.floats(1e-6, 1e9)),
        ttft_guard=draw(st.none() | st.floats(1e-6, 1e9)),
        discipline=draw(st.none() | st.sampled_from(["fcfs", "spf", "sjf", "slo"])),
    )
    names = [field.name for field in fields(WindowMetrics) if field.name != "limits"]
    return WindowMetrics(limits=limits, **{name: draw(NUMBERS) for name in names})


@given(windows())
def test_features_are_finite_and_within_their_bounds_whatever_a_server_reports(window):
    vector = window_features(window)
    assert vector.dtype == np.float32
    assert np.all(np.isfinite(vector))
    assert np.all((vector >= FEATURE_LOW) & (vector <= FEATURE_HIGH))


@given(st.lists(windows(), min_size=1, max_size=4))
def test_a_servers_window_and_an_environments_record_give_the_same_features(several):
    records = np.concatenate([to_record(window) for window in several])
    limits = np.stack(limit_arrays([window.limits for window in several]), axis=1)
    together = np.zeros((len(several), len(FEATURES)), np.float32)
    quantities = np.zeros((len(several), QUANTITIES))
    for i in range(len(several)):
        observe(records.view(np.float64).reshape(len(several), -1), limits, quantities, together, i)
    apart = np.stack([window_features(window) for window in several])
    np.testing.assert_array_equal(together, apart)


@given(st.floats(0.01, 100.0))
def test_a_faster_server_with_shorter_promises_looks_the_same(factor):
    times = {field.name: getattr(BUSY, field.name) * factor for field in fields(WindowMetrics) if "_ms" in field.name}
    rates = {name: getattr(BUSY, name) / factor for name in ("goodput_tokens_per_s", "peak_tokens_per_s")}
    scaled = replace(BUSY, **times, **rates, limits=BUSY.limits.replace(step_target_ms=50.0 * factor))
    np.testing.assert_allclose(window_features(scaled), window_features(BUSY), atol=1e-5)


def test_features_follow_their_definitions():
    seen = named(BUSY)
    assert seen["batch_fill"] == pytest.approx(12 / 16)
    assert seen["queue_fill"] == pytest.approx(0.5)
    assert seen["batch_size_level"] == pytest.approx(
        math.log2(16 / 64) / 8
    )  # 64,000 KV tokens hold 64 contexts of 1000
    assert seen["token_budget_level"] == pytest.approx(math.log2(512 / 530) / 8, abs=1e-6)
    assert seen["max_queued_level"] == pytest.approx(math.log2(4096 / 4000) / 8, abs=1e-6)
    assert seen["step_target_level"] == pytest.approx(-1 / 8)
    assert seen["ttft_guard_level"] == pytest.approx(1 / 8)
    assert seen["backlog_against_ttft_target"] == pytest.approx(2048 / (2048 + 4000))
    assert seen["ttft_p50_against_target"] == pytest.approx(0.5)
    assert seen["ttft_p95_against_target"] == pytest.approx(0.75)
    assert seen["arrivals_against_ended"] == pytest.approx(6 / 10)
    assert seen["refused_on_arrival"] == pytest.approx(0.25)
    assert seen["goodput"] == pytest.approx(0.2)
    assert seen["busy_throughput"] == pytest.approx(0.3)
    assert seen["memory"] == pytest.approx(0.9)
    assert seen["failed_steps"] == pytest.approx(0.1)


def test_an_idle_window_is_neutral():
    idle = named(WindowMetrics(limits=Limits(batch_size=8, max_queued_tokens=0), duration_ms=1000.0))
    assert idle["slo_attainment"] == 1.0
    assert idle["arrivals_against_ended"] == idle["prefill_against_decode"] == 0.5
    assert idle["goodput"] == idle["utilisation"] == idle["ttft_p95_against_target"] == 0.0


def test_a_limit_that_is_off_is_at_the_top_of_its_level_and_never_filled():
    off = named(replace(BUSY, limits=Limits(batch_size=16)))
    assert [off[f"{name}_level"] for name in ("token_budget", "max_queued", "step_target", "ttft_guard")] == [1.0] * 4
    assert off["budget_fill"] == off["queue_fill"] == 0.0


def test_kv_share_stands_for_memory_where_the_devices_memory_is_unknown():
    assert named(replace(BUSY, memory_total_mb=0.0))["memory"] == pytest.approx(0.4)


def test_an_unknown_peak_is_neutral_rather_than_infinite():
    assert named(replace(BUSY, peak_tokens_per_s=0.0))["goodput"] == 0.0


def test_orders_that_serve_the_shortest_first_are_told_from_the_others():
    told = {
        name: named(replace(BUSY, limits=Limits(batch_size=1, discipline=name)))["shortest_first"]
        for name in ("fcfs", "spf", "sjf", "slo")
    }
    assert told == {"fcfs": 0.0, "spf": 1.0, "sjf": 1.0, "slo": 0.0}


def test_feature_names_are_unique_and_neutral_values_within_bounds():
    assert len(set(FEATURE_NAMES)) == len(FEATURE_NAMES)
    neutral = np.array([feature.neutral for feature in FEATURES])
    assert np.all((neutral >= FEATURE_LOW) & (neutral <= FEATURE_HIGH))
