"""Training: segments of PPO, each followed by validation and a checkpoint, until the budget or the patience ends.

A segment draws its own runs and seeds every generator from (training seed, segment), so what it does depends on the
checkpoint that it starts from and on nothing else. A training that was killed and resumed gives the numbers of one that
was not; what is lost is the segment in progress.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np

from batchpilot.agents.evaluation import Played
from batchpilot.agents.sb3 import BatchingVecEnv
from batchpilot.agents.training.config import TrainingConfig
from batchpilot.agents.training.env import FixedNormalisation, GainReward
from batchpilot.agents.training.learner import PartedPPO
from batchpilot.agents.training.parts import Parts
from batchpilot.agents.training.policy import (
    MODEL_FILE,
    Normalisation,
    deterministic,
    new_agent,
    observe,
    prefer_staying,
    set_learning_rate,
    without_stray_log,
)
from batchpilot.agents.training.pool import Pool, training_pool
from batchpilot.agents.training.progress import ANEW, PROGRESS_FILE, Point, Progress, is_whole, save_agent
from batchpilot.agents.training.validation import Judge
from batchpilot.agents.training.warm_start import warm_start
from batchpilot.core.extras import needing
from batchpilot.core.files import write_atomic, write_json
from batchpilot.core.provenance import config_hash

with needing("training", "rl"):
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.utils import set_random_seed
    from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

PARTS = 2
"""Of the environments, each stepped by a thread of its own; as many wherever training runs, so that it is the same."""

_OBSERVED_RUNS = 64
_SEED_STRIDE = 100_000
_WARM_START_SEGMENT = 99_999
"""A number that no segment reaches: the lessons' runs are drawn apart from PPO's."""

OnSteps = Callable[[int], None]
"""Told the decisions taken so far, after every rollout."""

OnPoint = Callable[["Point"], None]
"""Told every point of the learning curve."""


class Training:
    """One seed's training in its own folder.

    Args:
        config: the training file.
        seed: the seed.
        folder: where checkpoints and curve are kept.
        judge: the validation runs; shared between seeds.

    Attributes:
        progress: where it stands.

    Raises:
        ValueError: the folder holds the training of another configuration.
    """

    def __init__(self, config: TrainingConfig, seed: int, folder: Path, judge: Judge) -> None:
        self.config, self.seed, self.folder, self._judge = config, seed, folder, judge
        self._table = config.env_kwargs.table()
        self.progress = self._resumed() or self._begun()

    @property
    def finished(self) -> bool:
        """Whether the budget is spent or the patience is over."""
        points, best = self.progress.points, self.progress.best
        if not points or best is None:
            return False
        spent = points[-1].timesteps >= self.config.n_timesteps
        return spent or points[-1].segment - best.segment >= self.config.patience

    def run(self, on_steps: OnSteps | None = None, on_point: OnPoint | None = None) -> Point:
        """Train to the end.

        Args:
            on_steps: told the decisions so far.
            on_point: told every new point of the learning curve.

        Returns:
            The best point, whose agent is kept as `model.zip`.

        Raises:
            KeyboardInterrupt: stopped by hand; the last segment's checkpoint stays.
        """
        torch.set_num_threads(1)
        agent: PPO | None = None
        while not self.finished:
            agent = self._segment(agent, on_steps)
            if on_point is not None:
                on_point(self.progress.points[-1])
        best = self.progress.best
        assert best is not None
        return best

    @property
    def normalisation(self) -> Normalisation:
        """How observations enter the network."""
        return Normalisation(**self.progress.normalisation)

    def _begun(self) -> Progress:
        runs = training_pool(self.config, self.seed, 0).runs[:_OBSERVED_RUNS]
        normalisation = observe(runs, self._table, self.config, self.seed)
        return Progress(self._fingerprint, asdict(normalisation))

    def _resumed(self) -> Progress | None:
        path = self.folder / PROGRESS_FILE
        if not path.exists():
            return None
        progress = Progress.read(path)
        if progress.fingerprint != self._fingerprint:
            raise ValueError(f"{self.folder} holds the training of another configuration; give another --out")
        self._go_back(progress)
        return progress

    def _go_back(self, progress: Progress) -> None:
        """Forget what came after the last whole checkpoint; it comes again, since a segment depends on nothing else."""
        done = len(progress.curve)
        whole = next((n for n in range(done, 0, -1) if is_whole(self._checkpoint(n - 1))), 0)
        if whole < done:
            damaged = self._checkpoint(done - 1)
            if not whole:
                raise ValueError(f"{damaged} is damaged or missing; {ANEW.format(self.folder)}")
            warnings.warn(f"{damaged} is damaged or missing; its segment is trained again", stacklevel=4)
            del progress.curve[whole:]
        model, best = self.folder / MODEL_FILE, progress.best
        if best is None or is_whole(model):
            return
        if not is_whole(self._checkpoint(best.segment)):
            raise ValueError(f"{model} is damaged or missing; {ANEW.format(self.folder)}")
        source = self._checkpoint(best.segment)
        warnings.warn(f"{model} is damaged or missing; it is the agent of {source}", stacklevel=4)
        write_atomic(model, source.read_bytes())

    @property
    def _fingerprint(self) -> str:
        return config_hash([self.config.model_dump(exclude={"seeds"}), self.seed])

    def _checkpoint(self, segment: int) -> Path:
        return self.folder / f"checkpoint-{segment}.zip"

    def _segment(self, agent: PPO | None, on_steps: OnSteps | None) -> PPO:
        """Train for one segment, judge, and write the checkpoint; with a warm start, that is the first segment."""
        segment = len(self.progress.curve)
        env = training_env(self.config, self.seed, segment, self.normalisation)
        if segment == 0:
            agent = self._untrained(env)
        elif agent is None:
            agent = without_stray_log(PartedPPO.load(self._checkpoint(segment - 1), env=env, device="cpu"))
        else:
            agent.set_env(env)
        # After the agent is there: making or loading one seeds the generators and the environments, too.
        set_random_seed(self.seed * _SEED_STRIDE + segment)
        env.seed(self.seed * _SEED_STRIDE + segment)
        if segment > 0 or self.config.warm_start is None:
            self._learn(agent, on_steps)
            for part in env.parts:
                self.progress.saw(part.low, part.high)
        self._judged(agent, segment)
        env.close()
        return agent

    def _learn(self, agent: PPO, on_steps: OnSteps | None) -> None:
        done, budget = agent.num_timesteps, self.config.n_timesteps
        set_learning_rate(agent, self.config.learning_rate_at(done / budget))
        steps = min(self.config.segment_timesteps, budget - done)
        agent.learn(steps, callback=_Telling(on_steps), reset_num_timesteps=False, tb_log_name="ppo")

    def _untrained(self, env: VecEnv) -> PPO:
        """An agent that stays at the base, or does what hindsight taught it."""
        events = self.folder / "tensorboard" if find_spec("tensorboard") else None
        agent = new_agent(self.config, env, self.seed, events)
        prefer_staying(agent, self._table, self.config.hold_bias)
        if self.config.warm_start is not None:
            config = self.config.changed(pool=self.config.warm_start.runs)
            lessons = training_pool(config, self.seed, _WARM_START_SEGMENT).runs
            taught = warm_start(agent, lessons, self.config, self.normalisation, self.seed)
            if taught is not None:
                self.progress.saw(taught.low, taught.high)
        return agent

    def _judged(self, agent: PPO, segment: int) -> None:
        shares = self._judge.shares(lambda n: deterministic(agent, self.normalisation, self.config, n))
        reward = float(np.mean(agent.rollout_buffer.rewards)) if agent.num_timesteps else math.nan
        scored = self._judge.score(shares).to_dict()
        point = Point(self.seed, segment, int(agent.num_timesteps), reward, scored)
        best = self.progress.best
        self.folder.mkdir(parents=True, exist_ok=True)
        if point.score > (-math.inf if best is None else best.score):
            save_agent(agent, self.folder / MODEL_FILE)
        save_agent(agent, self._checkpoint(segment))
        self.progress.curve.append(asdict(point))
        write_json(self.folder / PROGRESS_FILE, asdict(self.progress))
        # The one before stays: should the last be damaged, no more than its segment is lost.
        if segment > 1:
            self._checkpoint(segment - 2).unlink(missing_ok=True)


def training_env(config: TrainingConfig, seed: int, segment: int, normalisation: Normalisation) -> Parts:
    """The environments of one segment, yet to be seeded.

    Args:
        config: the training file.
        seed: of the training.
        segment: from 0.
        normalisation: of the observations.
    """
    pool = training_pool(config, seed, segment)
    played = pool.played(config.env_kwargs.table(), config.env_kwargs.decision_interval_ms)
    ends = [config.n_envs * k // PARTS for k in range(PARTS + 1)]
    return Parts(
        [_part(end - first, config, pool, played, normalisation) for first, end in pairwise(ends) if end > first]
    )


def _part(
    rows: int,
    config: TrainingConfig,
    pool: Pool,
    played: Mapping[tuple[str, int], Played],
    normalisation: Normalisation,
) -> VecEnv:
    native = BatchingVecEnv(
        rows,
        scenario=pool.scenarios,
        seeds=pool.seeds,
        table=config.env_kwargs.table(),
        decision_interval_ms=config.env_kwargs.decision_interval_ms,
        threads=1,
    )
    native.envs.task.remember(pool.runs)
    env: VecEnv = GainReward(native, played)
    if config.frame_stack > 1:
        env = VecFrameStack(env, config.frame_stack)
    return FixedNormalisation(env, normalisation.mean, normalisation.std, config.clip_obs)


class _Telling(BaseCallback):  # type: ignore[misc, unused-ignore]
    """Says how many decisions were taken."""

    def __init__(self, on_steps: OnSteps | None) -> None:
        super().__init__()
        self._tell = on_steps

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self._tell is not None:
            self._tell(self.num_timesteps)
