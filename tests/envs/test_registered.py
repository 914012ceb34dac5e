"""Every id can be made by itself, plays its suite at the suite's own seeds, and keeps Gymnasium's contract."""

import json
import subprocess
import sys
import warnings

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from batchpilot.configs.scenario import suite
from batchpilot.configs.seeds import suite_seeds
from batchpilot.core import TRACKS
from batchpilot.envs import BATCH_SERVICE_ID, ENV_ID, FLEET_ID, BatchingEnv, env_id, suite_ids
from batchpilot.envs.registration import VERSION

# A track changes the spaces, a suite the runs; conversations take seconds to draw, so one suite of them stands for all.
CHECKED = [
    *(env_id(track, "quick") for track in TRACKS),
    *(name for name, (track, played) in suite_ids().items() if track == "limits" and not played.startswith("agents")),
    env_id("limits", "agents-validation"),
]


@pytest.mark.parametrize("name", [ENV_ID, BATCH_SERVICE_ID, FLEET_ID, *dict.fromkeys(CHECKED)])
def test_an_id_is_made_by_itself_and_keeps_gymnasiums_contract(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(name).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("name", [*dict.fromkeys(CHECKED)])
def test_an_id_is_its_track_on_its_suite_at_the_suites_own_seeds(name):
    track, played = suite_ids()[name]
    env = gymnasium.make(name).unwrapped
    assert env.table.fields == TRACKS[track]
    assert {one.name for one in env.task.scenarios} == {one.name for one in suite(played) if not one.needs_trace}
    for seed in (0, 1):
        assert env.reset(seed=seed)[1]["seed"] in suite_seeds(played)


def test_what_is_judged_on_is_never_drawn_in_training():
    drawn = {}
    for played in ("train", "validation", "held-out"):
        env = gymnasium.make(env_id("limits", played)).unwrapped
        drawn[played] = {env.reset(seed=seed)[1]["seed"] for seed in range(5)}
    assert not drawn["train"] & drawn["held-out"]
    assert not drawn["train"] & drawn["validation"]


def test_an_id_of_earlier_scenarios_is_refused_with_the_one_to_use_now():
    now = env_id("limits", "held-out")
    with pytest.raises(gymnasium.error.DeprecatedEnv, match=f"use `{now}` instead"):
        gymnasium.make(env_id("limits", "held-out", VERSION - 1))


def test_an_id_says_all_of_itself_as_json():
    spec = gymnasium.make(env_id("guarded", "quick")).spec
    assert json.loads(spec.to_json())["kwargs"] == {"scenario": "quick", "track": "guarded", "seeds": "suite"}


@pytest.mark.parametrize("name", [BATCH_SERVICE_ID, env_id("batch", "quick")])
def test_a_fresh_interpreter_needs_nothing_but_the_id(name):
    code = f"import gymnasium; print(gymnasium.make('batchpilot.envs:{name}').spec.id)"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.split() == [name]


@pytest.mark.parametrize("scenario", ["quick-chat", ["quick"]])
def test_only_a_suite_has_seeds_of_its_own(scenario):
    with pytest.raises(ValueError, match="with a suite's name"):
        BatchingEnv(scenario, seeds="suite")
