"""The examples for other libraries run: a handful of decisions each, and what they write is a policy."""

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("stable_baselines3")

from batchpilot.envs import env_id
from batchpilot.tuners.policy import read_policy

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICK = env_id("limits", "quick")


def example(name, monkeypatch):
    """An example as a module, on scenarios that take little time."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ENV", QUICK)
    return module


@pytest.mark.parametrize(("name", "package"), [("cleanrl_ppo", "torch"), ("skrl_ppo", "skrl")])
def test_an_agent_of_another_library_is_trained_and_exported(name, package, tmp_path, monkeypatch):
    pytest.importorskip(package)
    module = example(name, monkeypatch)
    monkeypatch.setattr(module, "ROWS", 4)
    module.main(str(tmp_path / "agent.onnx"), 300)
    assert read_policy(tmp_path / "agent.onnx").description.track == "limits"


def test_rllib_trains_on_the_environment(monkeypatch):
    pytest.importorskip("ray.rllib", exc_type=ImportError)
    import ray

    module = example("rllib_ppo", monkeypatch)
    try:
        assert module.main(1, runners=0, batch=128) >= 4 * 128  # each decision in four epochs
    finally:
        ray.shutdown()


def test_maskable_ppo_reads_the_masks_of_every_form():
    contrib = pytest.importorskip("sb3_contrib")
    from batchpilot.agents.sb3 import BatchingVecEnv
    from batchpilot.core import Limits

    for form in ("multi-discrete", "discrete"):
        envs = BatchingVecEnv(2, scenario="quick-chat", actions=form, base=Limits(1), seeds=[1, 2])
        agent = contrib.MaskablePPO("MlpPolicy", envs, n_steps=32, batch_size=32, n_epochs=1, seed=0, device="cpu")
        assert agent.learn(128).num_timesteps == 128
        masks = envs.envs.action_masks()
        observation = envs.envs.reset(seed=0)[0]
        actions, _ = agent.predict(observation, action_masks=masks, deterministic=False)
        assert len(actions) == 2
