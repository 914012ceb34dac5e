"""Bounds of the documents, in one unit, against their own examples and against simulation."""

from __future__ import annotations

import numpy as np
import pytest

from batchpilot import Limits, RequestTable, SaturationParameters, simulate
from batchpilot.latency.planning.bounds import attention_score_bytes, continuous_gain, throughput_bound

A100 = {"flops": 312e12, "flop_per_token": 14e9, "bandwidth": 1.555e12, "kv_bytes": 4e9, "decode_ms": 20.0}


def test_all_three_terms_are_tokens_a_second():
    bound = throughput_bound(8, **A100)
    assert bound.compute == pytest.approx(312e12 / 14e9)
    assert bound.memory == pytest.approx(8 * 1.555e12 / 8e9)
    assert bound.latency == pytest.approx(400)
    assert (bound.tokens_per_s, bound.bound_by) == (bound.latency, "latency")


def test_weights_that_every_step_reads_lower_the_memory_term():
    assert throughput_bound(8, **A100, weight_bytes=8e9).memory == pytest.approx(8 * 1.555e12 / 16e9)


@pytest.mark.parametrize("name", ["flops", "flop_per_token", "bandwidth", "kv_bytes", "decode_ms"])
def test_a_term_that_is_not_above_zero_is_named(name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        throughput_bound(8, **(A100 | {name: 0.0}))


def test_the_padding_ratio_is_the_documents_efficiency():
    assert continuous_gain([100, 500, 50], [10, 10, 10], 3).padding_ratio == pytest.approx(650 / 1500)
    assert continuous_gain([7] * 6, [3] * 6, 4).gain == 1


def test_simulated_continuous_batching_gains_no_more_than_the_bound_and_much_of_it():
    rng = np.random.default_rng(0)
    prompt, output = rng.integers(10, 400, 256), rng.integers(5, 200, 256)
    table = RequestTable.from_arrays(np.zeros(256), prompt, output)
    latency = SaturationParameters(p_max=1e4, k_b=10.0, k_s=10.0, tau_0=10.0, tau_b=0.5)
    times = {
        mode: simulate(table, latency, Limits(16, token_budget=10**6), mode=mode).elapsed_ms
        for mode in ("static", "continuous")
    }
    bound = continuous_gain(prompt.tolist(), output.tolist(), 16).gain
    assert 1.3 < times["static"] / times["continuous"] < bound


def test_attention_scores_are_those_of_the_document():
    assert attention_score_bytes(8, 32, 4096) == 8_589_934_592
    assert attention_score_bytes(8, 32, 4096, tile=64) == 2_097_152
    assert attention_score_bytes(1, 1, 10, tile=64) == attention_score_bytes(1, 1, 10)
    with pytest.raises(ValueError, match="heads is 0"):
        attention_score_bytes(1, 0, 10)
