"""What does each part of training bring, and how much is the luck of a training seed?

    python benchmarks/training_seeds.py limits --out trained/parts [--seeds 5] [--jobs 2]

Every training seed trains twice, in about the same time: from hindsight and then by PPO, and by PPO alone. Each agent,
and the one between hindsight and PPO, is played on a suite that training never saw, and judged by validation as in
training. Interquartile means over training seeds (the mean of a suite's runs for each) with 95 % intervals. Seeds that
the folder holds are not trained again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from stable_baselines3 import PPO

from batchpilot.agents.evaluation import play
from batchpilot.agents.training.config import TrainingConfig, load_training_config
from batchpilot.agents.training.policy import deterministic
from batchpilot.agents.training.pool import named_scenarios
from batchpilot.agents.training.run import Training
from batchpilot.agents.training.seeds import seed_folder
from batchpilot.agents.training.validation import Judge
from batchpilot.baselines.references.static_best import goodput_of
from batchpilot.baselines.static import SERVER_DEFAULT
from batchpilot.configs.seeds import seeds_of
from batchpilot.core.files import write_json
from batchpilot.core.provenance import provenance
from batchpilot.envs.scenarios import PreparedRun, prepare
from batchpilot.runners.report.statistics import estimate

TIMES_FILE = "cpu_s.json"
CHECKPOINTS = {"hindsight": 0, "hindsight, then PPO": 1}
"""One segment of PPO after the warm start, so both checkpoints stay."""

UNSEEN_FROM = 1000


class Agent(NamedTuple):
    """One training seed's agent.

    Attributes:
        arm: what it was trained by.
        seed: of the training.
        score: on the validation runs.
        shares: goodput shares, shape (runs,).
        cpu_s: processor time of its training; of both parts for what is between them.
    """

    arm: str
    seed: int
    score: float
    shares: np.ndarray[Any, np.dtype[np.float64]]
    cpu_s: float


def arms(name: str, runs: int, decisions: int) -> dict[str, TrainingConfig]:
    """The two trainings.

    Args:
        name: a training file.
        runs: that lessons are taken from; moments and gradient steps are in the proportion of the file's.
        decisions: of PPO alone.
    """
    config = load_training_config(name)
    shipped = config.warm_start
    assert shipped is not None
    share = runs / shipped.runs
    taught = shipped.model_dump() | {"runs": runs, "rounds": 2}
    taught |= {"moments": max(round(share * shipped.moments), 1), "steps": max(round(share * shipped.steps), 1)}
    one_segment = {"n_timesteps": config.segment_timesteps}
    alone = {"n_timesteps": decisions, "segment_timesteps": max(decisions // 10, 1), "hold_bias": 3.0}
    return {
        "hindsight, then PPO": config.changed(warm_start=taught, **one_segment),
        "PPO alone": config.changed(warm_start=None, learning_rate="lin_3e-4", **alone),
    }


def trained(arm: str, config: TrainingConfig, seed: int, folder: Path, runs: list[PreparedRun]) -> list[Agent]:
    """Train a seed, or find it trained, and play its agents.

    Args:
        arm: what it is called.
        config: the training file.
        seed: of the training.
        folder: of the arm.
        runs: that it is judged by.
    """
    own = seed_folder(folder, seed)
    training = Training(config, seed, own, Judge(config))
    if not training.finished:
        began = time.process_time()
        training.run()
        write_json(own / TIMES_FILE, time.process_time() - began)
    cpu_s = float(json.loads((own / TIMES_FILE).read_text()))
    table, normalisation, points = config.env_kwargs.table(), training.normalisation, training.progress.points

    def agent(name: str, file: Path, score: float) -> Agent:
        loaded = PPO.load(file, device="cpu")
        results = play(runs, table, lambda n: deterministic(loaded, normalisation, config, n))
        return Agent(name, seed, score, np.array([one.goodput_fraction for one in results]), cpu_s)

    if config.warm_start is None:
        best = training.progress.best
        assert best is not None
        return [agent(arm, own / "model.zip", best.score)]
    return [
        agent(name, own / f"checkpoint-{segment}.zip", points[segment].score) for name, segment in CHECKPOINTS.items()
    ]


def row(name: str, agents: list[Agent], of: Callable[[Agent], float]) -> str:
    """Interquartile mean over training seeds, its interval, and every seed."""
    values = np.array([of(one) for one in agents])
    found = estimate([values])
    each = " ".join(f"{value:.3f}" for value in values)
    return f"{name:24} {found.value:.3f} [{found.low:.3f}, {found.high:.3f}]   {each}"


def _share(agent: Agent) -> float:
    return float(agent.shares.mean())


def main() -> None:
    """Train, play, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="limits or guarded, or a training file")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--runs", type=int, default=600, help="runs that lessons are taken from")
    parser.add_argument("--decisions", type=int, default=600_000, help="of PPO alone")
    parser.add_argument("--suite", default="held-out")
    parser.add_argument("--suite-seeds", type=int, default=3)
    asked = parser.parse_args()
    scenarios = named_scenarios([asked.suite])
    seeds = seeds_of(asked.suite, UNSEEN_FROM, asked.suite_seeds)
    runs = [prepare(scenario, seed) for scenario in scenarios for seed in seeds]
    trainings = arms(asked.config, asked.runs, asked.decisions)
    asks = [(arm, config, seed) for seed in range(asked.seeds) for arm, config in trainings.items()]
    made = Parallel(n_jobs=asked.jobs, verbose=5)(
        delayed(trained)(arm, config, seed, asked.out / arm.replace(", ", "-").replace(" ", "-"), runs)
        for arm, config, seed in asks
    )
    agents = [agent for some in made for agent in some]
    default = np.mean([goodput_of(run, SERVER_DEFAULT) for run in runs])
    measures: dict[str, Callable[[Agent], float]] = {
        f"goodput share of {len(runs)} runs of {asked.suite} (static-default {default:.3f})": _share,
        "validation score": lambda one: one.score,
    }
    for title, measure in measures.items():
        print(f"\n{asked.config}, {title}: IQM, 95 % interval, each seed")
        for name in (*CHECKPOINTS, "PPO alone"):
            print(row(name, [one for one in agents if one.arm == name], measure))
    for name in trainings:
        print(f"{name}: {np.mean([one.cpu_s for one in agents if one.arm == name]) / 60:.1f} minutes of a core a seed")
    figures = [one._asdict() | {"shares": one.shares.tolist()} for one in agents]
    write_json(asked.out / "agents.json", {"agents": figures} | provenance(0, vars(asked) | {"out": str(asked.out)}))


if __name__ == "__main__":
    main()
