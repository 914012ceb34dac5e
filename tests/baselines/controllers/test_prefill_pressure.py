"""P-PAS: the token budget follows the pressure of prompts."""

import pytest

from batchpilot import Limits
from batchpilot.baselines import BASELINES, Setting
from batchpilot.core import WindowMetrics


def heard(base=None, **window):
    tuner = BASELINES["p-pas"](Setting(base=base))
    before = tuner.ask()
    tuner.tell(WindowMetrics(limits=before, duration_ms=1000.0, busy_ms=900.0, **window))
    return before, tuner.ask()


@pytest.mark.parametrize(
    ("queue", "batch", "generated", "budget"),
    [
        (0, 12.0, 240, 16_384),  # all twelve decode
        (0, 14.0, 240, 2060),  # two compute prompts beside them
        (3, 12.0, 240, 2060),
        (1, 12.0, 240, 16_384),
        (5, 3.0, 0, 16_384),  # nobody decodes: nobody is disturbed
    ],
)
def test_two_prompts_beside_somebody_who_decodes_are_pressure(queue, batch, generated, budget):
    window = {"steps": 20, "queue": queue, "batch_size_mean": batch, "generated_tokens": generated}
    before, after = heard(Limits(64, 8192), **window)
    assert (before.token_budget, after.token_budget) == (16_384, budget)
    assert after.batch_size == 64


def test_a_server_with_a_larger_budget_keeps_it_where_nothing_presses():
    before, after = heard(Limits(64, 32_768), steps=20, batch_size_mean=1.0, generated_tokens=20)
    assert before.token_budget == after.token_budget == 32_768
