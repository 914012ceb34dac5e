"""Scalers: the documents' thresholds, what a forecast is worth, and a fleet that grows and shrinks."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from batchpilot import SLO, Limits, RequestTable, SaturationParameters
from batchpilot.engines import EngineConfig
from batchpilot.fleet import ReplicaSpec, simulate_fleet
from batchpilot.fleet.forecast import Forecast
from batchpilot.fleet.scalers import Clairvoyant, FleetView, Predictive, QueueAndUse, ResponseTime, TargetUse
from batchpilot.fleet.scaling import cheapest_first

CALM = FleetView(30.0, 4, 0, 12, 30, 0.5, 0.5, 5.0, 10.0, 5000.0)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, 4),
        ({"queued": 41}, 5),
        ({"queued": 40}, 4),
        ({"utilisation": 0.86}, 5),
        ({"queued": 7, "utilisation": 0.29}, 3),
        ({"queued": 8, "utilisation": 0.29}, 4),
        ({"queued": 0, "utilisation": 0.31}, 4),
        ({"queued": 0, "utilisation": 0.1, "starting": 1}, 5),
    ],
)
def test_queue_and_use_keeps_to_the_documents_thresholds(changes, wanted):
    assert QueueAndUse().decide(replace(CALM, **changes)) == wanted


def test_target_use_asks_for_as_many_as_bring_utilisation_to_the_target():
    assert TargetUse(0.5).decide(replace(CALM, utilisation=1.0)) == 8
    assert TargetUse(0.5).decide(replace(CALM, utilisation=0.52)) == 4
    assert TargetUse(0.5).decide(replace(CALM, utilisation=0.1)) == 1


def test_response_time_grows_when_late_or_when_nobody_gets_a_token():
    assert ResponseTime(1.0).decide(replace(CALM, ttft_s=1.1)) == 5
    assert ResponseTime(1.0).decide(replace(CALM, ttft_s=math.nan)) == 5
    assert ResponseTime(1.0).decide(replace(CALM, ttft_s=0.1)) == 3
    assert ResponseTime(1.0).decide(CALM) == 4


def test_a_trend_is_followed_and_damped():
    forecast = Forecast(period_s=0)
    for k in range(20):
        forecast.hear(30.0 * k, 100.0 + 10.0 * k)
    assert 290 < forecast.at(600.0) < 310
    assert forecast.at(6000.0) < 400


def test_the_second_day_is_known_from_the_first():
    day, slot = 3600.0, 60.0
    rates = lambda t: 100.0 + 80.0 * math.sin(2 * math.pi * t / day)  # noqa: E731
    seasonal, blind = Forecast(period_s=day, slot_s=slot), Forecast(period_s=0)
    errors: dict[str, list[float]] = {"seasonal": [], "blind": []}
    for k in range(180):
        now = k * slot
        for name, forecast in (("seasonal", seasonal), ("blind", blind)):
            forecast.hear(now, rates(now))
            if k > 70:
                errors[name].append(abs(forecast.at(now + 300.0) - rates(now + 300.0)))
            else:
                forecast.at(now + 300.0)
    assert np.mean(errors["seasonal"]) < 0.6 * np.mean(errors["blind"])


def test_a_forecast_refuses_times_that_do_not_ascend():
    forecast = Forecast()
    forecast.hear(1.0, 2.0)
    with pytest.raises(ValueError, match="not after"):
        forecast.hear(1.0, 2.0)
    with pytest.raises(ValueError, match="rate is -1"):
        forecast.hear(2.0, -1.0)


def test_predictive_wants_what_the_rate_needs():
    scaler = Predictive(1000.0, headroom=1.0)
    assert scaler.decide(replace(CALM, now_s=30.0, tokens_per_s=2500.0)) == 3
    assert scaler.decide(replace(CALM, now_s=60.0, tokens_per_s=4500.0)) >= 5


def test_the_clairvoyant_prepares_for_what_comes():
    scaler = Clairvoyant([0.0, 100.0, 200.0], [1000.0, 9000.0, 500.0], 1000.0, headroom=1.0)
    assert scaler.decide(replace(CALM, now_s=0.0)) == 1
    assert scaler.decide(replace(CALM, now_s=30.0)) == 9
    assert scaler.decide(replace(CALM, now_s=200.0)) == 1


def test_a_fleet_grows_into_a_wave_and_shrinks_after_it():
    latency = SaturationParameters(p_max=12.0, k_b=10.0, k_s=0.008, tau_0=5.0, tau_b=0.02, tau_c=3e-4)
    spec = ReplicaSpec(EngineConfig(latency, estimate=latency), Limits(16, 512), startup_s=10.0)
    rng = np.random.default_rng(0)
    times = np.concatenate([rng.uniform(0, 1e5, 100), rng.uniform(1e5, 3e5, 8000), rng.uniform(3e5, 6e5, 200)])
    table = RequestTable.from_arrays(np.sort(times), np.full(8300, 200), np.full(8300, 30), slos=SLO(2000.0, 100.0))
    alone = simulate_fleet(table, spec)
    scaled = simulate_fleet(table, spec, scaler=QueueAndUse(interval_s=10.0), most=6)
    serving = {round(moment.now_ms / 1000): moment.serving for moment in scaled.moments}
    assert serving[90] == 1
    assert serving[290] >= 3
    assert serving[590] == 1
    assert scaled.served.goodput_fraction > alone.served.goodput_fraction + 0.3
    assert scaled.served.count("length") == len(table)
    assert scaled.replica_hours < 6 * scaled.served.elapsed_ms / 3.6e6 / 2


LATENCY = SaturationParameters(p_max=12.0, k_b=10.0, k_s=0.008, tau_0=5.0, tau_b=0.02, tau_c=3e-4)
CHEAP = ReplicaSpec(
    EngineConfig(LATENCY, estimate=LATENCY),
    Limits(16, 512),
    name="cheap",
    startup_s=1.0,
    weight=1.0,
    usd_per_device_hour=1.0,
)
DEAR = replace(CHEAP, name="dear", weight=2.0, usd_per_device_hour=5.0, count=0)


def wave(n: int = 3000) -> RequestTable:
    rng = np.random.default_rng(0)
    times = np.concatenate([np.linspace(0, 1e4, 20), rng.uniform(1e4, 6e4, n), np.linspace(6.1e4, 1.8e5, 60)])
    return RequestTable.from_arrays(np.sort(times), np.full(len(times), 200), np.full(len(times), 30))


def kinds_of(result) -> list[int]:
    return [span.spec for span in result.spans]


def test_the_kind_that_is_named_is_scaled_and_no_other():
    scaler = QueueAndUse(interval_s=5.0)
    first = simulate_fleet(wave(), [CHEAP, DEAR], scaler=scaler, most=4)
    named = simulate_fleet(wave(), [DEAR, CHEAP], scaler=scaler, most=4, scaled={"cheap": 4})
    assert set(kinds_of(first)) == {0}
    assert set(kinds_of(named)) == {1}
    np.testing.assert_allclose(named.served.e2e_ms, first.served.e2e_ms)
    decoders = simulate_fleet(wave(), [CHEAP, DEAR], scaler=scaler, most=3, scaled={"dear": 3}, least=1)
    assert kinds_of(decoders)[0] == 0
    assert set(kinds_of(decoders)[1:]) == {1}


def test_kinds_are_filled_in_turn_and_the_last_goes_first():
    result = simulate_fleet(
        wave(), [DEAR, CHEAP], scaler=QueueAndUse(interval_s=5.0), most=5, scaled={"cheap": 2, "dear": 3}
    )
    added = [span for span in result.spans if span.from_ms > 0]
    assert [span.spec for span in added[:4]] == [1, 0, 0, 0]
    gone = sorted((span for span in result.spans if span.until_ms < result.served.elapsed_ms), key=lambda s: s.until_ms)
    assert [span.spec for span in gone[:3]] == [0, 0, 0]
    assert max(moment.existing for moment in result.moments) == 5
    assert result.served.count("length") == len(result.served.requests)


def test_the_cheapest_served_token_comes_first():
    assert cheapest_first([DEAR, CHEAP], ["dear", "cheap"]) == ["cheap", "dear"]
    assert cheapest_first([replace(DEAR, weight=6.0), CHEAP], ["cheap", "dear"]) == ["dear", "cheap"]
    assert cheapest_first([replace(CHEAP, devices=4), DEAR], ["cheap", "dear"]) == ["dear", "cheap"]
    unknown = replace(CHEAP, name="unknown", usd_per_device_hour=None)
    assert cheapest_first([DEAR, unknown], ["dear", "unknown"]) == ["dear", "unknown"]


@pytest.mark.parametrize(
    ("scaled", "said"),
    [
        ({}, "scaled is empty"),
        ({"dearest": 2}, "kind of replica"),
        ({"cheap": 0}, "scaled allows 0 replicas of cheap; it must be at least 1, and 1 stand ready"),
        ({"dear": 2}, "scaled names dear, as 2 kinds are called"),
    ],
)
def test_kinds_that_cannot_be_scaled_are_refused(scaled, said):
    with pytest.raises(ValueError, match=said):
        simulate_fleet(wave(10), [CHEAP, DEAR, DEAR], scaler=QueueAndUse(), scaled=scaled)
