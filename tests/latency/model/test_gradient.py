"""Prediction over arrays and the analytic gradient: the same function, and its derivative."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchpilot.latency.model.compiled import plain
from batchpilot.latency.model.saturation import N_PARAMETERS, SaturationParameters, step_gradient, step_ms

NAMES = [field.name for field in fields(SaturationParameters)]

parameters = st.builds(
    SaturationParameters,
    p_max=st.floats(0.1, 1e4),
    k_b=st.floats(1e-4, 10),
    k_s=st.floats(1e-4, 1),
    w_0=st.floats(0, 100),
    w_1=st.floats(1e-3, 10),
    tau_0=st.floats(0.1, 50),
    tau_b=st.floats(0, 1),
    tau_s=st.floats(0, 1),
    tau_c=st.floats(0, 0.01),
    tau_e=st.floats(0, 50),
    s_e=st.floats(1, 1000),
)
steps = st.tuples(st.integers(1, 512), st.integers(1, 32768), st.integers(0, 10**6))


@settings(deadline=None)
@given(parameters, steps)
def test_gradient_is_the_derivative_by_finite_differences(p, step):
    gradient = p.gradient(*step)
    for place, name in enumerate(NAMES):
        value = getattr(p, name)
        h = 1e-5 * max(value, 1e-3)
        rise = p.predict_one(*step)
        if value > h:
            difference = (
                replace(p, **{name: value + h}).predict_one(*step) - replace(p, **{name: value - h}).predict_one(*step)
            ) / (2 * h)
        else:
            difference = (replace(p, **{name: value + h}).predict_one(*step) - rise) / h
        rounding = 1e-13 * rise / h
        assert gradient[place] == pytest.approx(difference, rel=1e-5, abs=10 * rounding + 1e-12)


@settings(deadline=None)
@given(parameters, steps)
def test_array_scalar_and_kernel_agree(p, step):
    B, S, C = map(float, step)
    one = p.predict_one(*step)
    assert float(p.predict(*step)) == pytest.approx(one, rel=1e-13)
    assert step_ms(p.as_array(), B, S, C) == pytest.approx(one, rel=1e-13)
    out = np.empty(N_PARAMETERS)
    step_gradient(p.as_array(), B, S, C, out)
    # Far into saturation exp(-x) is below what 1 - (1 - exp(-x)) resolves; that share of the latency is nothing.
    assert p.gradient(*step) == pytest.approx(out, rel=1e-9, abs=1e-10 * one)


def test_compiled_gradient_equals_its_plain_twin():
    p = SaturationParameters(p_max=5.0, k_b=0.3, k_s=0.01, w_0=4.0, tau_0=10.0)
    compiled, stepped = np.empty(N_PARAMETERS), np.empty(N_PARAMETERS)
    step_gradient(p.as_array(), 4.0, 100.0, 1000.0, compiled)
    plain(step_gradient)(p.as_array(), 4.0, 100.0, 1000.0, stepped)
    assert compiled == pytest.approx(stepped, rel=1e-12)


def test_shapes_follow_broadcasting():
    p = SaturationParameters(p_max=5.0, k_b=0.3, k_s=0.01)
    assert p.predict([1, 2], [[10], [20], [30]]).shape == (3, 2)
    assert p.gradient([1, 2], [[10], [20], [30]]).shape == (11, 3, 2)
    assert p.predict([], []).shape == (0,)
    assert p.predict([1, 2], [[10], [20], [30]])[2, 1] == pytest.approx(p.predict_one(2, 30))


@pytest.mark.parametrize("bad", [0.5, math.nan, math.inf, -1])
def test_a_step_below_its_bound_is_refused_by_every_face(bad):
    p = SaturationParameters(p_max=5.0, k_b=0.3, k_s=0.01)
    for face in (p.predict, p.predict_one, p.gradient):
        for step in ((bad, 10, 0), (1, bad, 0), (1, 10, -bad if bad > 0 else bad)):
            with pytest.raises(ValueError, match=r"finite|below"):
                face(*step)


def test_latency_rises_with_tokens_and_context_and_may_fall_with_requests_at_fixed_tokens():
    p = SaturationParameters(p_max=5.0, k_b=0.1, k_s=0.01, tau_b=0.5)
    # 64 tokens of one request wait for a device that 8 requests would fill: the documents' dT/dB >= 0 fails here.
    assert p.predict_one(8, 64) < p.predict_one(1, 64)
    assert p.predict_one(512, 64) > p.predict_one(64, 64)
    assert p.predict_one(8, 64, 0) == p.predict_one(8, 64, 1000)
    assert replace(p, tau_c=1e-3).predict_one(8, 64, 1000) == pytest.approx(p.predict_one(8, 64) + 1.0)


def test_with_fixed_work_more_tokens_may_take_less_time():
    p = SaturationParameters(p_max=5.0, k_b=1.0, k_s=0.01, w_0=100.0)
    assert p.predict_one(1, 50) < p.predict_one(1, 1)
    assert replace(p, w_0=0.0).predict_one(1, 50) > replace(p, w_0=0.0).predict_one(1, 1)
