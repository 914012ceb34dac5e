"""Roll-out: in each stage, which parameters answer and what goes on behind."""

import numpy as np
import pytest
from latency_streams import BASE, THROTTLED, feed, rows_of

from batchpilot.latency import step_ms
from batchpilot.latency.online import STAGES, AdaptiveLatency

STEP = (8, 40, 5000)


def answers(adaptive, keys):
    """Share of keys that the adapted parameters answer."""
    adapted = step_ms(adaptive.adapted.as_array(), *STEP)
    return np.mean([adaptive.predict(*STEP, key=key) == adapted for key in keys])


def after_a_throttle(stage, **settings):
    adaptive = AdaptiveLatency(BASE, stage=stage, **settings)
    feed(adaptive, rows_of(THROTTLED, 500))
    return adaptive


def test_offline_observes_and_changes_nothing():
    adaptive = after_a_throttle("offline")
    status = adaptive.status()
    assert adaptive.parameters == adaptive.adapted == BASE
    assert status["observations"] == 500
    assert status["mean_error"] > 0.2
    assert status["updates_accepted"] == status["updates_worse"] == status["updates_failed"] == 0


def test_shadow_learns_and_compares_but_the_base_answers():
    adaptive = after_a_throttle("shadow")
    status = adaptive.status()
    assert adaptive.adapted != BASE
    assert adaptive.parameters == BASE
    assert answers(adaptive, [None, "a", "b", 3]) == 0
    assert status["mean_error"] < status["base_mean_error"]


def test_partial_answers_its_share_of_keys_and_nobody_without_one():
    adaptive = after_a_throttle("partial", partial_share=0.3)
    assert answers(adaptive, range(2000)) == pytest.approx(0.3, abs=0.04)
    assert answers(adaptive, [None]) == 0


def test_a_key_that_was_answered_by_adapted_parameters_stays_so_as_the_share_grows():
    adaptive = after_a_throttle("partial")
    adapted = step_ms(adaptive.adapted.as_array(), *STEP)
    answered = set()
    for share in (0.1, 0.3, 0.5, 0.7, 1.0):
        adaptive.move_to("partial", share)
        now = {key for key in range(300) if adaptive.predict(*STEP, key=key) == adapted}
        assert answered <= now
        answered = now
    assert len(answered) == 300


def test_full_answers_everyone_and_can_be_taken_back():
    adaptive = after_a_throttle("full")
    assert answers(adaptive, [None, "a", 3]) == 1
    adaptive.move_to("shadow")
    assert answers(adaptive, [None, "a", 3]) == 0
    assert adaptive.stage == "shadow"


def test_an_unknown_stage_or_share_is_refused_and_changes_nothing():
    adaptive = after_a_throttle("partial", partial_share=0.2)
    with pytest.raises(ValueError, match="did you mean 'partial'"):
        adaptive.move_to("partal")
    with pytest.raises(ValueError, match=r"partial_share is 1\.5"):
        adaptive.move_to("full", 1.5)
    assert adaptive.stage == "partial"
    assert adaptive.state_dict()["partial_share"] == 0.2
    assert STAGES == ("offline", "shadow", "partial", "full")
