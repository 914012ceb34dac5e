"""The front: nothing tried beats any step on it, and every step tried is beaten by or on it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.latency.planning.pareto import pareto_front

parameters = st.builds(
    SaturationParameters,
    p_max=st.floats(0.5, 50),
    k_b=st.floats(1e-2, 10),
    k_s=st.floats(1e-3, 1),
    tau_0=st.floats(0, 20),
    tau_b=st.floats(0, 1),
)


@settings(max_examples=40, deadline=None)
@given(parameters)
def test_the_front_is_what_no_other_step_beats(p):
    front = pareto_front(p, 100.0, (1, 8), 200, points=20)
    tokens = np.unique(np.rint(np.geomspace(1, 200, 20)).astype(int))
    sizes, tokens = (grid.ravel() for grid in np.meshgrid(np.arange(1, 9), tokens))
    sizes, tokens = sizes[sizes <= tokens], tokens[sizes <= tokens]
    step_ms = p.predict(sizes, tokens, sizes * 100.0)
    rate = 1000 * tokens / step_ms
    for time, best in zip(front.step_ms, front.tokens_per_s, strict=True):
        assert best == pytest.approx(rate[step_ms <= time].max())
    assert front.tokens_per_s[-1] == pytest.approx(rate.max())


@settings(max_examples=40, deadline=None)
@given(parameters)
def test_latency_and_throughput_rise_together_along_the_front(p):
    front = pareto_front(p, points=24)
    assert (np.diff(front.step_ms) > 0).all()
    assert (np.diff(front.tokens_per_s) > 0).all()
    assert np.allclose(p.predict(front.batch_size, front.tokens, 0.0), front.step_ms)


def test_bounds_that_leave_no_step_are_refused():
    with pytest.raises(ValueError, match="leave no step to try"):
        pareto_front(SaturationParameters(1.0, 1.0, 1.0), batch_sizes=(8, 4))
