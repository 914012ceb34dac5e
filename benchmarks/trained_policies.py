"""What are trained policies worth? `python benchmarks/trained_policies.py FOLDER [FOLDER ...]`.

Training folders on the validation suite, on seeds that no policy was chosen by, against what servers ship, the guarded
default, the one fixed setting of the track that is best on average over these very runs (so with hindsight), and the
best fixed setting of each run in hindsight. Goodput shares: interquartile mean over runs with its 95 % interval.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO

from batchpilot.agents.evaluation import play
from batchpilot.agents.training.config import TrainingConfig
from batchpilot.agents.training.policy import MODEL_FILE, Normalisation, deterministic
from batchpilot.agents.training.pool import named_scenarios
from batchpilot.agents.training.validation import guarded_limits
from batchpilot.baselines.references.static_best import goodput_of, tightest_tpot_ms, track_grid
from batchpilot.baselines.static import SERVER_DEFAULT
from batchpilot.configs.seeds import seeds_of
from batchpilot.envs.scenarios import PreparedRun, prepare
from batchpilot.runners.report.statistics import estimate

UNSEEN_FROM = 1000
"""Training is judged on the first seeds of the block; these lie beyond."""

Shares = NDArray[np.float64]


def policy_shares(folder: Path, runs: list[PreparedRun]) -> tuple[str, Shares]:
    """Track and goodput shares of a training folder's policy."""
    told = json.loads((folder / "policy.json").read_text())
    config = TrainingConfig.model_validate(told["training"]["config"])
    moments = Normalisation(*(told[f"observation_{name}"] for name in ("mean", "std", "low", "high")))
    agent = PPO.load(folder / MODEL_FILE, device="cpu")
    results = play(runs, config.env_kwargs.table(), lambda n: deterministic(agent, moments, config, n))
    return config.env_kwargs.track, np.array([result.goodput_fraction for result in results])


def fixed_shares(track: str, runs: list[PreparedRun]) -> Shares:
    """Goodput shares of every fixed setting of a track, shape (settings, runs); step targets are multiples of TPOT."""
    grids = [track_grid(track, tightest_tpot_ms(run)) for run in runs]
    return np.array([[goodput_of(run, limits) for limits in grid] for run, grid in zip(runs, grids, strict=True)]).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--suite", default="validation")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    scenarios = named_scenarios([options.suite])
    seeds = seeds_of(options.suite, UNSEEN_FROM, options.seeds)
    runs = [prepare(scenario, seed) for scenario in scenarios for seed in seeds]

    def told(name: str, shares: Shares) -> None:
        strata = shares.reshape(len(scenarios), -1)
        found = estimate(list(strata))
        print(f"{name:28} {shares.mean():7.4f} {found.value:7.4f} [{found.low:.4f}, {found.high:.4f}]", flush=True)

    print(f"{len(runs)} runs of {options.suite}\n{'':28} {'mean':>7} {'IQM':>7}  95 % interval")
    guarded = np.array([goodput_of(run, guarded_limits(run)) for run in runs])
    told("static-default", np.array([goodput_of(run, SERVER_DEFAULT) for run in runs]))
    told("guarded-default", guarded)
    table: dict[str, Shares] = {}
    for folder in options.folders:
        track, shares = policy_shares(folder, runs)
        table[f"policy {track}"] = shares
        told(f"policy {track}", shares)
        fixed = fixed_shares(track, runs)
        best_single, best = fixed[fixed.mean(axis=1).argmax()], fixed.max(axis=0)
        told(f"best single, {track}", best_single)
        told(f"static-best, {track}", best)
        table |= {f"single {track}": best_single, f"best {track}": best}
    columns = {"guarded-default": guarded} | table
    print(f"\n{'scenario':24}" + "".join(f"{name:>17}" for name in columns))
    for number, scenario in enumerate(scenarios):
        means = (shares.reshape(len(scenarios), -1)[number].mean() for shares in columns.values())
        print(f"{scenario.name:24}" + "".join(f"{mean:17.4f}" for mean in means))


if __name__ == "__main__":
    main()
