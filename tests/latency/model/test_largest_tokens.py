"""The compiled inverse of the step latency along S."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchpilot.latency import SaturationParameters, largest_tokens

CAP = 600
PARAMETERS = st.builds(
    SaturationParameters,
    p_max=st.floats(0.1, 100),
    k_b=st.floats(1e-3, 10),
    k_s=st.floats(1e-4, 1),
    w_0=st.floats(0, 100),
    tau_0=st.floats(0, 50),
    tau_b=st.floats(0, 1),
    tau_s=st.floats(0, 0.1),
    tau_c=st.floats(0, 1e-3),
)


@settings(max_examples=400, deadline=None)
@given(PARAMETERS, st.integers(1, 300), st.floats(0, 1e5), st.floats(0.1, 1000))
# T falls from 308 ms at one token to 287 ms at 15 and rises again: nothing fits at either end.
@example(SaturationParameters(p_max=0.5, k_b=0.5, k_s=0.15625, w_0=36.0), 1, 0.0, 287.0)
def test_it_is_the_largest_token_count_within_the_target(parameters, batch_size, context, target_ms):
    sizes = np.arange(1, CAP + 1)
    fits = sizes[parameters.predict(batch_size, sizes, context) <= target_ms]
    expected = int(fits[-1]) if len(fits) else 0
    assert largest_tokens(parameters.as_array(), float(batch_size), context, target_ms, CAP) == expected


EXPERTS = st.builds(
    SaturationParameters,
    p_max=st.floats(0.1, 100),
    k_b=st.floats(1e-3, 10),
    k_s=st.floats(1e-4, 1),
    w_0=st.just(0.0) | st.floats(0, 100),
    tau_0=st.floats(0, 50),
    tau_e=st.floats(0.01, 50),
    s_e=st.floats(1, 1000),
)


@settings(max_examples=200, deadline=None)
@given(EXPERTS, st.integers(1, 300), st.floats(0.1, 1000))
def test_with_experts_the_answer_fits_and_one_token_more_does_not(parameters, batch_size, target_ms):
    found = largest_tokens(parameters.as_array(), float(batch_size), 0.0, target_ms, CAP)
    times = parameters.predict(batch_size, np.arange(1, CAP + 1))
    if found:
        assert times[found - 1] <= target_ms
        assert found == CAP or times[found] > target_ms
    elif parameters.w_0 == 0:
        assert (times > target_ms).all()
