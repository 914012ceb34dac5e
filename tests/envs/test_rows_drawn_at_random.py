"""Rows of a vector environment tell what single environments do, under limits, loads and engines drawn at random."""

import copy
import pickle

import numpy as np
import pytest
from short_scenarios import CHAT, SHORT, short

from batchpilot import Limits
from batchpilot.core.grids import GRIDS
from batchpilot.envs import BatchingEnv, BatchingVectorEnv

BURSTS = {"kind": "gamma", "load": 2.0, "cv": 4.0}
LONG = CHAT | {"output_tokens": {"median": 200, "sigma": 0.8}}
TOLD = {
    "arrivals": {"kind": "poisson", "load": 1.5},
    "requests": {"median": 3, "sigma": 0.9, "max": 30},
    "system_tokens": 200,
    "first_tokens": {"median": 150, "sigma": 1.0, "max": 2000},
    "message_tokens": {"median": 60, "sigma": 1.0, "max": 1000},
    "output_tokens": {"median": 120, "sigma": 0.8, "max": 500},
    "think": {"median_s": 0.5, "sigma": 0.9, "max_s": 5},
    "max_context_tokens": 3500,
}


def one_phase(**more):
    return {"duration_s": 5, "arrivals": BURSTS, "lengths": LONG, "users": 3} | more


MIXED = {"priority_mix": {"high": 0.2, "normal": 0.5, "low": 0.3}, "slo_mix": {"interactive": 0.7, "batch": 0.3}}
IMAGES = {"share": 0.5, "sizes": {224: 1, 336: 2}, "different": 4, "per_request": {1: 1, 3: 1}}
DRAWN_FROM = [
    *(SHORT[name] for name in ("quiet", "drifting", "unpromised", "closed")),
    short(
        "tenants", workload={"phases": [one_phase()]}, engine={"tenants": {0: {"weight": 0.2}, 1: {"max_running": 3}}}
    ),
    short("urgent", workload={"phases": [one_phase(**MIXED)]}, engine={"prefill": "whole", "block_size": 128}),
    short("scarce", workload={"phases": [one_phase()]}, device="A10", model="Llama-2-7B", engine={"block_size": 7}),
    short("talk", workload={"conversations": TOLD | {"duration_s": 5}}, engine={"prefix_cache": True}),
    short("shown", workload={"phases": [one_phase()], "images": IMAGES}, engine={"vision": {"tower": "clip-vit-l14"}}),
    short("drafting", engine={"speculation": {"acceptance": 0.6, "drafted": 2}}),
]
BASES = [
    Limits(256),
    Limits(24, token_budget=8),
    Limits(8, 64, ttft_guard=0.5, discipline="vision", delay_factor=0.7),
    Limits(64, 512, discipline="fair", refusal_bound=0.0, ttft_guard=1.0),
]
FIELDS = [["batch_size", "token_budget", "max_queued_tokens"], list(GRIDS), ["batch_size", "ttft_guard"], list(GRIDS)]


def told(infos, i):
    """What a vector environment's infos tell of a row."""
    return {
        part: {
            name: infos[part][name][i]
            for name in infos[part]
            if not name.startswith("_") and infos[part]["_" + name][i]
        }
        for part in ("metrics", "limits")
    }


@pytest.mark.parametrize("seed", range(4))
def test_rows_equal_single_environments_whatever_is_drawn(seed):
    rng = np.random.default_rng(seed)
    n, same_step = 3, seed % 2 == 0
    arguments = {
        "scenario": list(rng.choice(DRAWN_FROM, 4, replace=False)),
        "fields": FIELDS[seed],
        "action_mode": ("absolute", "absolute", "relative", "relative")[seed],
        "base": BASES[seed],
        "decision_interval_ms": float(rng.choice([300.0, 900.0])),
    }
    rows = BatchingVectorEnv(
        n, autoreset_mode="SameStep" if same_step else "NextStep", threads=1 + seed % 2, **arguments
    )
    singles = [BatchingEnv(**arguments) for _ in range(n)]
    rows.reset(seed=seed)
    for i, single in enumerate(singles):
        single.reset(seed=seed + i)
    rows.action_space.seed(seed)
    fresh, ended, by_calendar = [False] * n, 0, 0
    actions = rows.action_space.sample()
    for step in range(130):
        if rng.random() < 0.5:
            actions = rows.action_space.sample()
        if step % 40 == 20:
            rows = copy.deepcopy(rows) if seed % 2 else pickle.loads(pickle.dumps(rows))
        observations, rewards, terminated, truncated, infos = rows.step(actions)
        by_calendar += int(rows._rows._clock["decoding"].sum())
        for i, single in enumerate(singles):
            if fresh[i]:
                (observation, info), reward, ends = single.reset(), 0.0, (False, False)
            else:
                observation, reward, *ends, info = single.step(actions[i])
            assert (rewards[i], terminated[i], truncated[i]) == (reward, *ends), (step, i)
            fresh[i], over = any(ends) and not same_step, any(ends)
            ended += over
            if over and same_step:
                np.testing.assert_array_equal(infos["final_obs"][i], observation)
                np.testing.assert_equal(
                    told(infos["final_info"], i), {part: dict(info[part]) for part in ("metrics", "limits")}
                )
                observation, info = single.reset()
            np.testing.assert_array_equal(observations[i], observation, err_msg=f"step {step}, row {i}")
            np.testing.assert_equal(told(infos, i), {part: dict(info[part]) for part in ("metrics", "limits")})
    assert ended >= n
    assert by_calendar > 0, "some calendar stayed open from one decision to the next"
