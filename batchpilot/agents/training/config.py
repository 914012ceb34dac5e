"""Training files: the hyperparameters of PPO, what the policy moves, what it is trained on and what it is judged by.

As in rl-zoo, the top-level key is the environment's id. Nothing in a file is evaluated as code.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError, model_validator

from batchpilot.agents.training.ppo import Count, PPOConfig
from batchpilot.agents.training.randomisation import Randomisation, Range
from batchpilot.baselines.static import SERVER_DEFAULT
from batchpilot.configs.errors import ConfigError
from batchpilot.configs.kinds import wrong_kind
from batchpilot.configs.reading import YamlFile, read_yaml
from batchpilot.configs.strict import StrictModel, config_error, problem
from batchpilot.core.actions import MOVES, ActionTable
from batchpilot.core.grids import GRIDS, Grid
from batchpilot.core.limits import TRACKS, Limits
from batchpilot.core.names import lookup, unknown_name
from batchpilot.envs.registration import ENV_ID

_FOLDER = Path(__file__).parents[2] / "configs" / "training"

Config = TypeVar("Config", bound=StrictModel)


class EnvKwargs(StrictModel):
    """What the actions move, and within which bounds.

    Attributes:
        track: the track that the policy competes in.
        fields: the limits that it moves; None for all of the track's.
        action_mode: relative or absolute.
        moves: notches that a relative action can move by.
        base: the limits that an episode starts from; one that is off and bounded starts at its upper bound, which for
            `step_target_ms` is a multiple of the TPOT target, so that one policy serves any target.
        bounds: lowest and highest value of a limit on its grid, by name; a limit not named has the whole grid.
        decision_interval_ms: engine time of a decision; None takes each scenario's.
    """

    track: str = "guarded"
    fields: list[str] | None = None
    action_mode: str = "relative"
    moves: list[int] = Field(default_factory=lambda: list(MOVES))
    base: dict[str, Any] = Field(default_factory=SERVER_DEFAULT.to_dict)
    bounds: dict[str, Range] = Field(default_factory=dict)
    decision_interval_ms: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _makes_a_table(self) -> EnvKwargs:
        try:
            allowed = lookup(TRACKS, self.track, "track")
            for name in (*(self.fields or ()), *self.bounds):
                lookup(dict.fromkeys(allowed), name, f"limit of track {self.track}")
            self.table()
        except (ValueError, TypeError) as error:
            raise problem(str(error)) from None
        return self

    def table(self) -> ActionTable:
        """What the actions mean.

        Raises:
            ValueError: the base is no limits, or bounds leave no notch.
        """
        fields = self.fields or list(TRACKS[self.track])
        grids = [_within(GRIDS[name], self.bounds.get(name)) for name in fields]
        base = Limits.from_dict(self.base)
        return ActionTable(fields, base, self.action_mode, moves=self.moves, grids=grids)


def _within(grid: Grid, bounds: Range | None) -> Grid:
    """The notches of a grid between two values; one that misses an end by rounding counts."""
    if bounds is None:
        return grid
    kept = tuple(value for value in grid.values if 0.99 * bounds.low <= value <= 1.01 * bounds.high)
    return replace(grid, values=kept)


class WarmStart(StrictModel):
    """How the policy is fitted to hindsight before PPO starts; for relative actions.

    Attributes:
        runs: runs that lessons are taken from.
        rounds: parts of the runs; after the first, what is tried lies about where the policy of the rounds before is.
        levels: notches of each limit's grid that are tried; the lattice has this many to the power of the limits.
        horizon: windows over which a setting is judged.
        moments: lessons in all, about.
        least_gain: gain in goodput share below which staying is preferred.
        steps: gradient steps of the last round; the others have half of them.
        batch_size: lessons in each.
        learning_rate: falls to zero.
        entropy: weight of the entropy, which keeps PPO exploring.
    """

    runs: Count = 256
    rounds: Count = 2
    levels: Annotated[int, Field(ge=2)] = 6
    horizon: Count = 30
    moments: Count = 300_000
    least_gain: Annotated[float, Field(ge=0)] = 0.002
    steps: Count = 3000
    batch_size: Count = 2048
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    entropy: Annotated[float, Field(ge=0)] = 0.001

    @model_validator(mode="after")
    def _every_round_has_a_run(self) -> WarmStart:
        if self.rounds > self.runs:
            raise problem(f"{self.rounds} rounds of {self.runs} runs: each needs one at least", "rounds")
        return self


class Validation(StrictModel):
    """What a policy is judged by while it trains: scenarios that share no seed and no device with training.

    Attributes:
        suite: scenarios without a trace of this suite; None for none.
        seeds: runs of each.
        drawn: runs drawn from the ranges of training, on these devices.
        devices: catalogue names.
    """

    suite: str | None = "validation"
    seeds: Count = 2
    drawn: Annotated[int, Field(ge=0)] = 96
    devices: list[str] = Field(default_factory=list)


class TrainingConfig(PPOConfig):
    """A whole training file.

    Attributes:
        hold_bias: logit of "stay" above that of the other actions at the start, so that training begins at the base.
        frame_stack: windows that the policy sees at once.
        clip_obs: normalised observations are clipped to plus and minus this.
        env_kwargs: what actions move.
        randomisation: what scenarios are drawn from; None where `scenarios` are given.
        scenarios: scenarios or suites to train on instead.
        warm_start: how the policy is fitted to hindsight first; None starts from staying at the base.
        pool: runs prepared for each segment.
        segment_timesteps: decisions between two checkpoints. A segment depends on its checkpoint and seed alone.
        patience: segments without a better validation score before training stops.
        validation: what it is judged by.
        seeds: seeds to train with; the best on validation is kept.
    """

    hold_bias: Annotated[float, Field(ge=0)] = 3.0
    frame_stack: Count = 1
    clip_obs: Annotated[float, Field(gt=0)] = 5.0
    env_kwargs: EnvKwargs = EnvKwargs()
    randomisation: Randomisation | None = None
    scenarios: list[str] | None = None
    warm_start: WarmStart | None = None
    pool: Count = 512
    segment_timesteps: Count = 200_000
    patience: Count = 8
    validation: Validation = Validation()
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=1000)]], Field(min_length=1)] = Field(
        default_factory=lambda: [0]
    )

    @model_validator(mode="after")
    def _one_source(self) -> TrainingConfig:
        if (self.randomisation is None) == (self.scenarios is None):
            given = "neither" if self.scenarios is None else "both"
            raise problem(f"{given} of randomisation and scenarios given; give exactly one")
        if self.randomisation is not None:
            shared = set(self.randomisation.devices) & set(self.validation.devices)
            if shared:
                raise problem(f"{', '.join(sorted(shared))} in training and in validation", "validation", "devices")
        return self

    def changed(self, **changes: Any) -> TrainingConfig:
        """The same configuration with some keys replaced, validated anew.

        Args:
            **changes: new values by key.

        Raises:
            ConfigError: a value is not allowed.
        """
        data = self.model_dump() | changes
        return _validated(TrainingConfig, YamlFile(Path("<options>"), {ENV_ID: data}, {}), ENV_ID)


def training_names() -> list[str]:
    """Names of the shipped training files."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_training_config(name: str | Path) -> TrainingConfig:
    """A training file.

    Args:
        name: a shipped one's name, or a path.

    Raises:
        ConfigError: no such file, an unknown key, or a value that is not allowed; the message names file, line and key.
        OSError: the file cannot be read.
    """
    return _validated(TrainingConfig, read_yaml(training_file(name)), ENV_ID)


