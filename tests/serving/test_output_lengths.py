"""What answers will take, learned from those that ended."""

import numpy as np
import pytest

from batchpilot import Limits, RequestTable, SaturationParameters, simulate
from batchpilot.serving.output_lengths import FEWEST, MEMORY, OutputLengths


def learned(*heard, times=FEWEST):
    lengths = OutputLengths()
    for _ in range(times):
        for prompt, output in heard:
            lengths.hear(prompt, output)
    return lengths


def test_before_anything_ended_an_answer_may_take_what_it_is_allowed():
    assert OutputLengths().expected(100, 4096) == 4096
    assert learned((100, 20), times=FEWEST - 1).expected(100, 4096) == 4096


def test_answers_to_prompts_of_like_length_are_alike():
    lengths = learned((100, 20), (5000, 900))
    assert lengths.expected(120, 4096) == pytest.approx(20)
    assert lengths.expected(4100, 4096) == pytest.approx(900)
    # Nobody has asked so much before: the mean of all.
    assert lengths.expected(100_000, 4096) == pytest.approx(460)
    assert lengths.expected(5000, 64) == 64


def test_it_follows_what_changes():
    lengths = learned((100, 20), times=1000)
    for _ in range(3 * MEMORY):
        lengths.hear(100, 300)
    assert lengths.expected(100, 4096) == pytest.approx(300, rel=0.06)


def test_shortest_first_by_what_was_learned_waits_less_than_by_what_is_allowed():
    rng = np.random.default_rng(0)
    long = rng.random(300) < 0.5
    prompts = np.where(long, 2000, 100)
    outputs = np.where(long, 400, 20) + rng.integers(0, 20, 300)
    lengths = learned((100, 30), (2000, 410))
    waits = []
    for estimates in (np.full(300, 4096.0), [lengths.expected(int(prompt), 4096) for prompt in prompts]):
        table = RequestTable.from_arrays(np.arange(300) * 20.0, prompts, outputs, estimated_output_tokens=estimates)
        latency = SaturationParameters(p_max=12.0, k_b=10.0, k_s=0.008, tau_0=5.0)
        result = simulate(table, latency, Limits(8, token_budget=2048, discipline="sjf"))
        waits.append(result.percentile_ms("ttft_ms", 50))
    assert waits[1] < 0.8 * waits[0]
