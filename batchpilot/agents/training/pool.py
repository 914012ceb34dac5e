"""What a stretch of training is played on: scenarios, seeds, prepared runs, and what the base limits serve on them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from batchpilot.agents.evaluation import Played, play
from batchpilot.agents.training.config import TrainingConfig
from batchpilot.agents.training.randomisation import draw_scenarios
from batchpilot.configs.scenario import Scenario, scenario, suite, suites
from batchpilot.configs.seeds import BLOCK, suite_seeds
from batchpilot.core.actions import ActionTable
from batchpilot.envs.scenarios import PreparedRun, prepare

_DRAW_STREAM, _SEED_STREAM = 21, 22


@dataclass(frozen=True, eq=False)
class Pool:
    """Runs: every scenario at every seed.

    Attributes:
        scenarios: what is served.
        seeds: workload seeds, each used with every scenario.
    """

    scenarios: tuple[Scenario, ...]
    seeds: tuple[int, ...]

    @cached_property
    def runs(self) -> list[PreparedRun]:
        """Every run, scenario by scenario."""
        return [prepare(one, seed) for one in self.scenarios for seed in self.seeds]

    def played(self, table: ActionTable, interval_ms: float | None = None) -> dict[tuple[str, int], Played]:
        """What the base limits serve in every run.

        Args:
            table: its base, from which nothing moves.
            interval_ms: engine time of a decision; None takes each scenario's.
        """
        results = play(self.runs, table, interval_ms=interval_ms)
        return {(run.scenario.name, run.seed): result for run, result in zip(self.runs, results, strict=True)}


def training_pool(config: TrainingConfig, seed: int, segment: int) -> Pool:
    """The runs of one segment; another segment or seed draws others, all from the block of seeds of suite `train`.

    Args:
        config: what from, and how many.
        seed: of the training.
        segment: number of the segment, >= 0.

    Raises:
        ValueError: an unknown scenario or suite, or ranges that leave nothing to serve.
    """
    block = suite_seeds("train")
    if config.randomisation is not None:
        rng = np.random.default_rng([seed, segment, _DRAW_STREAM])
        drawn = draw_scenarios(config.randomisation, config.pool, rng, f"train-{seed}-{segment}")
        return Pool(tuple(drawn), (block[int(rng.integers(BLOCK))],))
    named = named_scenarios(config.scenarios or [])
    rng = np.random.default_rng([seed, segment, _SEED_STREAM])
    seeds = rng.choice(BLOCK, size=max(1, config.pool // len(named)), replace=False)
    return Pool(named, tuple(block[int(one)] for one in seeds))


def validation_pools(config: TrainingConfig) -> list[Pool]:
    """The runs that every seed and segment is judged on, from the block of seeds of suite `validation`.

    Args:
        config: says which.

    Raises:
        ValueError: an unknown suite, nothing to judge on, or ranges that leave nothing to serve.
    """
    block, judged = suite_seeds("validation"), config.validation
    pools = []
    if judged.suite is not None:
        pools.append(Pool(named_scenarios([judged.suite]), tuple(block[: judged.seeds])))
    if judged.drawn and config.randomisation is not None:
        named = {"devices": judged.devices} if judged.devices else {}
        elsewhere = config.randomisation.model_copy(update={"device_spread": 0.0, **named})
        rng = np.random.default_rng([block[0], _DRAW_STREAM])
        pools.append(Pool(tuple(draw_scenarios(elsewhere, judged.drawn, rng, "validation")), (block[judged.seeds],)))
    if not pools:
        raise ValueError("validation names no suite and draws nothing; one of them is needed to choose a policy")
    return pools


def named_scenarios(names: list[str]) -> tuple[Scenario, ...]:
    """Scenarios by name or suite; those that need a trace file are left out.

    Args:
        names: of scenarios or suites.

    Raises:
        ValueError: an unknown name, or none that runs without a trace.
    """
    found = [one for name in names for one in (suite(name) if name in suites() else [scenario(name)])]
    runnable = tuple(one for one in found if not one.needs_trace)
    if not runnable:
        raise ValueError(f"none of {', '.join(names) or 'no names'} is a scenario that runs without a trace file")
    return runnable
