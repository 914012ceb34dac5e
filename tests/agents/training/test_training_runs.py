import json
from dataclasses import asdict
from xml.etree import ElementTree

import numpy as np
import pytest
from gymnasium import spaces

pytest.importorskip("stable_baselines3")

from stable_baselines3 import PPO
from typer.testing import CliRunner

from batchpilot.agents.evaluation import play
from batchpilot.agents.sb3 import BatchingVecEnv
from batchpilot.agents.training.config import TrainingConfig, load_training_config
from batchpilot.agents.training.env import FixedNormalisation, GainReward
from batchpilot.agents.training.policy import Normalisation, deterministic, observe
from batchpilot.agents.training.pool import training_pool
from batchpilot.agents.training.progress import PROGRESS_FILE
from batchpilot.agents.training.run import Training
from batchpilot.agents.training.seeds import seed_folder, train_seeds
from batchpilot.agents.training.validation import Judge
from batchpilot.agents.training.warm_start import REACH, lattice, lattice_about
from batchpilot.core.features import FEATURE_NAMES
from batchpilot.core.files import write_json
from batchpilot.runners.main import app

SMALL = {
    "n_timesteps": 96,
    "n_envs": 2,
    "n_steps": 16,
    "batch_size": 16,
    "n_epochs": 1,
    "segment_timesteps": 32,
    "pool": 2,
    "policy_kwargs": {"net_arch": [8], "activation_fn": "tanh"},
    "validation": {"suite": None, "drawn": 2, "devices": ["Arc-A770"]},
    "warm_start": None,
}


@pytest.fixture(scope="module")
def config() -> TrainingConfig:
    shipped = load_training_config("guarded")
    ranges = shipped.randomisation.model_dump() | {"most_requests": 400, "models": ["Qwen3-0.6B", "Llama-3-8B"]}
    return shipped.changed(**SMALL, randomisation=ranges, seeds=[0])


@pytest.fixture(scope="module")
def judge(config):
    return Judge(config)


def test_rewards_add_up_to_the_gain_in_goodput_share(config):
    pool, table = training_pool(config, 0, 0), config.env_kwargs.table()
    references = pool.played(table)
    envs = GainReward(BatchingVecEnv(1, scenario=pool.scenarios, seeds=pool.seeds, table=table, threads=1), references)
    envs.seed(3)
    envs.reset()
    (start,) = envs.venv.reset_infos
    rng, total, ended, moves = np.random.default_rng(0), 0.0, [False], []
    while not ended[0]:
        moves.append(rng.integers(0, table.sizes))
        _, rewards, ended, infos = envs.step(moves[-1][None])
        total += float(rewards[0])
    played = iter(moves)
    (run,) = [one for one in pool.runs if one.scenario.name == start["scenario"]]
    (ours,) = play([run], table, lambda n: lambda observations: next(played)[None])
    base = references[start["scenario"], start["seed"]]
    gain = ours.goodput_fraction - base.goodput_fraction
    assert total == pytest.approx(gain * base.offered_tokens / base.offered_per_window, abs=1e-3)
    assert infos[0]["TimeLimit.truncated"] is False


def test_a_policy_that_stays_gains_nothing(config, judge):
    table = config.env_kwargs.table()
    stay = table.hold(table.start(100.0))
    shares = judge.shares(lambda n: lambda observations: np.repeat(stay[None], n, axis=0))
    score = judge.score(shares)
    assert score.score == 0.0
    assert score.gains["base"] == score.worst["base"] == score.behind["base"] == 0.0


def test_losses_count_twice(judge):
    better, worse = judge.references["base"] + 0.1, judge.references["base"] - 0.1
    assert judge.score(better).score == pytest.approx(0.1)
    assert judge.score(worse).score == pytest.approx(-0.2)


