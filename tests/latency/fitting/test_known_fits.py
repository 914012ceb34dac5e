"""Fits stay what they were: parameters, intervals and warnings as the solver before this one found them.

`known_fits.json` was written at revision 98fde5c, whose fit followed the tall Jacobian by SciPy's `least_squares`.
"""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from batchpilot.latency.fitting.measurement_files import read_measurements
from batchpilot.latency.fitting.observations import Observations
from batchpilot.latency.fitting.saturation_fit import fit
from batchpilot.latency.model.saturation import SaturationParameters

SHARED = Path(os.environ.get("BATCHPILOT_SHARED", Path(__file__).parents[4] / "shared"))
KNOWN = json.loads((Path(__file__).parent / "known_fits.json").read_text())

TRUTH = SaturationParameters(p_max=8.0, k_b=0.3, k_s=0.01, w_0=20.0, tau_0=6.0, tau_b=0.3, tau_s=0.02, tau_c=2e-4)
EXPERTS = SaturationParameters(p_max=20.0, k_b=0.3, k_s=0.01, tau_0=6.0, tau_b=0.05, tau_c=1e-4, tau_e=30.0, s_e=50.0)

LEFT_SHORT = (
    "ad-guarded-default-05x",
    "ad-model-based-2x",
    "ad-policy-guarded-2x",
    "fx-open4x2048-1x",
    "fx-open128x2048-1x",
)
"""Here the solver before stopped where the loss still fell, short of a bound or in a higher minimum."""


def steps_of(parameters, count=400, noise=0.05, seed=0):
    rng = np.random.default_rng(seed)
    B = rng.integers(1, 65, count)
    S = np.maximum(B, np.exp(rng.uniform(0, 8, count)).astype(int))
    C = B * rng.integers(0, 2000, count)
    return Observations.of(B, S, parameters.predict(B, S, C) * np.exp(noise * rng.standard_normal(count)), C)


def measured(path, **select):
    if not path.exists():
        pytest.skip("no ../shared beside the checkout")
    return read_measurements(path, select=select).observations.cleaned(highest_ms=60_000)[0]


def device(name, tensor_parallel):
    path = SHARED / "measurements" / "splitwise_llama2_70b.csv"
    return lambda: measured(path, device=name, tensor_parallel=str(tensor_parallel))


def repeated(times, noise):
    def steps():
        once = steps_of(TRUTH, 120, 0.0)[np.repeat(np.arange(120), times)]
        scattered = once.latency_ms * np.exp(noise * np.random.default_rng(5).standard_normal(len(once)))
        return Observations(once.batch_size, once.tokens, once.context_tokens, scattered)

    return steps


VLLM = [name for name in KNOWN if name.startswith(("ad-", "fx-"))]
CASES = {
    **{name: (lambda name=name: measured(SHARED / "vllm" / f"steps-{name}.csv"), {}) for name in VLLM},
    **{f"{name} {share}": (device(name, share), {}) for name in ("A100-80GB", "H100-80GB") for share in (2, 4)},
    **{
        f"H100-80GB 4 {loss} {'robust' if robust else 'plain'}": (
            device("H100-80GB", 4),
            {"loss": loss, "robust": robust},
        )
        for loss, robust in (("relative", False), ("percentage", True), ("percentage", False), ("absolute", False))
    },
    "synthetic": (lambda: steps_of(TRUTH), {}),
    "repeated with noise": (repeated(6, 0.05), {}),
    "repeated exactly": (lambda: steps_of(TRUTH, 200, seed=7)[np.repeat(np.arange(200), 5)], {}),
    "weighted": (lambda: steps_of(TRUTH, seed=1), {"weights": np.linspace(0, 2, 400)}),
    "pulled": (lambda: steps_of(TRUTH, 60, seed=2), {"base": TRUTH.scaled(1.2), "pull": 0.5}),
    "of the documents": (lambda: steps_of(TRUTH, seed=2), {"fixed": {"tau_c": 0.0, "w_0": 0.0}}),
    "from near by": (lambda: steps_of(TRUTH, seed=2), {"start": TRUTH.scaled(1.3), "random": 0}),
    "mixture of experts": (lambda: steps_of(EXPERTS, 600, 0.02, 3), {"experts": True}),
    "more than starts are found on": (lambda: steps_of(TRUTH, 5000, seed=4), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_fit_is_what_it_was(name):
    steps, options = CASES[name]
    observed, known = steps(), KNOWN[name]
    found = fit(observed, **options)
    assert found.cost <= known["cost"] * (1 + 1e-6)
    before = SaturationParameters(**known["parameters"])
    arguments = observed.batch_size, observed.tokens, observed.context_tokens
    if name in LEFT_SHORT:
        assert found.cost < known["cost"]
        return
    assert found.parameters.predict(*arguments) == pytest.approx(before.predict(*arguments), rel=0.01)
    assert [*found.problems, *found.notes] == known["told"]
    assert found.intervals.keys() == known["intervals"].keys()
    for parameter, ends in known["intervals"].items():
        if ends is None:
            assert math.isnan(found.intervals[parameter][0])
            continue
        # Along a valley that the steps hardly determine, where a solver stops is its own choice.
        near = 0.1 * (ends[1] - ends[0])
        assert getattr(found.parameters, parameter) == pytest.approx(known["parameters"][parameter], abs=near)
        assert found.intervals[parameter] == pytest.approx(ends, abs=near)


def test_more_observations_of_the_same_steps_cost_no_other_fit():
    once = steps_of(TRUTH, 300)
    thrice = fit(Observations.joined([once, once, once]))
    alone = fit(once)
    assert thrice.cost == pytest.approx(3 * alone.cost, rel=1e-6)
    assert thrice.parameters.as_array() == pytest.approx(alone.parameters.as_array(), rel=1e-3)
    assert thrice.points == alone.points
