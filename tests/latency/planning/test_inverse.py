"""The SLA inverse and the throughput maximum, held against trying everything."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.latency.planning.inverse import best_step, sla_inverse

CAP = 300

parameters = st.builds(
    SaturationParameters,
    p_max=st.floats(0.5, 50),
    k_b=st.floats(1e-3, 10),
    k_s=st.floats(1e-3, 1),
    w_0=st.floats(0, 50),
    tau_0=st.floats(0, 20),
    tau_b=st.floats(0, 1),
    tau_s=st.floats(0, 0.1),
    tau_c=st.floats(0, 1e-3),
)


def tried(p, batch_size, target_ms, context):
    sizes = np.arange(1, CAP + 1)
    fits = sizes[p.predict(batch_size, sizes, context) <= target_ms]
    return int(fits[-1]) if len(fits) else 0


@settings(deadline=None)
@given(p=parameters, target_ms=st.floats(0.5, 400), context=st.floats(0, 5e4))
def test_the_inverse_is_the_largest_s_that_fits(p, target_ms, context):
    sizes = np.array([1, 2, 7, 31, 64])
    found = sla_inverse(p, sizes, target_ms, context, CAP)
    assert found.tolist() == [tried(p, B, target_ms, context) for B in sizes]


def test_arguments_broadcast_and_scalars_stay_scalars():
    p = SaturationParameters(10.0, 10.0, 0.01, tau_0=5.0)
    grid = sla_inverse(p, np.array([[1], [2]]), np.array([20.0, 40.0, 80.0]))
    assert grid.shape == (2, 3)
    assert (np.diff(grid, axis=1) > 0).all()
    assert sla_inverse(p, 1, 40.0).shape == ()


@settings(deadline=None)
@given(p=parameters, target_ms=st.floats(0.5, 400), context=st.floats(0, 200))
def test_the_best_step_is_what_trying_every_step_finds(p, target_ms, context):
    sizes, tokens = np.meshgrid(np.arange(1, 13), np.arange(1, CAP + 1), indexing="ij")
    step_ms = p.predict(sizes, tokens, sizes * context)
    rate = np.where((step_ms <= target_ms) & (tokens >= sizes), 1000 * tokens / step_ms, 0.0)
    found = best_step(p, target_ms, context, (1, 12), CAP)
    if rate.max() == 0:
        assert found is None
    else:
        assert found.tokens_per_s == pytest.approx(rate.max(), rel=1e-12)
        assert found.step_ms <= target_ms


def test_the_documents_bounds_are_the_default():
    fast = SaturationParameters(1000.0, 10.0, 0.5)
    assert best_step(fast, 1e6).tokens == 2048
    assert sla_inverse(fast, 64, 1e6) == 2048


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((0, 10.0), "batch_size"), ((1, 0.0), "target_ms"), ((1, 10.0, -1), "context_tokens"), ((1, np.nan), "target_ms")],
)
def test_an_argument_below_its_bound_is_named(arguments, name):
    with pytest.raises(ValueError, match=name):
        sla_inverse(SaturationParameters(10.0, 10.0, 0.01), *arguments)