def test_a_killed_training_resumes_to_the_numbers_of_an_uninterrupted_one(config, judge, tmp_path):
    whole = Training(config, 0, tmp_path / "whole", judge)
    whole.run()

    def kill(point):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Training(config, 0, tmp_path / "killed", judge).run(on_point=kill)
    resumed = Training(config, 0, tmp_path / "killed", judge)
    assert len(resumed.progress.curve) == 1
    resumed.run()
    assert resumed.progress.points == whole.progress.points
    assert resumed.progress.normalisation == whole.progress.normalisation
    agents = [PPO.load(tmp_path / name / "checkpoint-2.zip", device="cpu") for name in ("whole", "killed")]
    weights = [agent.policy.state_dict() for agent in agents]
    assert all(bool((weights[0][name] == weights[1][name]).all()) for name in weights[0])


def truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("lost", ["checkpoint-2.zip", "model.zip"])
def test_a_damaged_agent_is_named_and_comes_from_what_is_whole(config, judge, tmp_path, lost):
    whole = Training(config, 0, tmp_path, judge)
    whole.run()
    weights = PPO.load(tmp_path / "model.zip", device="cpu").policy.state_dict()
    if lost == "model.zip":  # as if the last segment were the best: its checkpoint is there to take the agent from
        weights = PPO.load(tmp_path / "checkpoint-2.zip", device="cpu").policy.state_dict()
        for place, point in enumerate(whole.progress.curve):
            point["validation"]["score"] = float(place)
        write_json(tmp_path / PROGRESS_FILE, asdict(whole.progress))
    truncated(tmp_path / lost)
    with pytest.warns(UserWarning, match=f"{lost} is damaged"):
        resumed = Training(config, 0, tmp_path, judge)
    resumed.run()
    assert resumed.progress.points == whole.progress.points
    again = PPO.load(tmp_path / "model.zip", device="cpu").policy.state_dict()
    assert all(bool((weights[name] == again[name]).all()) for name in weights)


def test_where_nothing_is_whole_the_file_is_named_with_what_to_do(config, judge, tmp_path):
    Training(config, 0, tmp_path, judge).run()
    for path in tmp_path.glob("checkpoint-*.zip"):
        truncated(path)
    with pytest.raises(ValueError, match=r"checkpoint-2.zip is damaged or missing; delete .* to train this seed anew"):
        Training(config, 0, tmp_path, judge)
    for text in ("", "\0\0", '{"fingerprint": "x"', "[]", '{"curve": []}'):
        (tmp_path / PROGRESS_FILE).write_text(text)
        with pytest.raises(ValueError, match=f"{PROGRESS_FILE} is damaged"):
            Training(config, 0, tmp_path, judge)


def test_training_stops_when_the_patience_is_over(config, judge, tmp_path):
    patient = config.changed(patience=1, learning_rate=1e-12)
    training = Training(patient, 0, tmp_path, judge)
    training.run()
    assert [point.segment for point in training.progress.points] == [0, 1]


def test_another_configuration_is_not_resumed(config, judge, tmp_path):
    Training(config.changed(n_timesteps=32), 0, tmp_path, judge).run()
    with pytest.raises(ValueError, match="holds the training of another configuration"):
        Training(config, 0, tmp_path, judge)


def test_a_warm_start_is_a_point_of_its_own_and_changes_the_policy(config, judge, tmp_path):
    lessons = {"runs": 2, "levels": 2, "moments": 200, "steps": 20, "batch_size": 16, "learning_rate": 0.05}
    training = Training(config.changed(warm_start=lessons, n_timesteps=32), 0, tmp_path, judge)
    first = training.normalisation
    training.run()
    assert [point.timesteps for point in training.progress.points] == [0, 32]
    seen = training.normalisation
    assert (seen.mean, seen.std) == (first.mean, first.std), "what enters the network stays as it is"
    low, high = (np.array(getattr(seen, end)) - getattr(first, end) for end in ("low", "high"))
    assert low.max() <= 0.0 <= high.min()
    assert low.min() < 0.0 < high.max(), "lessons and rollouts saw more than the runs observed first"


@pytest.mark.parametrize(("notches", "levels"), [(21, 4), (3, 2), (2, 6)])
def test_over_many_lattices_every_notch_is_tried_and_none_twice_in_one(notches, levels):
    rng = np.random.default_rng(0)
    drawn = [lattice(notches, levels, rng) for _ in range(300)]
    assert {int(notch) for one in drawn for notch in one} == set(range(notches))
    assert all((np.diff(one) > 0).all() and len(one) <= levels for one in drawn)


