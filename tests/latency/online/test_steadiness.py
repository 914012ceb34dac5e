"""How still parameters stand: spreads over the updates of one regime."""

import json

import numpy as np
import pytest

from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.latency.online import AdaptiveLatency
from batchpilot.latency.online.steadiness import KEPT, Steadiness

BASE = SaturationParameters(p_max=20.0, k_b=0.5, k_s=0.02, tau_0=5.0, tau_b=0.1, tau_c=1e-4)
STEPS = np.array([[4.0, 8.0, 400.0], [32.0, 64.0, 3200.0]])


def test_spreads_are_standard_deviations_over_means():
    found = Steadiness()
    assert found.parameters() == {}
    assert found.prediction(STEPS) is None
    for tau_0 in (4.0, 6.0):
        found.hear(SaturationParameters(p_max=20.0, k_b=0.5, k_s=0.02, tau_0=tau_0))
    spread = found.parameters()
    assert spread["tau_0"] == pytest.approx(0.2)
    assert spread["p_max"] == 0
    assert "tau_c" not in spread
    assert 0 < found.prediction(STEPS) < 0.2
    again = Steadiness()
    again.load_state_dict(json.loads(json.dumps(found.state_dict())))
    assert again.parameters() == spread
    found.clear()
    assert found.parameters() == {}


def test_only_the_latest_updates_count():
    found = Steadiness()
    for tau_0 in [100.0] * 5 + [5.0] * KEPT:
        found.hear(SaturationParameters(p_max=20.0, k_b=0.5, k_s=0.02, tau_0=tau_0))
    assert found.parameters()["tau_0"] == 0


def test_an_engine_that_stands_still_has_still_predictions_and_one_that_changes_begins_anew():
    rng = np.random.default_rng(0)
    adaptive = AdaptiveLatency(BASE)

    def serve(count, factor):
        for _ in range(count):
            B = int(rng.integers(1, 33))
            S, C = B * int(rng.integers(1, 8)), 100 * B
            adaptive.record(B, S, C, BASE.predict_one(B, S, C) * factor * rng.lognormal(0.0, 0.03))
            adaptive.update()

    serve(3000, 1.1)
    told = adaptive.status()
    assert told["prediction_spread"] < 0.02
    assert told["prediction_spread"] <= told["parameter_spread"]
    assert 25 <= told["observations_per_update"] <= 125
    serve(1000, 2.0)
    assert adaptive.status()["drifts"] >= 1
    assert adaptive.status()["prediction_spread"] < 0.1
