"""An exported policy decides as the trained one does, in its environment and on a server."""

import json
import math
from dataclasses import replace

import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import numpy as np
import onnx
import onnxruntime
import torch
from stable_baselines3 import PPO
from typer.testing import CliRunner

from batchpilot.agents.export.check import check_decisions, recorded_features
from batchpilot.agents.export.export import export_policy
from batchpilot.agents.export.model import to_bytes
from batchpilot.agents.export.training import TrainedPolicy, load_training
from batchpilot.agents.sb3 import BatchingVecEnv
from batchpilot.configs.scenario import scenario
from batchpilot.core import SLO, Limits
from batchpilot.core.features import FEATURE_NAMES, FEATURE_VERSION
from batchpilot.engines import SimulatedEngine, run_engine
from batchpilot.envs import BatchingEnv, prepare
from batchpilot.runners.main import app
from batchpilot.tuners.policy import load_policy
from batchpilot.tuners.policy.file import parse_policy

SCENARIO, SEED = "closed-loop-8", 3
CLIP = 5.0


def train(folder, track, *, base=None, **policy_options):
    """A tiny PPO on raw observations, its first layer's inputs described as normalised by some odd numbers."""
    torch.set_num_threads(1)
    folder.mkdir()
    envs = BatchingVecEnv(4, scenario=SCENARIO, track=track, base=base, seeds=range(4))
    agent = PPO("MlpPolicy", envs, n_steps=32, batch_size=64, n_epochs=2, seed=0, device="cpu", **policy_options)
    agent.learn(256)
    with torch.no_grad():
        agent.policy.action_net.weight.mul_(60.0)  # decisions that depend on the window, as those of a long training
    agent.save(folder / "model.zip")
    rng = np.random.default_rng(1)
    features = len(FEATURE_NAMES)
    told = {
        "schema": 1,
        "track": track,
        "table": envs.envs.table.describe(),
        "feature_version": FEATURE_VERSION,
        "feature_names": list(FEATURE_NAMES),
        "stack": 1,
        "observation_mean": rng.random(features).tolist(),
        "observation_std": (0.2 + rng.random(features)).tolist(),
        "observation_clip": CLIP,
        "observation_low": [-1.0] * features,
        "observation_high": [2.0] * features,
        "decision_interval_ms": 1000.0,
        "training": {"seeds": [0], "scenarios": [SCENARIO], "scores": {"goodput": 0.5}},
    }
    (folder / "policy.json").write_text(json.dumps(told))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("training")
    guarded = Limits(64, token_budget=1024, max_queued_tokens=20_000, step_target_ms=50.0, ttft_guard=1.0)
    return {
        "limits": train(root / "limits", "limits"),
        "guarded": train(
            root / "guarded",
            "guarded",
            base=guarded,
            policy_kwargs={"net_arch": [16, 8], "activation_fn": torch.nn.ReLU},
        ),
    }


@pytest.fixture(scope="module", params=["limits", "guarded"])
def exported(request, folders, tmp_path_factory):
    folder = folders[request.param]
    return load_training(folder), export_policy(folder, tmp_path_factory.mktemp("out") / "policy.onnx")


def played(trained: TrainedPolicy, name: str, seed: int) -> list[Limits]:
    """The limits of an episode: held in the first interval, for which nothing was measured, then the agent's own."""
    table = trained.description.table
    env = BatchingEnv(name, fields=table.fields, base=table.base)
    env.reset(options={"scenario": name, "workload_seed": seed})
    action, done, limits = table.hold(env._position), False, []
    while not done:
        observation, _, terminated, truncated, info = env.step(action)
        limits.append(Limits.from_dict(info["limits"]))
        action, done = trained.decide(observation[None])[0], terminated or truncated
    return limits


@pytest.mark.parametrize(("name", "seed"), [(SCENARIO, SEED), ("quick-chat", 1)])
def test_a_server_gets_the_limits_that_the_agent_chooses_in_its_environment(exported, name, seed):
    trained, file = exported
    run = prepare(scenario(name), seed)
    slo = SLO(float(run.requests.ttft_target_ms[0]), float(run.requests.tpot_target_ms.mean()))
    tuner = load_policy(file.path, rails=False, slo=slo)
    result = run_engine(
        SimulatedEngine(run.engine, run.requests), tuner, window_ms=run.window_ms, horizon_ms=run.horizon_ms
    )
    served = [window.limits for window in result.windows]
    chosen = played(trained, name, seed)
    assert served[: len(chosen)] == chosen  # the run idles on to its horizon, the episode ends with its last request
    assert len(set(chosen)) > 3
    assert tuner.status()["uncredited_windows"] == 0


def test_trained_and_exported_agree_on_recorded_observations(exported):
    trained, file = exported
    recorded = recorded_features(seed=9).reshape(-1, len(FEATURE_NAMES))
    decisions = np.array([file.policy.network.decide(observation) for observation in recorded])
    np.testing.assert_array_equal(decisions, trained.decide(recorded))
    assert len(np.unique(decisions, axis=0)) > 1
    assert file.checked > 4096