@pytest.mark.parametrize(("notch", "notches"), [(10, 33), (0, 21), (20, 21), (1, 2)])
def test_later_lattices_lie_on_both_sides_of_where_the_policy_is(notch, notches):
    rng = np.random.default_rng(0)
    for _ in range(100):
        tried = lattice_about(notch, notches, 4, rng)
        assert (np.diff(tried) > 0).all()
        assert 0 <= tried[0] <= notch <= tried[-1] < notches
        assert np.abs(tried - notch).max() <= REACH


def test_the_range_seen_is_of_the_latest_window_before_normalisation():
    features = len(FEATURE_NAMES)

    class Stacked:
        num_envs, render_mode = 1, None
        observation_space, action_space = spaces.Box(-9, 9, (2 * features,), np.float32), spaces.Discrete(2)

        def reset(self):
            return np.concatenate([np.full(features, 9.0), np.full(features, 0.5)])[None].astype(np.float32)

        def step_wait(self):
            told = np.concatenate([np.full(features, 9.0), np.full(features, -2.0)])[None].astype(np.float32)
            return told, np.zeros(1, np.float32), np.zeros(1, bool), [{}]

    env = FixedNormalisation(Stacked(), [1.0] * 2 * features, [0.5] * 2 * features, 10.0)
    env.reset()
    env.step_wait()
    assert (env.low.tolist(), env.high.tolist()) == ([-2.0] * features, [0.5] * features)


def test_a_stack_begins_with_zeros_and_ends_with_the_present(config):
    stacked = config.changed(frame_stack=3)
    features = len(FEATURE_NAMES)
    seen = []

    class Agent:
        def predict(self, observations, deterministic):
            seen.append(observations.copy())
            return np.zeros((len(observations), 2), np.int64), None

    plain = Normalisation([0.0] * 3 * features, [1.0] * 3 * features, [], [])
    decide = deterministic(Agent(), plain, stacked, 1)
    for value in (1.0, 2.0):
        decide(np.full((1, features), value, np.float32))
    assert seen[-1][0].reshape(3, features)[:, 0].tolist() == [0.0, 1.0, 2.0]


def test_normalisation_is_that_of_the_runs_observed(config):
    runs, table = training_pool(config, 0, 0).runs, config.env_kwargs.table()
    normalisation = observe(runs, table, config, 0)
    assert normalisation == observe(runs, table, config, 0)
    assert min(normalisation.std) >= 0.1
    low, mean, high = map(np.array, (normalisation.low, normalisation.mean, normalisation.high))
    assert (low <= mean).all()
    assert (mean <= high).all()


def test_a_training_folder_is_what_export_reads(config, tmp_path):
    trained = train_seeds(config.changed(seeds=[0, 1], n_timesteps=32), tmp_path)
    assert {point.seed for point in trained.curves} == {0, 1}
    told = json.loads((tmp_path / "policy.json").read_text())
    assert told["track"] == "guarded"
    assert told["training"]["seed"] == trained.best.seed
    assert (tmp_path / "curves.csv").read_text().count("\n") == 3
    from batchpilot.agents.export.training import load_training

    assert load_training(tmp_path).description.table.fields == config.env_kwargs.table().fields


def test_the_command_trains_refuses_to_overwrite_and_resumes(config, tmp_path):
    import yaml

    file, out = tmp_path / "small.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump({"batchpilot/Batching-v0": config.changed(n_timesteps=32).model_dump()}))
    arguments = ["train", "--config", str(file), "--out", str(out)]
    first = CliRunner().invoke(app, [*arguments, "--json"])
    assert first.exit_code == 0, first.output
    assert ElementTree.parse(out / "curves.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert "--resume" in CliRunner().invoke(app, arguments).output
    before = (seed_folder(out, 0) / PROGRESS_FILE).read_text()
    assert CliRunner().invoke(app, [*arguments, "--resume"]).exit_code == 0
    assert (seed_folder(out, 0) / PROGRESS_FILE).read_text() == before
    mistaken = CliRunner().invoke(app, [*arguments, "--seeds", "one", "--resume"])
    assert mistaken.exit_code == 2
    assert "whole numbers" in mistaken.output
