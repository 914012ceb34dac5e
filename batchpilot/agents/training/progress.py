"""Where a training stands: its learning curve, and the agents that it keeps. Files are whole or known to be damaged."""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchpilot.agents.training.policy import Normalisation
from batchpilot.core.extras import needing
from batchpilot.core.files import write_atomic

with needing("training", "rl"):
    from stable_baselines3 import PPO

PROGRESS_FILE = "progress.json"
_MEMBERS = {"data", "policy.pth"}
ANEW = "delete {} to train this seed anew"


@dataclass(frozen=True)
class Point:
    """One point of a learning curve, after a segment.

    Attributes:
        seed: of the training.
        segment: from 0.
        timesteps: decisions so far.
        reward: mean reward in the segment's last rollout, exploration included; NaN after the warm start.
        validation: the `Score` of the likeliest actions, as plain data.
    """

    seed: int
    segment: int
    timesteps: int
    reward: float
    validation: dict[str, Any]

    @property
    def score(self) -> float:
        """What policies are chosen by."""
        return float(self.validation["score"])


@dataclass
class Progress:
    """Where a training stands; written beside its checkpoint.

    Attributes:
        fingerprint: of configuration and seed, so that nothing else is resumed.
        normalisation: of the observations, as plain data; its range grows with all that is seen.
        curve: every point so far.
    """

    fingerprint: str
    normalisation: dict[str, Any]
    curve: list[dict[str, Any]] = field(default_factory=list)

    @property
    def points(self) -> list[Point]:
        """The learning curve."""
        return [Point(**point) for point in self.curve]

    @classmethod
    def read(cls, path: Path) -> Progress:
        """Read what was written beside a checkpoint.

        Args:
            path: the file.

        Raises:
            ValueError: it is damaged; the message names it.
            OSError: it cannot be read.
        """
        try:
            progress = cls(**json.loads(path.read_text()))
            for point in progress.curve:
                point["reward"] = math.nan if point["reward"] is None else point["reward"]
            Normalisation(**progress.normalisation)
            progress.points  # noqa: B018 (raises for a point that is none)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({error}); {ANEW.format(path.parent)}") from None
        return progress

    def saw(self, low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
        """Let the range that was seen in training hold more.

        Args:
            low: smallest values of each feature, shape (F,).
            high: largest values.
        """
        known = self.normalisation
        known["low"] = np.minimum(known["low"], low).astype(float).tolist()
        known["high"] = np.maximum(known["high"], high).astype(float).tolist()

    @property
    def best(self) -> Point | None:
        """The point with the best score, the earlier one among equals."""
        return max(self.points, key=lambda point: point.score, default=None)


def save_agent(agent: PPO, path: Path) -> None:
    """Save an agent, whole or not at all.

    Args:
        agent: it.
        path: the file.

    Raises:
        OSError: it cannot be written.
    """
    data = io.BytesIO()
    agent.save(data)
    write_atomic(path, data.getvalue())


def is_whole(path: Path) -> bool:
    """Whether a saved agent is there with every byte as it was written.

    Args:
        path: the file.
    """
    try:
        with zipfile.ZipFile(path) as file:
            # By its members too: of a file without its end, the end of an archive inside is taken for its own.
            return set(file.namelist()) >= _MEMBERS and file.testzip() is None
    except (OSError, zipfile.BadZipFile, zlib.error, ValueError):
        return False