def test_the_file_is_onnx_that_others_can_read(exported):
    _, file = exported
    model = onnx.load(file.path)
    onnx.checker.check_model(model, full_check=True)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["feature_names"]) == list(FEATURE_NAMES)
    assert json.loads(metadata["training"])["scores"] == {"goodput": 0.5}
    session = onnxruntime.InferenceSession(file.path, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["schema"] == "1"
    observations = np.random.default_rng(0).random((64, len(FEATURE_NAMES))).astype(np.float32)
    actions, logits = session.run(["actions", "logits"], {"features": observations})
    network = file.policy.network
    np.testing.assert_array_equal(actions, [network.decide(row) for row in observations])
    np.testing.assert_allclose(logits, [network.logits(row) for row in observations], rtol=1e-4, atol=1e-4)


def test_the_same_folder_gives_the_same_bytes(exported, folders, tmp_path):
    _, file = exported
    again = export_policy(folders[file.policy.description.track], tmp_path / "again.onnx")
    assert again.path.read_bytes() == file.path.read_bytes()


def test_a_file_that_decides_otherwise_is_not_written(folders, tmp_path, monkeypatch):
    trained = load_training(folders["limits"])
    data = to_bytes(trained.network, trained.description)
    observations = np.random.default_rng(0).random((16, len(FEATURE_NAMES))).astype(np.float32)
    check_decisions(data, trained.decide, observations)
    with pytest.raises(ValueError, match="decides otherwise than the trained one on 16 of 16"):
        check_decisions(data, lambda rows: 4 - trained.decide(rows), observations)
    monkeypatch.setattr(TrainedPolicy, "decide", lambda self, rows: np.full((len(rows), 3), 4))
    with pytest.raises(ValueError, match="nothing was written"):
        export_policy(folders["limits"], tmp_path / "policy.onnx")
    assert list(tmp_path.iterdir()) == []


def test_actions_that_are_worth_the_same_but_for_rounding_may_be_taken_either_way(folders):
    trained = load_training(folders["limits"])
    network, observations = trained.network, np.random.default_rng(0).random((64, len(FEATURE_NAMES)))
    observations = observations.astype(np.float32)
    biases = network.biases[-1].copy()
    # The first two actions of the first limit are equal and best by far, the third only a little less good.
    weights = network.weights[-1].copy()
    weights[:5] = 0.0
    biases[:5] = [5.0, 5.0, 4.99, 0.0, 0.0]
    tied = replace(network, weights=(*network.weights[:-1], weights), biases=(*network.biases[:-1], biases))
    data, best = to_bytes(tied, trained.description), np.array([tied.decide(row) for row in observations])
    for first in (0, 1):
        either = np.concatenate([0 * best[:, :1] + first, best[:, 1:]], axis=1)
        check_decisions(data, lambda rows, either=either: either, observations)
    with pytest.raises(ValueError, match="on 64 of 64"):
        check_decisions(data, lambda rows: np.concatenate([0 * best[:, :1] + 2, best[:, 1:]], axis=1), observations)


def test_a_file_that_is_there_is_kept(folders, tmp_path):
    (tmp_path / "policy.onnx").write_text("mine")
    with pytest.raises(ValueError, match="is there already"):
        export_policy(folders["limits"], tmp_path / "policy.onnx")
    assert (tmp_path / "policy.onnx").read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema": 2}, "schema is 2"),
        ({"track": "speed"}, "unknown track"),
        ({"feature_names": list(reversed(FEATURE_NAMES))}, "feature 0 is"),
        ({"observation_std": [0.0] * len(FEATURE_NAMES)}, "std holds a number that is not above 0"),
        ({"observation_mean": [0.0]}, "shapes"),
        ({"observation_low": [0.0] * (len(FEATURE_NAMES) + 1)}, "no multiple"),
        ({"stack": 2}, f"describes {2 * len(FEATURE_NAMES)}"),
        ({"training": {"score": math.nan}}, "training cannot be written as JSON"),
    ],
)
def test_a_training_that_does_not_fit_is_refused(folders, tmp_path, changes, reason):
    folder = tmp_path / "training"
    folder.mkdir()
    (folder / "model.zip").write_bytes((folders["limits"] / "model.zip").read_bytes())
    told = json.loads((folders["limits"] / "policy.json").read_text())
    (folder / "policy.json").write_text(json.dumps(told | changes))
    with pytest.raises(ValueError, match=reason):
        export_policy(folder, tmp_path / "policy.onnx")
    assert not (tmp_path / "policy.onnx").exists()


def test_a_folder_without_a_training_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model\.zip; give the folder that batchpilot train wrote"):
        export_policy(tmp_path, tmp_path / "policy.onnx")


def test_batchpilot_export_writes_a_policy(folders, tmp_path):
    out = tmp_path / "policy.onnx"
    ran = CliRunner().invoke(app, ["export", str(folders["limits"]), "--out", str(out), "--json"])
    told = json.loads(ran.stdout)
    assert told["sha256"] == parse_policy(out.read_bytes()).digest
    assert told["checked"] > 4096
    refused = CliRunner().invoke(app, ["export", str(folders["limits"]), "--out", str(out)])
    assert refused.exit_code == 2
    assert "is there already" in refused.output
