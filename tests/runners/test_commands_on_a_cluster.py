"""`tune --cluster` and `train --cluster` on a Ray of this machine."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from batchpilot.runners.main import app


def invoke(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_trials_run_on_a_cluster_and_stand_in_one_study(tiny_file, tmp_path):
    pytest.importorskip("optuna")
    pytest.importorskip("ray")
    asked = ("tune", "--scenario", tiny_file, "--seeds", 1, "--track", "batch", "--sampler", "random", "--no-grid")
    told = invoke(*asked, "--check-seeds", 0, "--trials", 6, "--cluster", "local", "--jobs", 2, "--out", tmp_path / "a")
    assert told.exit_code == 0, told.output
    trials = json.loads((tmp_path / "a/results.json").read_text())["trials"]
    assert 6 <= len(trials) <= 7  # two workers may both see room for the last
    assert len({json.dumps(trial["limits"]) for trial in trials}) > 3


def test_seeds_trained_on_a_cluster_are_those_trained_here(tmp_path):
    pytest.importorskip("stable_baselines3")
    pytest.importorskip("ray")
    from batchpilot.agents.training.config import load_training_config

    shipped = load_training_config("guarded")
    ranges = shipped.randomisation.model_dump() | {"most_requests": 200, "models": ["Qwen3-0.6B"]}
    small = shipped.changed(
        randomisation=ranges,
        n_timesteps=32,
        n_envs=2,
        n_steps=16,
        batch_size=16,
        n_epochs=1,
        segment_timesteps=32,
        pool=2,
        policy_kwargs={"net_arch": [8], "activation_fn": "tanh"},
        validation={"suite": None, "drawn": 2, "devices": ["Arc-A770"]},
        warm_start=None,
        seeds=[0, 1],
    )
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump({"batchpilot/Batching-v0": small.model_dump(mode="json")}))
    curves = []
    for name, more in (("here", ()), ("there", ("--cluster", "local"))):
        told = invoke("train", "--config", file, "--out", tmp_path / name, *more)
        assert told.exit_code == 0, told.output
        curves.append((tmp_path / name / "curves.csv").read_text())
    assert curves[0] == curves[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tune", "--scenario", "quick-chat", "--cluster", "local"), "--jobs"),
        (("tune", "--backend", "torch", "--cluster", "local", "--jobs", 2), "--cluster"),
    ],
)
def test_a_cluster_that_would_have_nothing_to_do_is_refused(words, said):
    pytest.importorskip("optuna")
    told = invoke(*words)
    assert told.exit_code == 2
    assert said in told.output


def test_one_seed_is_not_trained_on_a_cluster(tmp_path):
    pytest.importorskip("stable_baselines3")
    told = invoke("train", "--config", "guarded", "--seeds", "0", "--out", tmp_path / "out", "--cluster", "local")
    assert told.exit_code == 2
    assert "side by side" in told.output
