"""How fast a tuner learns and finds back, judged by the settings it asks for."""

import math

import numpy as np
import pytest

from batchpilot.configs.scenario import Scenario, scenario
from batchpilot.core import Limits
from batchpilot.envs.scenarios import prepare
from batchpilot.runners.leaderboard.adaptation import arrived, between, first_shift_s, reaction, sample_efficiency

SCHEDULE = """
from batchpilot import Limits
from batchpilot.baselines.references.clairvoyant import ScheduledTuner

class Late(ScheduledTuner):
    def __init__(self):
        super().__init__([Limits(1, 2048)] * WINDOWS + [Limits(64, 2048)])
"""


def phase(load, prompt):
    lengths = {"kind": "fixed", "prompt_tokens": prompt, "output_tokens": 60}
    return {"duration_s": 20, "arrivals": {"kind": "poisson", "load": load}, "lengths": lengths}


def shifting(*phases, drift=()):
    return Scenario.model_validate(
        {
            "name": "shifting",
            "description": "A quiet and a busy stretch.",
            "family": "prompt-shift",
            "device": "A100-80GB",
            "model": "Llama-3-8B",
            "workload": {"phases": list(phases)},
            "engine": {"drift": list(drift)},
        }
    )


def late(tmp_path, windows):
    path = tmp_path / "late.py"
    path.write_text(SCHEDULE.replace("WINDOWS", str(windows)))
    return f"{path}:Late"


def test_a_tuner_that_finds_the_size_after_seven_windows_took_seven_decisions(tmp_path, tiny):
    found = sample_efficiency(tiny, 0, late(tmp_path, 7), "batch")
    assert found.decisions == 7
    assert found.final >= 0.95 * found.best


def test_a_tuner_that_stands_right_needs_none_and_one_that_never_moves_never_arrives(tiny):
    assert sample_efficiency(tiny, 0, "static-64", "batch").decisions == 0
    assert math.isnan(sample_efficiency(tiny, 0, "static-8", "batch").decisions)


def test_reaction_counts_from_the_shift(tmp_path):
    moved = shifting(phase(0.2, 50), phase(0.5, 50))
    assert reaction(moved, 0, late(tmp_path, 26), "batch").decisions == pytest.approx(6, abs=1)
    assert reaction(moved, 0, "static-64", "batch").decisions == 0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [("gg", 0), ("bg", 1), ("bggbggg", 4), ("bbb", math.nan), ("bgb", math.nan), ("", math.nan), ("gbbgg", 3)],
)
def test_arriving_means_staying(settings, expected):
    limits = [Limits(64 if one == "g" else 1) for one in settings]
    assert arrived(limits, lambda one: one.batch_size == 64, held=3) == pytest.approx(expected, nan_ok=True)


def test_the_first_shift_is_of_load_or_device_and_lasts_until_the_next():
    throttle = {"kind": "throttle", "start_s": 12, "end_s": 15, "factor": 2.0}
    assert first_shift_s(shifting(phase(1, 50), phase(1, 60))) == (20, 40)
    assert first_shift_s(shifting(phase(1, 50), phase(1, 60), drift=[throttle])) == (12, 15)
    with pytest.raises(ValueError, match="nothing shifts in quick-chat"):
        first_shift_s(scenario("quick-chat"))


def test_the_part_after_a_shift_has_its_requests_and_the_device_as_it_is_then():
    throttle = {"kind": "throttle", "start_s": 20, "end_s": 30, "factor": 2.0}
    run = prepare(shifting(phase(1, 50), phase(1, 60), drift=[throttle]), 0)
    part = between(run, 20, 40)
    assert set(part.requests.prompt_tokens) == {60}
    assert len(part.requests) == np.count_nonzero(run.requests.arrival_ms >= 20_000)
    assert part.engine.latency == run.engine.latency.scaled(2.0)
    assert [moment for moment, _ in part.engine.drift] == [10_000.0]
    assert part.horizon_ms == 20_000 + 30_000
