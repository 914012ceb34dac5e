"""Plans for requests with images: encoding lengthens steps and first tokens, and off every number stays."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpilot.core.slo import SLO
from batchpilot.latency.model.saturation import SaturationParameters
from batchpilot.latency.planning.capacity import max_queued_tokens
from batchpilot.latency.planning.demand import Demand, residents_for, step_ms_at, token_target_ms
from batchpilot.latency.planning.planner import TPOT_SHARE, plan, planned_service
from batchpilot.workloads.images import Images

P = SaturationParameters(10.0, 10.0, 0.01, tau_0=5.0, tau_b=0.02, tau_c=2e-4)
PROMISE, KV = SLO(2000.0, 100.0), 120_000
PROMPTS, OUTPUTS = np.array([300.0, 800.0, 1500.0]), np.array([100.0, 50.0, 200.0])
TEXT = Demand(PROMPTS, OUTPUTS)


def encoding(ms):
    return Demand(PROMPTS, OUTPUTS, encode_ms=np.full(3, float(ms)))


def test_encoding_of_no_time_changes_no_number():
    assert plan(P, encoding(0.0), PROMISE, KV) == plan(P, TEXT, PROMISE, KV)
    assert token_target_ms(P, TEXT, 33.3) == 33.3


def test_the_longer_images_take_to_encode_the_less_is_held():
    rates = [plan(P, encoding(ms), PROMISE, KV).rate_per_s for ms in (0.0, 5.0, 20.0, 80.0)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.7 * rates[0]


def test_full_steps_keep_the_promise_with_what_they_encode():
    chosen = plan(P, encoding(60.0), PROMISE, KV)
    service = planned_service(P, encoding(60.0), chosen)
    assert chosen.limits.step_target_ms < TPOT_SHARE * PROMISE.tpot_ms
    assert service.engine.step_ms <= TPOT_SHARE * PROMISE.tpot_ms + 1e-6
    assert service.engine.step_ms > chosen.limits.step_target_ms
    assert service.engine.rate * float(service.engine.work_ms.mean()) == pytest.approx(1.0)


@given(st.floats(0.0, 200.0), st.floats(1e-4, 0.005))
def test_at_any_rate_the_usual_step_encodes_what_arrives_in_it(ms, rate):
    demand = encoding(ms)
    residents = residents_for(P, demand, rate)
    step_ms = float(step_ms_at(P, demand, residents))
    if residents < 65_000:
        # By Little's law; residents are of a grid.
        assert residents / demand.steps / step_ms == pytest.approx(rate, rel=0.03)
        assert float(demand.encode_at(residents)) == pytest.approx(rate * step_ms * ms, rel=0.03)


def test_what_may_queue_is_less_where_each_token_brings_encoding():
    plain = max_queued_tokens(P, 20, 10_000, 520, 2000.0)
    assert max_queued_tokens(P, 20, 10_000, 520, 2000.0, 0.05) < 0.8 * plain
    assert max_queued_tokens(P, 20, 10_000, 520, 2000.0, 0.0) == plain


def test_encoding_below_zero_or_of_other_requests_is_refused():
    for wrong in (np.array([1.0]), np.full(3, -1.0), np.full(3, np.inf)):
        with pytest.raises(ValueError, match="encode_ms must be one for each prompt"):
            replace(TEXT, encode_ms=wrong)


def test_images_that_are_kept_or_lie_in_cached_tokens_are_not_encoded():
    images = Images.from_arrays([224, 0, 224, 336, 224], [1, 1, 1, 1, 2])
    assert images.encoded(10)[:, 0].tolist() == [True, False, False, True, True]
    assert images.encoded(0)[:, 0].tolist() == [True, False, True, True, True]
    assert images.encoded(1)[:, 0].tolist() == [True, False, False, True, True]
    # What is cached brings no features along.
    assert images.encoded(10, [256, 0, 255, 600, 0])[:, 0].tolist() == [False, False, True, False, True]
