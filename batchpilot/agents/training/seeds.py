"""Several seeds of one training, and the folder that is left: the best agent, its description, every learning curve."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed

from batchpilot.agents.training.config import TrainingConfig
from batchpilot.agents.training.policy import MODEL_FILE, write_description
from batchpilot.agents.training.progress import Point
from batchpilot.agents.training.run import OnPoint, Training
from batchpilot.agents.training.validation import Judge
from batchpilot.core.files import write_atomic
from batchpilot.core.provenance import git_revision, provenance, versions

CURVES_FILE = "curves.csv"
_COLUMNS = ("seed", "segment", "timesteps", "reward", "score", "goodput_fraction")

OnSeedSteps = Callable[[int, int], None]
"""Told the seed and its decisions so far."""


@dataclass(frozen=True)
class Trained:
    """What a training with several seeds came to.

    Attributes:
        best: the point whose agent was kept.
        curves: every point of every seed, seed by seed.
    """

    best: Point
    curves: list[Point]


def train_seeds(
    config: TrainingConfig,
    folder: Path,
    *,
    jobs: int = 1,
    on_steps: OnSeedSteps | None = None,
    on_point: OnPoint | None = None,
) -> Trained:
    """Train every seed of a configuration, or go on with what an earlier call left, and keep the best agent.

    Args:
        config: the training file.
        folder: left with `model.zip`, `policy.json`, `curves.csv` and a folder a seed.
        jobs: processes; with more than one, nothing is told while seeds train.
        on_steps: told the decisions of a seed so far.
        on_point: told every new point of a learning curve.

    Raises:
        ValueError: the folder holds another training, or the configuration leaves nothing to train or judge on.
        OSError: the folder cannot be written to.
        KeyboardInterrupt: stopped by hand; what is finished stays.
    """
    if jobs > 1:
        curves = Parallel(n_jobs=jobs)(delayed(_train)(config, seed, folder) for seed in config.seeds)
    else:
        judge = Judge(config)
        curves = [_train(config, seed, folder, judge, on_steps, on_point) for seed in config.seeds]
    points = [point for curve in curves for point in curve]
    best = max(points, key=lambda point: point.score)
    trained = Trained(best, points)
    _leave(trained, config, folder)
    return trained


def seed_folder(folder: Path, seed: int) -> Path:
    """Where a seed's checkpoints lie.

    Args:
        folder: the training folder.
        seed: the seed.
    """
    return folder / f"seed-{seed}"


def _train(
    config: TrainingConfig,
    seed: int,
    folder: Path,
    judge: Judge | None = None,
    on_steps: OnSeedSteps | None = None,
    on_point: OnPoint | None = None,
) -> list[Point]:
    training = Training(config, seed, seed_folder(folder, seed), judge or Judge(config))
    training.run(None if on_steps is None else lambda steps: on_steps(seed, steps), on_point)
    return training.progress.points


def _leave(trained: Trained, config: TrainingConfig, folder: Path) -> None:
    best = trained.best
    chosen = Training(config, best.seed, seed_folder(folder, best.seed), Judge(config))
    shutil.copyfile(chosen.folder / MODEL_FILE, folder / MODEL_FILE)
    write_description(folder, config, chosen.normalisation, _training(trained, config))
    write_atomic(folder / CURVES_FILE, curves_csv(trained.curves))


def _training(trained: Trained, config: TrainingConfig) -> dict[str, Any]:
    """Where the kept agent comes from."""
    data = config.model_dump(mode="json")
    return {
        "config": data,
        "seeds": list(config.seeds),
        "seed": trained.best.seed,
        "timesteps": trained.best.timesteps,
        "git_revision": git_revision(),
        "config_hash": provenance(config=data)["config_hash"],
        "versions": versions() | {name: metadata.version(name) for name in ("stable-baselines3", "torch")},
        "scenarios": config.scenarios or "drawn at random, see config.randomisation",
        "scores": trained.best.validation,
    }


def curves_csv(points: Sequence[Point]) -> str:
    """Learning curves as CSV, one row a point.

    Args:
        points: of every seed.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    references = list(points[0].validation["gains"]) if points else []
    writer.writerow([*_COLUMNS, *(f"gain_{name}" for name in references)])
    for point in points:
        told = point.validation
        row = [point.seed, point.segment, point.timesteps, point.reward, point.score, told["goodput_fraction"]]
        writer.writerow([*row, *(told["gains"][name] for name in references)])
    return text.getvalue()
