"""What an environment tells of an episode at its end, held against the runs it speaks of."""

import copy
import pickle

import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics

from batchpilot.baselines.references.static_best import best_static, tightest_tpot_ms, track_grid
from batchpilot.baselines.static import SERVER_DEFAULT
from batchpilot.core import Limits
from batchpilot.engines import SimulatedEngine, run_engine
from batchpilot.envs import BatchingEnv, BatchingVectorEnv, prepare
from batchpilot.envs.episode import normalised, track_of


def played(env, seed=0, **reset):
    """The infos of an episode that never moves."""
    env.reset(seed=seed, **reset)
    hold, infos, ended = env.unwrapped.table.hold(env.unwrapped.table.start(100.0)), [], False
    while not ended:
        *_, terminated, truncated, info = env.step(hold)
        infos.append(info)
        ended = terminated or truncated
    return infos


def share_of(scenario, seed, limits):
    run = prepare(scenario, seed)
    engine = SimulatedEngine(run.engine, run.requests)
    return run_engine(engine, limits, window_ms=run.window_ms, horizon_ms=run.horizon_ms).goodput_fraction


@pytest.mark.parametrize("name", ["chat", "drifting", "t4", "unpromised", "closed"])
def test_the_account_is_that_of_the_run(scenarios, name):
    limits = Limits(64, token_budget=1024, max_queued_tokens=4096)
    infos = played(BatchingEnv(scenarios[name], base=limits))
    told = infos[-1]["episode"]
    assert told["goodput_fraction"] == share_of(scenarios[name], infos[-1]["seed"], limits)
    assert told["l"] == len(infos)
    assert not any("episode" in info for info in infos[:-1])


def test_references_are_the_shipped_default_and_the_best_fixed_setting_of_this_very_run(scenarios):
    info = played(BatchingEnv(scenarios["chat"], track="batch"))[-1]
    run = prepare(scenarios["chat"], info["seed"])
    best = best_static(run, track_grid("batch", tightest_tpot_ms(run)))[1]
    default = share_of(scenarios["chat"], info["seed"], SERVER_DEFAULT)
    assert info["episode"]["references"] == {"static-default": default, "static-best": best}


def test_who_never_moves_from_the_shipped_default_scores_nought_and_the_best_fixed_setting_one(scenarios):
    env = BatchingEnv(scenarios["chat"], track="limits")
    info = played(env)[-1]
    assert info["episode"]["normalised_score"] == 0.0
    run = prepare(scenarios["chat"], info["seed"])
    best, share = best_static(run, track_grid("limits", tightest_tpot_ms(run)))
    assert normalised(share_of(scenarios["chat"], info["seed"], best), info["episode"]["references"]) == 1.0
    assert share > info["episode"]["goodput_fraction"]


def test_a_run_without_room_for_improvement_has_no_score():
    assert np.isnan(normalised(1.0, {"static-default": 0.999, "static-best": 1.0}))
    assert normalised(0.75, {"static-default": 0.5, "static-best": 1.0}) == 0.5
    assert normalised(0.25, {"static-default": 0.5, "static-best": 1.0}) == -0.5


def test_references_cost_nothing_until_they_are_asked_for_by_name(scenarios):
    told = played(BatchingEnv(scenarios["few"], track="batch"))[-1]["episode"]
    quick = {"r", "l", "goodput_fraction", "offered_tokens"}
    assert {*told} == {*copy.deepcopy(told)} == {*pickle.loads(pickle.dumps(told))} == quick
    assert "references" not in told
    assert told.get("nothing", 7) == 7
    assert 0 <= told.get("references")["static-default"] <= 1
    assert {*told} == {*pickle.loads(pickle.dumps(told))} == quick | {"references"}
    with pytest.raises(KeyError):
        told["reference"]


def test_references_are_there_each_time_when_a_keyword_asks_for_them(scenarios):
    told = dict(played(BatchingEnv(scenarios["chat"], track="limits", references=True))[-1]["episode"])
    assert {"references", "normalised_score"} <= {*told}


def test_the_keyword_is_refused_where_nothing_is_simulated(scenarios):
    with pytest.raises(ValueError, match="simulated runs only"):
        BatchingEnv(scenarios["few"], backend="torch", references=True)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize("references", [False, True])
def test_rows_tell_what_single_environments_tell(scenarios, mode, references):
    arguments = {"scenario": [scenarios["few"], scenarios["closed"]], "track": "batch", "references": references}
    native = BatchingVectorEnv(3, autoreset_mode=mode, **arguments)
    single = SyncVectorEnv([lambda: BatchingEnv(**arguments)] * 3, autoreset_mode=mode)
    for envs in (native, single):
        envs.reset(seed=1)
    hold, episodes = np.full((3, 1), 2), 0
    for _ in range(60):
        ours, theirs = native.step(hold)[-1], single.step(hold)[-1]
        ours, theirs = (infos.get("final_info", infos) if mode == "SameStep" else infos for infos in (ours, theirs))
        assert ("episode" in ours) == ("episode" in theirs)
        if "episode" in theirs:
            episodes += theirs["_episode"].sum()
            np.testing.assert_equal(dict(ours["episode"]), theirs["episode"])
            np.testing.assert_array_equal(ours["_episode"], theirs["_episode"])
    assert episodes > 3


def test_rows_find_references_when_they_are_asked_for(scenarios):
    envs = BatchingVectorEnv(2, scenarios["closed"], track="batch")
    envs.reset(seed=1)
    infos = {}
    while "episode" not in infos:
        infos = envs.step(np.full((2, 1), 2))[-1]
    told, rows = infos["episode"], infos["_episode"]
    assert "normalised_score" not in told
    assert told["normalised_score"].shape == (2,)
    np.testing.assert_array_equal(told["_normalised_score"], rows)
    i = int(np.argmax(rows))
    assert told["references"]["static-default"][i] <= told["references"]["static-best"][i]
    assert told["goodput_fraction"][i] == envs.episodes[i]["goodput_fraction"]


def test_the_sum_of_rewards_is_what_gymnasium_records(scenarios):
    env = RecordEpisodeStatistics(BatchingEnv(scenarios["few"], episode_key="run"))
    info = played(env)[-1]
    assert info["episode"]["r"] == pytest.approx(info["run"]["r"])
    assert info["episode"]["l"] == info["run"]["l"]


def test_without_a_key_nothing_is_told_of_episodes(scenarios):
    assert {*played(BatchingEnv(scenarios["few"], episode_key=None))[-1]} == {"metrics", "limits", "scenario", "seed"}


@pytest.mark.parametrize(
    ("fields", "track"),
    [
        (["batch_size"], "batch"),
        (["token_budget"], "limits"),
        (["step_target_ms", "token_budget"], "guarded"),
    ],
)
def test_hindsight_may_set_what_the_agent_may(scenarios, fields, track):
    assert track_of(BatchingEnv(scenarios["few"], fields=fields).table) == track