def load_ppo_config(name: str | Path, env_id: str) -> PPOConfig:
    """The hyperparameters for another environment.

    Args:
        name: a shipped file's name, or a path.
        env_id: its top-level key.

    Raises:
        ConfigError: no such file or key, or a value that is not allowed.
        OSError: the file cannot be read.
    """
    return _validated(PPOConfig, read_yaml(training_file(name)), env_id)


def training_file(name: str | Path) -> Path:
    """Where a training file lies.

    Args:
        name: a shipped one's name, or a path.

    Raises:
        ConfigError: neither; the message names the shipped ones.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        return path
    if str(name) not in training_names():
        raise ConfigError(unknown_name(str(name), training_names(), "training file"))
    return _FOLDER / f"{name}.yaml"


def _validated(kind: type[Config], file: YamlFile, env_id: str) -> Config:
    if told := wrong_kind(file.path, file.data, "training"):
        raise ConfigError(told)
    if set(file.data) != {env_id}:
        found = ", ".join(map(str, file.data)) or "nothing"
        raise ConfigError(f"a training file holds {env_id} and nothing else; found {found} ({file.where()})")
    below = {place[1:]: line for place, line in file.lines.items() if len(place) > 1}
    try:
        return kind.model_validate(file.data[env_id])
    except ValidationError as error:
        raise config_error(error, YamlFile(file.path, file.data, below)) from None
