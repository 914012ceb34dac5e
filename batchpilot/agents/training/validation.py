"""How a policy is judged while it trains: gains over the base and over what stands without training, on unseen runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.agents.evaluation import Decide, play
from batchpilot.agents.training.config import TrainingConfig
from batchpilot.agents.training.pool import validation_pools
from batchpilot.baselines.guarded import GuardedTuner
from batchpilot.baselines.references.static_best import goodput_of
from batchpilot.baselines.static import SERVER_DEFAULT
from batchpilot.core.limits import Limits
from batchpilot.core.slo import SLO
from batchpilot.envs.scenarios import PreparedRun

REFERENCES = ("base", "static-default", "guarded-default")
MATCHED = 0.01
"""A goodput share within this of a reference's counts as no worse."""


@dataclass(frozen=True)
class Score:
    """A policy on the validation runs. Shares of offered output tokens served within SLO.

    Attributes:
        score: what the best policy is chosen by: the mean gain over the base, losses counted twice, since a policy that
            is shipped must do no harm; every pool of runs weighs the same.
        goodput_fraction: mean share.
        gains: mean difference to each reference.
        worst: smallest difference to each reference.
        behind: share of the runs more than 0.01 behind each reference.
    """

    score: float
    goodput_fraction: float
    gains: dict[str, float]
    worst: dict[str, float]
    behind: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


class Judge:
    """The validation runs and what the references reach on them; they are played once.

    Args:
        config: which runs, and what the base is.

    Attributes:
        runs: what is played.
        references: goodput shares by reference, shape (runs,).

    Raises:
        ValueError: nothing to judge on, or an unknown name.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self._table = config.env_kwargs.table()
        self._interval_ms = config.env_kwargs.decision_interval_ms
        pools = [pool.runs for pool in validation_pools(config)]
        self.runs: list[PreparedRun] = [run for runs in pools for run in runs]
        self._pool_of = np.repeat(np.arange(len(pools)), [len(runs) for runs in pools])
        self.references: dict[str, NDArray[np.float64]] = {
            "base": self.shares(None),
            "static-default": np.array([goodput_of(run, SERVER_DEFAULT) for run in self.runs]),
            "guarded-default": np.array([goodput_of(run, guarded_limits(run)) for run in self.runs]),
        }

    def shares(self, make_decide: Callable[[int], Decide] | None) -> NDArray[np.float64]:
        """Goodput shares of a policy.

        Args:
            make_decide: gives the policy for so many runs side by side; None stays at the base.

        Returns:
            Shape (runs,).
        """
        results = play(self.runs, self._table, make_decide, interval_ms=self._interval_ms)
        return np.array([result.goodput_fraction for result in results])

    def score(self, shares: NDArray[np.float64]) -> Score:
        """Hold goodput shares against the references.

        Args:
            shares: of every run, shape (runs,).
        """
        gains = {name: shares - reference for name, reference in self.references.items()}
        weighed = gains["base"] + np.minimum(gains["base"], 0.0)
        pools = range(int(self._pool_of.max()) + 1)
        return Score(
            score=float(np.mean([weighed[self._pool_of == pool].mean() for pool in pools])),
            goodput_fraction=float(shares.mean()),
            gains={name: float(gain.mean()) for name, gain in gains.items()},
            worst={name: float(gain.min()) for name, gain in gains.items()},
            behind={name: float((gain < -MATCHED).mean()) for name, gain in gains.items()},
        )


def guarded_limits(run: PreparedRun) -> Limits:
    """The limits of `guarded-default` for the tightest promise of a run.

    Args:
        run: a run with requests.
    """
    tightest = SLO(float(run.requests.ttft_target_ms.min()), float(run.requests.tpot_target_ms.min()))
    return GuardedTuner(tightest).ask()
