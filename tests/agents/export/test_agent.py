"""Agents that any script trained: exported with what they were trained behind, or followed as they are."""

import importlib

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from batchpilot.agents.export.agent import export_actor, export_agent
from batchpilot.agents.sb3 import BatchingVecEnv
from batchpilot.core.features import FEATURE_NAMES
from batchpilot.engines import SimulatedEngine, run_engine
from batchpilot.envs import BatchingEnv, prepare
from batchpilot.tuners.policy import load_policy
from batchpilot.tuners.policy.tuner import PolicyTuner

SCENARIO = "closed-loop-8"


def trained(env, algorithm=PPO, **options):
    torch.set_num_threads(1)
    agent = algorithm("MlpPolicy", env, n_steps=16, seed=0, device="cpu", **options)
    agent.learn(128)
    with torch.no_grad():
        agent.policy.action_net.weight.mul_(60.0)  # decisions that depend on the window, as those of a long training
    return agent


def native(**options):
    return BatchingVecEnv(4, scenario=SCENARIO, seeds=range(4), **options)


def gymnasium_s():
    return make_vec_env(lambda: BatchingEnv(SCENARIO, seeds=range(4)), 2, vec_env_cls=DummyVecEnv)


@pytest.mark.parametrize(
    ("make", "algorithm", "stack"),
    [
        (native, PPO, 1),
        (gymnasium_s, A2C, 1),
        (lambda: VecNormalize(native(), clip_obs=3.0), PPO, 1),
        (lambda: VecFrameStack(VecNormalize(native()), 3), PPO, 3),
        (lambda: VecNormalize(VecFrameStack(native(), 2)), A2C, 2),
    ],
    ids=["plain", "gymnasium's own", "normalised", "stacked", "normalised after stacking"],
)
def test_an_exported_agent_decides_as_it_did_behind_its_wrappers(tmp_path, make, algorithm, stack):
    agent = trained(make(), algorithm)
    exported = export_agent(agent, tmp_path / "agent.onnx", training={"by": "a test"})
    described = exported.policy.description
    assert (described.track, described.stack, described.training) == ("limits", stack, {"by": "a test"})
    assert exported.checked > 1000
    # What the agent itself does when its own wrappers normalise what it sees.
    env, rng = agent.get_env(), np.random.default_rng(0)
    raw = rng.uniform(0.0, 2.0, (50, stack * len(FEATURE_NAMES))).astype(np.float32)
    seen = raw
    while hasattr(env, "venv"):
        if isinstance(env, VecNormalize) and env.observation_space.shape[0] == raw.shape[1]:
            seen = env.normalize_obs(raw)
        elif isinstance(env, VecNormalize):
            windows = raw.reshape(len(raw) * stack, -1)
            seen = env.normalize_obs(windows).reshape(raw.shape)
        env = env.venv
    expected = agent.predict(seen, deterministic=True)[0]
    np.testing.assert_array_equal([exported.policy.network.decide(one) for one in raw], expected)
    assert len({tuple(action) for action in expected.tolist()}) > 1


def test_the_exported_file_serves_as_the_agent_does_when_it_is_asked_itself(tmp_path):
    agent = trained(native(track="guarded"))
    path = export_agent(agent, tmp_path / "agent.onnx").path
    table = agent.get_env().get_attr("table")[0]
    itself = PolicyTuner.predicting(
        lambda features: agent.predict(features, deterministic=True)[0], table, track="guarded"
    )
    run, ends = prepare(BatchingEnv(SCENARIO).task.scenarios[0], 5), []
    for tuner in (itself, load_policy(path, rails=False)):
        engine = SimulatedEngine(run.engine, run.requests)
        ends.append(run_engine(engine, tuner, window_ms=run.window_ms, horizon_ms=run.horizon_ms).e2e_ms)
        assert tuner.status()["reason"] != "holding"
    np.testing.assert_array_equal(*ends)


def test_a_network_of_one_s_own_is_exported(tmp_path):
    torch.manual_seed(0)
    table = BatchingEnv(SCENARIO, track="guarded").table
    actor = torch.nn.Sequential(
        torch.nn.Linear(2 * len(FEATURE_NAMES), 16), torch.nn.ReLU(), torch.nn.Linear(16, sum(table.sizes))
    )
    exported = export_actor(actor, table, tmp_path / "actor.onnx", stack=2)
    assert exported.policy.description.track == "guarded"
    raw = np.random.default_rng(0).random((20, 2 * len(FEATURE_NAMES)), np.float32)
    with torch.no_grad():
        logits = actor(torch.as_tensor(raw)).numpy()
    first = logits[:, : table.sizes[0]].argmax(axis=1)
    assert [exported.policy.network.decide(one)[0] for one in raw] == first.tolist()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PPO("MlpPolicy", "CartPole-v1"), "no action table; train in BatchingEnv"),
        (lambda: trained(VecNormalize(VecNormalize(native()))), "normalised twice"),
        (lambda: trained(native(), policy_kwargs={"activation_fn": torch.nn.ELU}), "ELU"),
        (lambda: trained(native(fields=("batch_size", "ttft_guard"))), "say in which it competes"),
    ],
    ids=["another environment", "normalised twice", "another activation", "no track's limits"],
)
def test_an_agent_that_cannot_be_exported_is_refused_in_words(tmp_path, make, message):
    with pytest.raises(ValueError, match=message):
        export_agent(make(), tmp_path / "agent.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_kept(tmp_path):
    (tmp_path / "agent.onnx").write_text("mine")
    with pytest.raises(ValueError, match="is there already"):
        export_agent(trained(native()), tmp_path / "agent.onnx")
    assert (tmp_path / "agent.onnx").read_text() == "mine"


@pytest.mark.parametrize("answer", [[0.5, 1, 1], [99, 0, 0], [0], "left"])
def test_what_is_no_action_is_named(answer):
    table = BatchingEnv(SCENARIO).table
    tuner = PolicyTuner.predicting(lambda features: np.array(answer), table)
    run = prepare(BatchingEnv(SCENARIO).task.scenarios[0], 0)
    engine = SimulatedEngine(run.engine, run.requests)
    engine.set_limits(tuner.ask())
    window, _ = engine.run_window(1000.0)
    with pytest.raises(ValueError, match="allowed are whole numbers 0"):
        tuner.tell(window)


def test_the_example_trains_and_exports(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend("examples")
    importlib.import_module("sb3_agent").main(str(tmp_path / "agent.onnx"), 1024)
    assert load_policy(tmp_path / "agent.onnx").status()["track"] == "limits"
