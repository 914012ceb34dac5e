"""Trials on a server: what each came to, kept as lines of a file as they end."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.core.files import json_text
from batchpilot.core.limits import Limits
from batchpilot.engines.simulated.result import SimulationResult
from batchpilot.latency.fitting.observations import Observations

COMPLETE, FAILED = "complete", "failed"
_RESAMPLES = 2000


@dataclass(frozen=True)
class Trial:
    """One start of the server.

    Attributes:
        number: from 1.
        limits: what it was started with.
        state: `complete` or `failed`.
        reason: why it failed, empty otherwise.
        goodput: share of the offered output tokens within its promise, NaN where it failed.
        low: lower end of the 95 % interval over the requests.
        high: upper end.
        figures: what the load test found besides.
        seconds: that it took, start and stop included.
        expected: what the twin had expected, NaN without one.
        log: file that keeps what the server said.
        steps: measured steps, rows of (batch_size, tokens, latency_ms, context_tokens).
    """

    number: int
    limits: Limits
    state: str
    reason: str = ""
    goodput: float = math.nan
    low: float = math.nan
    high: float = math.nan
    figures: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    expected: float = math.nan
    log: str = ""
    steps: tuple[tuple[float, float, float, float], ...] = ()

    @property
    def observations(self) -> Observations:
        """Its steps."""
        B, S, T, C = np.array(self.steps, np.float64).reshape(-1, 4).T
        return Observations.of(B, S, T, C)

    def to_line(self) -> str:
        """The trial as one line of JSON."""
        return json_text({**asdict(self), "limits": self.limits.to_dict()})

    @classmethod
    def from_line(cls, line: str) -> Trial:
        """A trial of a line.

        Args:
            line: as `to_line` wrote it.

        Raises:
            ValueError: it is none.
        """
        try:
            data = json.loads(line)
            told: dict[str, Any] = {name: math.nan if value is None else value for name, value in data.items()}
            limits = Limits.from_dict(data["limits"])
            return cls(**{**told, "limits": limits, "steps": tuple(tuple(step) for step in data["steps"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{line[:80]!r} is no trial ({error})") from None


def read_trials(path: Path) -> list[Trial]:
    """The trials that a file keeps; a last line that a crash cut off is left out.

    Args:
        path: JSON lines; none where there is no file.

    Raises:
        ValueError: another line is no trial.
        OSError: the file cannot be read.
    """
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    return [Trial.from_line(line) for line in lines]


def keep_trial(path: Path, trials: list[Trial], trial: Trial) -> None:
    """Add a trial to those that are kept.

    Args:
        path: the file.
        trials: those before, whose lines stand in it.
        trial: the new one, added to them too.
    """
    trials.append(trial)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = "".join(f"{one.to_line()}\n" for one in trials)
    beside = path.with_suffix(".new")
    beside.write_text(whole)
    beside.replace(path)


def goodput_interval(outcome: SimulationResult, seed: int) -> tuple[float, float]:
    """95 % interval of the goodput share, by resampling requests; what one server did to all of them is not in it.

    Args:
        outcome: of one run.
        seed: of the resampling.
    """
    offered = outcome.requests.output_tokens.astype(np.float64)
    served = np.where(outcome.slo_met, outcome.generated_tokens, 0).astype(np.float64)
    draws: NDArray[np.int64] = np.random.default_rng(seed).integers(len(offered), size=(_RESAMPLES, len(offered)))
    low, high = np.percentile(served[draws].sum(1) / offered[draws].sum(1), (2.5, 97.5))
    return float(low), float(high)
