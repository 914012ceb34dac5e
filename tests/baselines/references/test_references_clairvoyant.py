"""The clairvoyant schedule: never below the best fixed setting, and what it promises is what a replay gives."""

import json

import pytest

from batchpilot.baselines.references.clairvoyant import ScheduledTuner, clairvoyant
from batchpilot.baselines.references.rollout import Rollouts
from batchpilot.baselines.references.static_best import best_static, goodput_of, track_grid
from batchpilot.configs.scenario import Scenario
from batchpilot.core import Limits, WindowMetrics
from batchpilot.core.limits import TRACKS
from batchpilot.engines.simulated.engine import SimulatedEngine
from batchpilot.engines.simulated.simulation import run_engine
from batchpilot.envs.scenarios import prepare


def phase(load, lengths):
    return {"duration_s": 15, "arrivals": {"kind": "poisson", "load": load}, "lengths": lengths}


SHIFT = Scenario.model_validate(
    {
        "name": "shift",
        "description": "Short answers turn into long prompts past capacity.",
        "family": "prompt-shift",
        "device": "A100-80GB",
        "model": "Llama-3-8B",
        "workload": {
            "phases": [
                phase(1.2, {"kind": "fixed", "prompt_tokens": 200, "output_tokens": 100}),
                phase(1.5, {"kind": "azure-conv", "max_prompt_tokens": 7168}),
            ]
        },
    }
)


@pytest.fixture(scope="module")
def run():
    return prepare(SHIFT, 0)


def played(run, strategy):
    engine = SimulatedEngine(run.engine, run.requests)
    return run_engine(engine, strategy, window_ms=run.window_ms, horizon_ms=run.horizon_ms)


@pytest.mark.parametrize("track", ["batch", "limits"])
def test_a_schedule_is_never_below_the_best_fixed_setting_and_replays_as_promised(run, track):
    found = clairvoyant(run, track, blocks=(16, 4))
    assert found.static_goodput == best_static(run, track_grid(track, 100.0))[1]
    assert found.goodput >= found.static_goodput
    result = played(run, ScheduledTuner(found.schedule))
    assert result.goodput_fraction == pytest.approx(found.goodput, abs=1e-12)


def test_a_schedule_wins_where_the_load_shifts(run):
    found = clairvoyant(run, "limits", blocks=(16, 4, 1))
    assert found.goodput > found.static_goodput + 0.005


def test_only_the_fields_of_the_track_move(run):
    base = Limits(256, 2048)
    for limits in clairvoyant(run, "batch", blocks=(8,)).schedule:
        assert limits.replace(batch_size=256) == base
    fixed = [name for name in base.to_dict() if name not in TRACKS["limits"]]
    for limits in clairvoyant(run, "limits", blocks=(8,)).schedule:
        assert all(getattr(limits, name) == getattr(base, name) for name in fixed)


def test_equal_runs_give_equal_schedules(run):
    assert clairvoyant(run, "batch", blocks=(8,)) == clairvoyant(run, "batch", blocks=(8,))


def test_trying_something_out_changes_nothing(run):
    rollouts = Rollouts(run)
    wide, narrow = (rollouts.encode([Limits(size, 2048)]) for size in (256, 4))
    offered = run.requests.output_tokens.sum()
    first = rollouts.tokens(wide)
    assert first / offered == pytest.approx(goodput_of(run, Limits(256, 2048)), abs=1e-12)
    assert rollouts.tokens(narrow) != first
    assert rollouts.tokens(wide) == first
    rollouts.go_on(wide, 7)
    assert rollouts.tokens(wide) == first
    rollouts.go_on(narrow, 3)
    assert rollouts.tokens(wide) != first
    rollouts.rewind()
    assert rollouts.tokens(wide) == first


def test_a_scheduled_tuner_goes_on_from_its_saved_place():
    schedule = [Limits(size) for size in (1, 2, 3)]
    tuner = ScheduledTuner(schedule)
    window = WindowMetrics(limits=Limits(1))
    asked = []
    for _ in range(4):
        asked.append(tuner.ask().batch_size)
        tuner.tell(window)
    assert asked == [1, 2, 3, 3]
    tuner.reset()
    tuner.tell(window)
    copy = ScheduledTuner([Limits(9)])
    copy.load_state_dict(json.loads(json.dumps(tuner.state_dict())))
    assert copy.ask() == Limits(2)
    assert copy.status()["reason"].startswith("window 1 of 3")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"tuner": "static"}, "the state of 'static'"),
        ({"tuner": "schedule", "schedule": []}, "incomplete"),
        ({"tuner": "schedule", "schedule": [{"batch_size": 1}], "window": 1}, "window 1 is not one"),
    ],
)
def test_a_foreign_state_is_refused(state, message):
    tuner = ScheduledTuner([Limits(5)])
    with pytest.raises(ValueError, match=message):
        tuner.load_state_dict(state)
    assert tuner.ask() == Limits(5)
    with pytest.raises(ValueError, match="at least one setting"):
        ScheduledTuner([])
