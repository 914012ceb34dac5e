import numpy as np
import pytest

from batchpilot.configs import TunerConfig
from batchpilot.core import Limits, WindowMetrics
from batchpilot.core.metrics import to_record
from batchpilot.envs import BatchingEnv, BatchingVectorEnv
from batchpilot.envs.rewards import goodput, score
from batchpilot.tuners.probe.sample import read
from batchpilot.tuners.probe.score import ScoreBoard

LIMITS = Limits(batch_size=8)


def window(**changes):
    busy = {
        "duration_ms": 1000.0,
        "busy_ms": 500.0,
        "steps": 10,
        "generated_tokens": 100,
        "utilisation": 0.5,
        "memory_used_mb": 30.0,
        "memory_peak_mb": 40.0,
        "memory_total_mb": 80.0,
        "peak_tokens_per_s": 400.0,
        "goodput_tokens_per_s": 60.0,
    }
    return WindowMetrics(limits=LIMITS, **(busy | changes))


def records(*windows):
    return np.concatenate([to_record(one) for one in windows])


def test_goodput_is_the_share_of_the_peak_that_met_its_slo():
    both = goodput(records(window(), window(goodput_tokens_per_s=0.0), window(peak_tokens_per_s=0.0)))
    assert both == pytest.approx([60 / 400, 0.0, 0.0])


def test_score_by_hand():
    # 100 tokens in 0.5 s of steps are 200 tokens/s, half the peak.
    assert score(records(window())) == pytest.approx([0.5 * 0.5 + 0.3 * 0.5 + 0.2 * 0.75])


def test_score_never_leaves_its_range():
    hot = window(peak_tokens_per_s=1.0, utilisation=1.0, memory_used_mb=40.0)
    unreported = window(memory_peak_mb=0.0, peak_tokens_per_s=0.0, utilisation=0.0)
    assert score(records(hot, unreported)) == pytest.approx([1.0, 0.2])


def test_score_is_zero_where_nothing_was_generated():
    assert score(records(window(generated_tokens=0))) == [0.0]


@pytest.mark.parametrize("tokens", [1, 50, 150, 200])
def test_score_is_the_one_that_the_probe_tuner_climbs(tokens):
    one = window(generated_tokens=tokens)
    assert score(records(one))[0] == pytest.approx(ScoreBoard(TunerConfig()).score(read(one)))


def refusals(metrics):
    return -(metrics["refused_on_arrival"] + metrics["refused_by_guard"]).astype(float)


def test_a_reward_of_ones_own_is_what_the_environments_give(scenarios):
    env = BatchingEnv(scenarios["chat"], reward=refusals, base=Limits(8, max_queued_tokens=512))
    envs = BatchingVectorEnv(2, scenarios["chat"], reward=refusals, base=Limits(8, max_queued_tokens=512))
    env.reset(seed=4)
    envs.reset(seed=4)
    hold, total = env.table.hold(env.table.start(100.0)), 0.0
    for _ in range(6):
        _, reward, _, _, info = env.step(hold)
        assert reward == -(info["metrics"]["refused_on_arrival"] + info["metrics"]["refused_by_guard"])
        assert envs.step(np.stack([hold, hold]))[1][0] == reward
        total += reward
    assert total < 0


@pytest.mark.parametrize("gives", [lambda metrics: 1.0, lambda metrics: np.array([np.nan]), lambda metrics: ["much"]])
def test_a_reward_that_is_no_number_a_window_is_refused(scenarios, gives):
    env = BatchingEnv(scenarios["few"], reward=gives)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="one finite number each"):
        env.step(np.array([2, 2, 2]))
